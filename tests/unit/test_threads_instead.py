# SPDX-License-Identifier: Apache-2.0
"""Steps that another thread makes while the thread of a part sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.deadline import SECONDS, wait_until
from tracker_worker.service.watchdog import Watchdog
from tracker_worker.threads import StepThread


class Part:
    """Notes by which thread each step was made. ``wait`` is what the next steps return."""

    def __init__(self) -> None:
        self.made_by: list[str] = []
        self.wait: float | None = None
        self.hold = threading.Event()
        self.hold.set()
        self.deaths: list[BaseException] = []
        self.thread = StepThread("part", self, self.deaths.append)

    def step(self, now: float) -> float | None:
        self.made_by.append(threading.current_thread().name)
        self.hold.wait(SECONDS)
        return self.wait

    def here(self) -> bool:
        """Try to make a step on this thread."""
        return self.thread.instead(lambda: self.step(0.0))

    def sleeps(self) -> None:
        wait_until(lambda: len(self.made_by) >= 1 and not self.thread._turn.locked(), "the part's thread sleeps")


@pytest.fixture
def part() -> Iterator[Part]:
    part = Part()
    yield part
    part.hold.set()
    assert part.thread.stop(SECONDS)


def in_background(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, name="another")
    thread.start()
    return thread


def test_a_step_is_made_here_while_the_thread_sleeps_and_does_not_wake_it(part: Part) -> None:
    part.thread.start()
    part.sleeps()
    turns = part.thread.turns
    assert part.here()
    assert part.made_by[1] == threading.current_thread().name
    assert part.thread.turns == turns + 1
    time.sleep(0.1)
    assert len(part.made_by) == 2


def test_no_step_is_made_here_before_the_start_during_a_step_and_after_the_stop(part: Part) -> None:
    assert not part.here()
    part.hold.clear()
    part.thread.start()
    wait_until(lambda: part.made_by, "a step")
    assert not part.here()
    part.hold.set()
    assert part.thread.stop(SECONDS)
    assert not part.here()
    assert part.made_by == ["part"]


def test_what_is_due_earlier_after_a_step_made_here_is_done_in_time_by_the_thread(part: Part) -> None:
    part.thread.start()
    part.sleeps()
    part.wait = 0.0
    assert part.here()
    wait_until(lambda: len(part.made_by) > 2, "the next step")
    assert part.made_by[2] == "part"
    part.wait = None


def test_a_wake_up_during_a_step_made_elsewhere_is_followed_by_a_step(part: Part) -> None:
    part.thread.start()
    part.sleeps()
    part.hold.clear()
    elsewhere = in_background(part.here)
    wait_until(lambda: part.made_by[1:] == ["another"], "a step elsewhere")
    part.thread.wake()
    time.sleep(0.05)
    assert len(part.made_by) == 2  # one thread makes a step at a time
    part.hold.set()
    wait_until(lambda: part.made_by[2:] == ["part"], "the step of the part's thread")
    elsewhere.join(SECONDS)


def test_a_stop_waits_for_a_step_made_elsewhere(part: Part) -> None:
    part.thread.start()
    part.sleeps()
    part.hold.clear()
    elsewhere = in_background(part.here)
    wait_until(lambda: part.made_by[1:] == ["another"], "a step elsewhere")
    assert not part.thread.stop(0.05)
    part.hold.set()
    assert part.thread.stop(SECONDS)
    elsewhere.join(SECONDS)


def test_an_error_here_ends_the_part_and_is_reported(part: Part) -> None:
    part.thread.start()
    part.sleeps()
    error = RuntimeError("of a step")

    def fail() -> float | None:
        raise error

    assert part.thread.instead(fail)
    assert part.deaths == [error]
    wait_until(lambda: not part.thread.is_alive(), "the end of the thread")
    assert not part.here()


def test_the_watchdog_names_the_thread_that_hangs_in_place_of_the_parts_own(part: Part) -> None:
    said: list[str] = []
    watchdog = Watchdog(part.thread, stall_seconds=2, stalled=said.append, died=part.deaths.append)
    part.thread.start()
    part.sleeps()
    part.hold.clear()
    elsewhere = in_background(part.here)
    wait_until(lambda: part.made_by[1:] == ["another"], "a step elsewhere")
    for number in range(20):
        watchdog.step(number * 0.25)
    assert len(said) == 1
    assert said[0].endswith("on the thread another")
    part.hold.set()
    elsewhere.join(SECONDS)
