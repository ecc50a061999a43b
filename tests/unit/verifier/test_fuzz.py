"""Any text at all through extraction and normalisation: no exception escapes, and none takes as long as a grading may.

`TREERL_FUZZ=100000` sets the number of inputs of each property (give pytest `--timeout=0` with it); a few hundred are
tried by default.
"""

import os
from datetime import timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.verifier.answer_extraction import MAX_ANSWER_LENGTH, extract_answer, unwrap
from services.verifier.code_extraction import extract_program
from services.verifier.languages import LANGUAGES
from services.verifier.math_numbers import read_chosen, read_number, read_special
from services.verifier.math_structure import as_tuple, read_structure, read_union, without_name
from services.verifier.math_text import normalise, plain_text
from services.verifier.math_units import without_unit_letter
from services.verifier.settings import VerifierSettings
from tests.latex_texts import repeated, texts

fuzzed = settings(
    max_examples=int(os.environ.get("TREERL_FUZZ", "300")),
    deadline=timedelta(seconds=VerifierSettings().math_timeout_s),
    suppress_health_check=[HealthCheck.too_slow],
)


@fuzzed
@given(st.one_of(texts, repeated))
def test_any_response_has_an_answer_within_the_bound_or_none(response: str) -> None:
    answer = extract_answer(response)
    assert answer is None or 0 < len(answer) <= MAX_ANSWER_LENGTH
    unwrap(response)
    for language in LANGUAGES.values():
        program = extract_program(response, language)
        assert program is None or program.strip()


@fuzzed
@given(st.one_of(texts, repeated).map(lambda text: text[:MAX_ANSWER_LENGTH]))
def test_any_answer_has_a_normal_form(answer: str) -> None:
    plain_text(answer)
    formula = normalise(answer).formula
    readers = (read_number, read_special, read_chosen, read_structure, read_union, without_name, as_tuple)
    for read in (*readers, without_unit_letter):
        read(formula)
