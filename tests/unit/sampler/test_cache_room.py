"""Room for trees in flight in the prefix cache."""

import pytest

from services.sampler.cache_room import CacheRoom


def test_trees_fit_up_to_the_last_token() -> None:
    room = CacheRoom(100)
    with room.take(60) as first, room.take(40) as second, room.take(1) as third:
        assert (first, second, third) == (True, True, False)


def test_a_tree_that_has_ended_makes_room_whatever_ended_it() -> None:
    room = CacheRoom(100)
    with pytest.raises(ValueError, match="lost"), room.take(100):
        raise ValueError("lost")
    with room.take(100) as fits:
        assert fits
