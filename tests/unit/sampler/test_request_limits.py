"""What a call may ask for."""

from dataclasses import replace
from pathlib import Path

import pytest

from services.common.errors import InvalidRequestError, PreconditionError
from services.common.tree import SearchParameters
from services.sampler.growing_tree import GrowingTree
from services.sampler.request_limits import RequestLimits
from services.sampler.settings import SamplerSettings
from tests.builders import PROBLEM, request
from tests.scripted_engine import DigitCodec, ScriptedEngine

LIMITS = RequestLimits(
    SamplerSettings(model=Path("model"), max_model_tokens=100, max_tree_leaves=30, max_tree_tokens=1000)
)


@pytest.mark.parametrize(
    ("search", "max_tokens", "complaint"),
    [
        (SearchParameters(31), 1, "a tree of 31 leaves: expected at most 30"),
        (SearchParameters(6, 2, 1, 3), 1, "a tree of 42 leaves: expected at most 30"),
        (SearchParameters(2**32 - 1, 2**32 - 1, 32, 2**32 - 1), 2**32 - 1, "leaves: expected at most 30"),
        (SearchParameters(10), 101, "10 leaves with max_tokens 101: expected a product of at most 1000"),
        (SearchParameters(1, 0, 33, 1), 1, "33 rounds: expected at most 32"),
        (SearchParameters(1, 7, 1, 0), 1, "7 forks of 0 branches"),
    ],
)
def test_a_search_that_is_too_large_is_refused_with_the_numbers(
    search: SearchParameters, max_tokens: int, complaint: str
) -> None:
    with pytest.raises(InvalidRequestError, match=complaint):
        LIMITS.check(request(search, max_tokens=max_tokens))


@pytest.mark.parametrize(("search", "max_tokens"), [(SearchParameters(6, 2, 1, 2), 33), (SearchParameters(10), 100)])
def test_the_largest_search_passes(search: SearchParameters, max_tokens: int) -> None:
    LIMITS.check(request(search, max_tokens=max_tokens))


def test_a_prompt_that_cannot_fit_is_not_encoded() -> None:
    asked = request(SearchParameters(1))
    LIMITS.check(replace(asked, problem=replace(PROBLEM, prompt="x" * 3200)))
    with pytest.raises(InvalidRequestError, match="the prompt has 3201 characters: expected at most 3200"):
        LIMITS.check(replace(asked, problem=replace(PROBLEM, prompt="x" * 3201)))


async def test_a_held_tree_grows_up_to_the_bound_of_any_tree() -> None:
    growing = GrowingTree(ScriptedEngine(), DigitCodec(), request(SearchParameters(1), max_tokens=20))
    await growing.sample_chain(0)
    LIMITS.check_growth(growing, 29)
    with pytest.raises(InvalidRequestError, match="a tree of 31 leaves"):
        LIMITS.check_growth(growing, 31)
    with pytest.raises(PreconditionError, match="the tree has or awaits 1 leaves and cannot get 30 more: a tree of 31"):
        LIMITS.check_growth(growing, 30)
    await growing.fork(0, 1, 29)
    with pytest.raises(PreconditionError, match="has or awaits 30 leaves"):
        LIMITS.check_growth(growing, 1)
