"""How work is dealt out to processes."""

from hypothesis import given
from hypothesis import strategies as st

from services.trainer.processes import deal


def test_the_largest_come_first_one_to_each_in_turn() -> None:
    sizes = [10, 50, 30, 40, 20]
    assert [deal(sizes, rank, 2) for rank in range(2)] == [([1, 2, 0], 0), ([3, 4], 1)]
    assert [deal([7], rank, 3) for rank in range(3)] == [([0], 0), ([], 1), ([], 1)]


@given(st.lists(st.integers(1, 1000)), st.integers(1, 9))
def test_all_is_dealt_once_evenly_and_in_as_many_rounds(sizes: list[int], processes: int) -> None:
    hands = [deal(sizes, rank, processes) for rank in range(processes)]

    assert sorted(index for mine, _ in hands for index in mine) == list(range(len(sizes)))
    assert len({len(mine) + idle for mine, idle in hands}) == 1
    sums = [sum(sizes[index] for index in mine) for mine, _ in hands]
    assert max(sums) - min(sums) <= max(sizes, default=0)
