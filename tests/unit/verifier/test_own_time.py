"""What counts against a time limit, with hand-computed numbers."""

import pytest

from services.verifier.sandbox.own_time import OwnTime
from services.verifier.sandbox.usage import Usage


def used(cpu_s: float, **waits_s: float) -> Usage:
    """A usage; threads are named t1, t2, …"""
    return Usage(len(waits_s), 0, cpu_s, {int(name[1:]): wait for name, wait in waits_s.items()})


def started(*processes: int) -> OwnTime:
    own = OwnTime()
    for process in processes:
        own.start(process, 0.0)
    return own


def test_sleeping_counts_and_is_in_doubt() -> None:
    own = OwnTime()
    own.start(1, 100.0)
    assert own.charge(1, used(0.0, t1=0.0), 103.0) == pytest.approx((3.0, 3.0))
    assert own.charge(1, used(0.0, t1=0.0), 104.0) == pytest.approx((4.0, 4.0))
    assert own.charge(1, used(0.5, t1=0.0), 104.5) == pytest.approx((4.5, 0.0))  # so it had slept


def test_waiting_for_a_core_does_not_count() -> None:
    own = started(1)
    assert own.charge(1, used(0.5, t1=2.0), 3.0) == pytest.approx((1.0, 0.5))  # half a second computing, half asleep
    assert own.charge(1, used(0.6, t1=2.9), 4.0) == pytest.approx((1.1, 0.0))


def test_a_long_wait_is_in_doubt_until_it_is_over() -> None:
    own = started(1)
    assert own.charge(1, used(0.1, t1=0.0), 0.1) == pytest.approx((0.1, 0.0))
    assert own.charge(1, used(0.1, t1=0.0), 5.1) == pytest.approx((5.1, 5.0))
    assert own.charge(1, used(0.1, t1=0.0), 9.1) == pytest.approx((9.1, 9.0))
    assert own.charge(1, used(0.1, t1=10.0), 10.1) == pytest.approx((0.1, 0.0))


def test_threads_that_wait_at_the_same_time_do_not_hide_each_other() -> None:
    own = started(1)
    assert own.charge(1, used(0.0, t1=0.4, t2=0.9), 1.0)[0] == pytest.approx(0.1)
    assert own.charge(1, used(0.0, t1=1.4, t2=0.9), 2.0)[0] == pytest.approx(0.1)  # now the other waited


def test_a_thread_that_ended_does_not_take_its_wait_back() -> None:
    own = started(1)
    own.charge(1, used(0.0, t1=0.0, t2=0.9), 1.0)
    assert own.charge(1, used(0.0, t1=0.0), 2.0)[0] == pytest.approx(1.1)
    assert own.charge(1, used(0.0, t1=0.0, t2=0.2), 3.0)[0] == pytest.approx(2.1)  # another with the same number


def test_cpu_time_of_all_threads_counts() -> None:
    assert started(1).charge(1, used(3.5, t1=0.9, t2=0.9), 2.0) == pytest.approx((3.5, 0.0))


def test_two_processes_of_one_test_share_its_time() -> None:
    own = started(1)
    own.start(2, 5.0)  # the test did not start later
    own.charge(1, used(0.5, t1=4.0), 6.0)
    assert own.charge(2, used(0.5, t2=0.5), 6.0) == pytest.approx((1.5, 0.0))
