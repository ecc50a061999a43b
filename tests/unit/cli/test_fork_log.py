"""The forks of recorded trees, by hand-computed numbers.

A token is its first digit: 1xx "7", 2xx "+", 3xx " so", 4xx the end token.
"""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.fork_log import expected_at_random, list_forks
from services.cli.fork_table import ALL, ForkRow, fork_tables, json_tables
from services.common.token_class import TokenClass
from services.common.tree import Branch, ForkSelection, SearchParameters, Tree
from services.common.verdict import Outcome, Verdict
from tests.builders import branch, tree

TEXTS = {1: "7", 2: "+", 3: " so", 4: "<end>"}
CLASSES = {1: TokenClass.DIGIT, 2: TokenClass.OPERATOR, 3: TokenClass.WORD, 4: TokenClass.OTHER}
DIGIT, OPERATOR, WORD, END = 100, 200, 300, 400


class Tokens:
    special_token_ids = frozenset({END})

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.text(token) for token in token_ids if token != END)

    def text(self, token_id: int) -> str:
        return TEXTS[token_id // 100]

    def token_class(self, token_id: int) -> TokenClass:
        return CLASSES[token_id // 100]


def graded(
    branch_id: int, fork: tuple[int, int] | None, tokens: Sequence[int], outcome: Outcome | None, answer: str = ""
) -> Branch:
    """Token i of a branch has a surprisal of i nats."""
    parent, position = fork or (None, 0)
    made = branch(branch_id, parent, position, len(tokens))
    logprobs = tuple(-float(index) for index in range(len(tokens)))
    verdict = None if outcome is None else Verdict(outcome, "", 0.0, answer)
    return replace(made, token_ids=tuple(tokens), logprobs=logprobs, verdict=verdict)


def searched(*branches: Branch, rounds: int = 1, **changes: object) -> Tree:
    return replace(tree(*branches), search=SearchParameters(1, 2, rounds, 2, **changes))


CHAIN = graded(0, None, (WORD, DIGIT, OPERATOR, DIGIT, END), Outcome.WRONG, "8")
FORKED = searched(
    CHAIN,
    graded(1, (0, 2), (WORD, END), Outcome.CORRECT, "7"),
    graded(2, (0, 2), (DIGIT, END), Outcome.CORRECT, "7.0"),
    graded(3, (0, 3), (DIGIT, END), Outcome.WRONG, "8"),
    graded(4, (0, 3), (OPERATOR, END), Outcome.WRONG, "9"),
)


def test_a_fork_tells_the_token_it_replaced_and_what_it_brought() -> None:
    first, second = list_forks(FORKED, Tokens())
    assert (first.parent_id, first.position, first.depth, first.branch_ids) == (0, 2, 0, (1, 2))
    assert (first.text, first.token_class, first.surprisal) == ("+", TokenClass.OPERATOR, 2.0)
    assert (first.changed, first.new_answers) == (True, 1)  # "7" and "7.0" are both the gold answer
    assert (second.position, second.text, second.surprisal, second.branch_ids) == (3, "7", 3.0, (3, 4))
    assert (second.changed, second.new_answers) == (False, 1)  # still wrong, but "9" is new


def test_a_fork_of_a_branch_counts_positions_in_the_response_and_the_forks_above() -> None:
    deep = searched(
        CHAIN,
        graded(1, (0, 2), (WORD, DIGIT, DIGIT, END), Outcome.WRONG, "8"),
        graded(2, (1, 4), (OPERATOR, END), Outcome.WRONG, "8"),
        rounds=2,
    )
    assert [(f.parent_id, f.position, f.depth, f.text, f.surprisal) for f in list_forks(deep, Tokens())] == [
        (0, 2, 0, "+", 2.0),
        (1, 4, 1, "7", 2.0),
    ]


@pytest.mark.parametrize(
    ("before", "after", "changed", "new_answers"),
    [
        ((Outcome.WRONG, "8"), (Outcome.WRONG, "8"), False, 0),
        ((Outcome.WRONG, "8"), (Outcome.UNPARSED, ""), False, 0),
        ((Outcome.CORRECT, "7"), (Outcome.UNPARSED, ""), True, 0),
        ((Outcome.UNPARSED, ""), (Outcome.CORRECT, "7"), True, 1),
        ((Outcome.WRONG, "8"), (Outcome.INFRA_ERROR, "9"), None, 1),
        ((Outcome.INFRA_ERROR, ""), (Outcome.WRONG, "8"), None, 1),
        ((None, ""), (None, ""), None, 0),
    ],
)
def test_what_is_not_known_is_neither_change_nor_standstill(
    before: tuple[Outcome | None, str], after: tuple[Outcome | None, str], changed: bool | None, new_answers: int
) -> None:
    forked = searched(graded(0, None, (WORD, DIGIT), *before), graded(1, (0, 1), (DIGIT,), *after))
    [fork] = list_forks(forked, Tokens())
    assert (fork.changed, fork.new_answers) == (changed, new_answers)


def test_at_random_each_chains_forks_spread_over_the_tokens_it_could_fork() -> None:
    # chain 0 can be forked at a digit, an operator and a digit, and was forked twice; chain 5 at a word alone, once;
    # chain 7 was not forked
    both = searched(
        *FORKED.branches,
        graded(5, None, (WORD, WORD, END), Outcome.WRONG),
        graded(6, (5, 1), (DIGIT, END), Outcome.WRONG),
        graded(7, None, (WORD, OPERATOR, END), Outcome.WRONG),
    )
    expected = {TokenClass.DIGIT: 2 * 2 / 3, TokenClass.OPERATOR: 2 * 1 / 3, TokenClass.WORD: 1.0}
    assert expected_at_random(both, Tokens()) == pytest.approx(expected)


def test_at_random_nothing_masked_is_expected() -> None:
    masked = replace(FORKED, search=replace(FORKED.search, answer_markers=("7+7",)))
    expected = {TokenClass.DIGIT: 2 * 1 / 2, TokenClass.OPERATOR: 2 * 1 / 2}
    assert expected_at_random(masked, Tokens()) == pytest.approx(expected)


def test_at_random_branches_are_forked_too_where_rounds_are_left() -> None:
    chain = graded(0, None, (WORD, DIGIT, END), Outcome.WRONG)
    once = graded(1, (0, 1), (DIGIT, OPERATOR, END), Outcome.WRONG)
    twice = graded(2, (1, 2), (WORD, WORD, WORD, END), Outcome.WRONG)
    expected = {TokenClass.DIGIT: 2 * 1 / 2, TokenClass.OPERATOR: 2 * 1 / 2}  # not the words of the last round
    assert expected_at_random(searched(chain, once, twice, rounds=2), Tokens()) == pytest.approx(expected)


def rows_of(*trees: Tree) -> dict[str, ForkRow]:
    [table] = fork_tables("run", trees, Tokens())
    return {row.label: row for row in table.rows}


def test_the_table_has_a_row_a_class_that_was_or_could_have_been_forked() -> None:
    unforked_word = searched(
        graded(0, None, (DIGIT, WORD, DIGIT, OPERATOR, OPERATOR, END), Outcome.CORRECT, "7"),
        graded(1, (0, 2), (DIGIT, END), Outcome.WRONG, "1"),
        graded(2, (0, 2), (DIGIT, END), Outcome.INFRA_ERROR),
    )
    rows = rows_of(FORKED, unforked_word)
    assert list(rows) == [ALL, "digit", "operator", "word"]
    assert {label: row.forks.correct for label, row in rows.items()} == {ALL: 3, "digit": 2, "operator": 1, "word": 0}
    assert rows["digit"].at_random == pytest.approx((4 / 3 + 1 / 4) / 3)
    assert rows["operator"].at_random == pytest.approx((2 / 3 + 2 / 4) / 3)
    assert rows["word"].at_random == pytest.approx((1 / 4) / 3)
    assert (rows[ALL].surprisal, rows["digit"].surprisal, rows["word"].surprisal) == (pytest.approx(7 / 3), 2.5, None)
    assert (rows["digit"].changed.correct, rows["digit"].changed.total) == (1, 2)
    assert (rows[ALL].new_answers, rows["word"].new_answers) == (1.0, None)
    assert rows[ALL].frequent == ("7", "+")


def test_selections_have_tables_of_their_own_and_chains_none() -> None:
    by_chance = replace(FORKED, search=replace(FORKED.search, selection=ForkSelection.RANDOM))
    tables = fork_tables("run", [by_chance, searched(CHAIN), FORKED, FORKED], Tokens())
    assert [(table.selection, table.rows[0].forks.total) for table in tables] == [
        (ForkSelection.SURPRISAL, 4),
        (ForkSelection.RANDOM, 2),
    ]
    assert fork_tables("run", [searched(CHAIN)], Tokens()) == []


def test_tables_as_json_name_their_units_and_leave_open_what_is_unknown() -> None:
    ungraded = searched(graded(0, None, (WORD, DIGIT), None), graded(1, (0, 1), (DIGIT,), None))
    [table] = json_tables(fork_tables("run", [ungraded], Tokens()))
    assert (table["run"], table["selection"]) == ("run", "surprisal")
    assert table["rows"][1] == {
        "token_class": "digit",
        "forks": 1,
        "share": 1.0,
        "share_at_random": 1.0,
        "mean_surprisal_nats": 1.0,
        "changed": None,
        "changed_ci95": None,
        "new_answers_per_fork": 0.0,
        "frequent_tokens": ["7"],
    }


@given(st.lists(st.sampled_from([DIGIT, OPERATOR, WORD]), min_size=3, max_size=12), st.data())
def test_shares_of_forks_and_at_random_both_add_up_to_one(tokens: list[int], data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(1, len(tokens) - 1), min_size=1, unique=True))
    chain = graded(0, None, tokens, Outcome.WRONG)
    branches = [graded(i, (0, p), (DIGIT,), Outcome.WRONG) for i, p in enumerate(positions, start=1)]
    rows = rows_of(searched(chain, *branches))
    classes = [row for label, row in rows.items() if label != ALL]
    assert sum(row.forks.value for row in classes) == pytest.approx(1)
    assert sum(row.at_random for row in classes) == pytest.approx(1)
