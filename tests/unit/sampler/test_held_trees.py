"""Trees held for clients: released, expired, pushed out."""

import time

import pytest

from services.common.errors import NotFoundError
from services.common.tree import SearchParameters
from services.sampler.growing_tree import GrowingTree
from services.sampler.held_trees import HeldTrees
from tests.builders import request
from tests.scripted_engine import DigitCodec, ScriptedEngine


def a_tree() -> GrowingTree:
    return GrowingTree(ScriptedEngine(), DigitCodec(), request(SearchParameters(1)))


def test_a_released_tree_is_not_found() -> None:
    held = HeldTrees(capacity=2, ttl_s=60)
    held.hold("a", a_tree())
    held.release("a")
    with pytest.raises(NotFoundError, match="no tree 'a' is held"):
        held.get("a")


def test_the_least_recently_used_tree_goes_first() -> None:
    held = HeldTrees(capacity=2, ttl_s=60)
    held.hold("a", a_tree())
    held.hold("b", a_tree())
    held.get("a")
    held.hold("c", a_tree())
    with pytest.raises(NotFoundError):
        held.get("b")
    assert held.get("a") is not None


def test_an_unused_tree_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    held = HeldTrees(capacity=2, ttl_s=60)
    held.hold("a", a_tree())
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    with pytest.raises(NotFoundError):
        held.get("a")
