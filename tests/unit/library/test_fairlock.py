# SPDX-License-Identifier: Apache-2.0
"""The fair mutex."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from tests.support.deadline import SECONDS
from tests.support.tracker import Arrivals, joined
from tracker_worker.library import fairlock
from tracker_worker.library.fairlock import FairLock


class Interrupted(BaseException):
    """The exception of a signal handler."""


def waiting(lock: FairLock) -> Arrivals:
    """Replace the queue of ``lock`` by a queue that signals arrivals."""
    arrivals = lock._waiting = Arrivals()
    return arrivals


def test_only_one_thread_holds_the_lock() -> None:
    lock = FairLock()
    inside = 0
    worst = 0
    together = threading.Barrier(8)

    def work() -> None:
        nonlocal inside, worst
        together.wait(SECONDS)
        for _ in range(500):
            with lock:
                inside += 1
                worst = max(worst, inside)
                inside -= 1

    threads = [threading.Thread(daemon=True, target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    joined(*threads)
    assert (inside, worst) == (0, 1)


def test_waiters_are_served_in_order_of_arrival() -> None:
    lock = FairLock()
    arrivals = waiting(lock)
    served: list[int] = []

    def work(number: int) -> None:
        with lock:
            served.append(number)

    threads = [threading.Thread(daemon=True, target=work, args=(number,)) for number in range(20)]
    with lock:
        for thread in threads:
            thread.start()
            arrivals.next()
        assert served == []
    joined(*threads)
    assert served == list(range(20))


def test_no_thread_overtakes_a_waiter_between_release_and_wake_up() -> None:
    lock = FairLock()
    arrivals = waiting(lock)
    served: list[str] = []

    def wait() -> None:
        with lock:
            served.append("waiter")

    waiter = threading.Thread(daemon=True, target=wait)
    with lock:
        waiter.start()
        arrivals.next()
    # The release has handed the lock to the waiter: a newcomer comes after it, even before the waiter wakes up.
    with lock:
        served.append("newcomer")
    joined(waiter)
    assert served == ["waiter", "newcomer"]


def test_an_exception_in_the_block_releases_the_lock() -> None:
    lock = FairLock()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    with lock:
        pass


class InterruptedTurn:
    """A waiter's turn whose wait is interrupted after a call of ``before``."""

    before: Callable[[], None]

    def __init__(self) -> None:
        self._waits = False

    def acquire(self) -> None:
        if self._waits:
            type(self).before()
            raise Interrupted
        self._waits = True

    def release(self) -> None:
        """The release has no effect: the waiter has been interrupted."""


@pytest.mark.parametrize("handed_over", [False, True])
def test_an_interrupted_waiter_does_not_block_the_next_waiter(
    handed_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = FairLock()
    arrivals = waiting(lock)
    served = threading.Event()

    def wait() -> None:
        with lock:
            served.set()

    other = threading.Thread(daemon=True, target=wait)

    def meanwhile() -> None:
        monkeypatch.undo()
        other.start()
        arrivals.next()
        if handed_over:
            lock.__exit__()

    lock.__enter__()
    monkeypatch.setattr(fairlock, "threading", SimpleNamespace(Lock=InterruptedTurn))
    InterruptedTurn.before = meanwhile
    with pytest.raises(Interrupted):
        lock.__enter__()
    if not handed_over:
        lock.__exit__()
    assert served.wait(SECONDS)
    joined(other)
    with lock:
        pass
