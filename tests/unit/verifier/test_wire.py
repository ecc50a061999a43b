"""Values between the process that holds a program and the one that asserts about it."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from services.verifier.sandbox.inside import wire


def no_objects(value: object) -> int:
    raise AssertionError(f"{value!r} was not taken for data")


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        3,
        -(10**40),
        pytest.param(10**6000, id="large"),
        2.5,
        float("inf"),
        "text",
        b"\x00\xff",
        [1, (2, {3}), {"k": [4]}],
        {(1, 2): frozenset({3})},
        complex(1, -2),
        Fraction(1, 3),
        Decimal("0.10"),
    ],
)
def test_data_arrive_as_they_were(value: Any) -> None:
    arrived = wire.decode(wire.encode(value, no_objects), no_objects)
    assert arrived == value
    assert type(arrived) is type(value)


def test_objects_go_as_handles() -> None:
    assert wire.encode([object()], lambda value: 7) == [{"object": 7}]
    assert wire.decode({"object": 7}, lambda handle: f"object {handle}") == "object 7"


@pytest.mark.parametrize(
    "message",
    [
        {"unknown": 1},
        {},
        {"int": "x"},
        {"int": 5},
        {"set": [[1]]},
        {"dict": [1]},
        {"bytes": "zz"},
        {"fraction": ["0x1", "0x0"]},
        {"decimal": "x"},
        {"tuple": 3},
    ],
)
def test_what_no_honest_process_sends_is_refused(message: Any) -> None:
    with pytest.raises(wire.PeerError):
        wire.decode(message, no_objects)
