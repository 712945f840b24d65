# SPDX-License-Identifier: Apache-2.0
"""The pool that drivers are asked on: it runs so many functions at a time, and functions that hang do not count. Steps go on
whatever signals come."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from tests.support.deadline import SECONDS, wait_until
from tests.support.startstop import stress
from tracker_worker.threads import DaemonPool

SIZE, PATIENCE = 3, 30.0


class Case:
    """A pool on a clock that only the test moves, with functions that run until they are released."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pool = DaemonPool("pool", SIZE, patience_seconds=PATIENCE, monotonic=lambda: self.now)
        self._lock = threading.Lock()
        self.begun: list[int] = []
        self.ended: list[int] = []
        self._releases: dict[int, threading.Event] = {}

    def submit(self, number: int) -> None:
        release = self._releases[number] = threading.Event()

        def function() -> None:
            with self._lock:
                self.begun.append(number)
            release.wait(SECONDS)
            with self._lock:
                self.ended.append(number)

        self.pool.submit(function)

    def release(self, *numbers: int) -> None:
        for number in numbers:
            self._releases[number].set()
        wait_until(lambda: set(numbers) <= set(self.ended), f"the end of {numbers}")

    def wait_begun(self, *numbers: int) -> None:
        wait_until(lambda: sorted(self.begun) == sorted(numbers), lambda: f"{numbers} begun; {self.begun} are")

    def all_released(self) -> None:
        for release in self._releases.values():
            release.set()


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    case.pool.start()
    yield case
    case.all_released()
    case.pool.stop()


def test_so_many_functions_run_at_a_time_and_the_others_follow_in_order(case: Case) -> None:
    for number in range(6):
        case.submit(number)
    case.wait_begun(0, 1, 2)
    case.release(1)
    case.wait_begun(0, 1, 2, 3)
    case.release(0, 2)
    case.wait_begun(0, 1, 2, 3, 4, 5)


def test_functions_that_hang_leave_their_places_to_others(case: Case) -> None:
    for number in range(SIZE + 2):
        case.submit(number)
    case.wait_begun(0, 1, 2)
    case.now = PATIENCE
    case.submit(5)  # the pool looks at its clock again
    case.wait_begun(0, 1, 2, 3, 4, 5)
    case.submit(6)
    case.release(3)
    case.wait_begun(0, 1, 2, 3, 4, 5, 6)


def test_a_place_becomes_free_in_time_without_anything_that_happens() -> None:
    """The same on the real clock: nobody submits anything, and no function ends."""
    hang, ran = threading.Event(), threading.Event()
    pool = DaemonPool("pool", 1, patience_seconds=0.05)
    pool.start()
    pool.submit(lambda: [hang.wait(SECONDS)])  # type: ignore[arg-type, return-value]
    pool.submit(ran.set)
    assert ran.wait(SECONDS)
    assert not hang.is_set()
    hang.set()
    pool.stop()


def test_threads_that_were_made_beside_hanging_ones_end_when_they_are_not_needed(case: Case) -> None:
    before = threading.active_count()
    for number in range(20):
        case.submit(number)
        case.wait_begun(*range(number + 1))
        case.now += PATIENCE
    assert threading.active_count() >= before + 15
    case.all_released()
    wait_until(lambda: threading.active_count() <= before + SIZE, "the end of threads that are not needed")
    case.submit(20)
    case.wait_begun(*range(21))


def test_nothing_runs_before_the_start_or_begins_after_the_stop() -> None:
    case = Case()
    for number in range(SIZE + 1):
        case.submit(number)
    assert case.begun == []
    case.pool.start()
    case.wait_begun(0, 1, 2)
    case.pool.stop()
    case.all_released()
    wait_until(lambda: len(case.ended) == SIZE, "the end of what ran")
    case.submit(9)
    assert sorted(case.begun) == [0, 1, 2]


def test_start_and_stop_leave_no_thread() -> None:
    def make() -> DaemonPool:
        case = Case()
        case.pool.submit(lambda: None)
        return case.pool

    stress(make)


_INTERRUPTED = """
import signal, sys
from tracker_worker.threads import StepThread

class Part:
    def step(self, now):
        return 0.05

thread = StepThread("part", Part(), died=print)
signal.signal(signal.SIGHUP, lambda *_: None)
thread.start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # so that the other thread gets it
for _ in sys.stdin:
    print(thread.turns, flush=True)
"""


def test_a_signal_that_comes_while_the_process_is_stopped_does_not_stop_the_steps() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _INTERRUPTED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def turns() -> int:
            stdin.write("\n")
            stdin.flush()
            return int(stdout.readline())

        wait_until(lambda: turns() > 2, "the steps have begun")
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGHUP)
        threading.Event().wait(0.3)  # longer than a step waits
        process.send_signal(signal.SIGCONT)
        before = turns()
        wait_until(lambda: turns() > before + 2, "the steps go on")
        stdin.close()
