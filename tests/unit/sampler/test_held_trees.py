"""Trees held for clients: released, expired, pushed out, in use."""

import itertools
import time
from dataclasses import replace

import pytest

from services.common.errors import NotFoundError
from services.common.tree import SearchParameters
from services.sampler.growing_tree import GrowingTree
from services.sampler.held_trees import GONE_REMEMBERED, HeldTrees
from tests.builders import request
from tests.scripted_engine import DigitCodec, ScriptedEngine


class Clock:
    """Replaces the time by one that tests set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def a_tree(tree_id: str, tokens: int = 1) -> GrowingTree:
    """A tree of a prompt of so many tokens."""
    asked = request(SearchParameters(1))
    problem = replace(asked.problem, prompt="7" * tokens)
    return GrowingTree(ScriptedEngine(), DigitCodec(), replace(asked, tree_id=tree_id, problem=problem))


def use(held: HeldTrees, tree_id: str) -> None:
    with held.using(tree_id) as tree:
        assert tree.tree_id == tree_id


def test_a_released_tree_is_not_found() -> None:
    held = HeldTrees(max_trees=2, max_tokens=100, ttl_s=60)
    held.hold(a_tree("a"))
    held.release("a")
    with pytest.raises(NotFoundError, match="tree 'a' was released"):
        use(held, "a")
    with pytest.raises(NotFoundError, match="tree 'a' was released"):
        held.release("a")


def test_a_tree_that_never_was_is_told_apart_from_one_that_is_gone() -> None:
    held = HeldTrees(max_trees=2, max_tokens=100, ttl_s=60)
    with pytest.raises(NotFoundError, match="no tree 'a' is held: it was never started on this sampler"):
        use(held, "a")


def test_the_least_recently_used_tree_goes_first() -> None:
    held = HeldTrees(max_trees=2, max_tokens=100, ttl_s=60)
    held.hold(a_tree("a"))
    held.hold(a_tree("b"))
    use(held, "a")
    held.hold(a_tree("c"))
    with pytest.raises(NotFoundError, match="tree 'b' was the least recently used one .* at most 2 trees"):
        use(held, "b")
    use(held, "a")
    use(held, "c")


def test_trees_go_until_their_tokens_fit() -> None:
    held = HeldTrees(max_trees=10, max_tokens=100, ttl_s=60)
    for tree_id in "abc":
        held.hold(a_tree(tree_id, tokens=30))
    held.hold(a_tree("d", tokens=50))
    with pytest.raises(NotFoundError, match="tree 'a' .* 100 tokens are held"):
        use(held, "a")
    with pytest.raises(NotFoundError, match="tree 'b' "):
        use(held, "b")
    use(held, "c")
    use(held, "d")


async def test_tokens_that_a_fork_adds_count_when_it_ends() -> None:
    held = HeldTrees(max_trees=10, max_tokens=40, ttl_s=60)
    held.hold(a_tree("a", tokens=30))
    held.hold(a_tree("b", tokens=10))
    with held.using("b") as tree:
        await tree.sample_chain(0)
    assert tree.num_tokens > 10
    with pytest.raises(NotFoundError, match="tree 'a' "):
        use(held, "a")


def test_the_last_tree_stays_however_large() -> None:
    held = HeldTrees(max_trees=10, max_tokens=100, ttl_s=60)
    held.hold(a_tree("a", tokens=500))
    use(held, "a")


def test_an_unused_tree_expires(clock: Clock) -> None:
    held = HeldTrees(max_trees=2, max_tokens=100, ttl_s=60)
    held.hold(a_tree("a"))
    clock.now = 59
    use(held, "a")
    clock.now = 59 + 60
    use(held, "a")
    clock.now = 59 + 60 + 61
    with pytest.raises(NotFoundError, match="tree 'a' went unused for 60 s"):
        use(held, "a")
    assert len(held) == 0


def test_a_tree_in_use_neither_expires_nor_is_pushed_out(clock: Clock) -> None:
    held = HeldTrees(max_trees=1, max_tokens=1, ttl_s=60)
    held.hold(a_tree("a"))
    with held.using("a"):
        clock.now = 1000
        held.hold(a_tree("b"))
        held.hold(a_tree("c"))
        use(held, "a")
        with pytest.raises(NotFoundError, match="tree 'b' "):
            use(held, "b")
    clock.now = 1060
    use(held, "a")


def test_a_tree_that_is_released_in_use_goes_on_for_those_who_use_it() -> None:
    held = HeldTrees(max_trees=1, max_tokens=100, ttl_s=60)
    held.hold(a_tree("a"))
    with held.using("a") as tree:
        held.release("a")
        assert tree.tree_id == "a"
    assert len(held) == 0


def test_what_is_remembered_of_gone_trees_is_bounded() -> None:
    held = HeldTrees(max_trees=1, max_tokens=100, ttl_s=60)
    for number in itertools.chain(["first"], range(GONE_REMEMBERED)):
        held.hold(a_tree(f"{number}"))
        held.release(f"{number}")
    with pytest.raises(NotFoundError, match="no tree 'first' is held: .* or is long gone"):
        use(held, "first")
    with pytest.raises(NotFoundError, match="tree '0' was released"):
        use(held, "0")
