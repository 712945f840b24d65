# SPDX-License-Identifier: Apache-2.0
"""Timers call their actions repeatedly until they are cancelled or stopped."""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.deadline import SECONDS
from tests.support.startstop import stress
from tracker_worker.service.chores.timers import Timers

SOON = 0.001
NEVER = 3600.0


@pytest.fixture
def deaths() -> queue.SimpleQueue[BaseException]:
    return queue.SimpleQueue()


@pytest.fixture
def timers(deaths: queue.SimpleQueue[BaseException]) -> Iterator[Timers]:
    """Timers that are not started."""
    timers = Timers(deaths.put)
    yield timers
    timers.stop()


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class CountingAction:
    """An action that counts its calls and can be waited for."""

    def __init__(self) -> None:
        self._rung: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __call__(self) -> None:
        self._rung.put(threading.current_thread().name)

    def wait(self, times: int = 1) -> list[str]:
        """Wait for ``times`` calls; return the names of the calling threads."""
        return [self._rung.get(timeout=SECONDS) for _ in range(times)]

    def silent(self) -> bool:
        return self._rung.empty()


def test_an_action_is_called_repeatedly_on_one_thread(timers: Timers) -> None:
    counted, other = CountingAction(), CountingAction()
    timers.every(SOON, counted)
    timers.every(SOON, other)
    timers.start()
    assert set(counted.wait(5) + other.wait(5)) == {"tracker-timers"}


def test_nothing_is_called_before_the_start(timers: Timers) -> None:
    counted = CountingAction()
    timers.every(0, counted)
    assert counted.silent()
    timers.start()
    counted.wait()


def test_a_shorter_interval_added_later_does_not_wait_for_a_longer_interval(timers: Timers) -> None:
    timers.every(NEVER, CountingAction())
    timers.start()
    counted = CountingAction()
    timers.every(SOON, counted)
    counted.wait(3)


def test_a_cancelled_action_is_not_called(timers: Timers) -> None:
    cancelled, counted = CountingAction(), CountingAction()
    timers.every(SOON, cancelled).cancel()
    timers.every(SOON, counted)
    timers.start()
    counted.wait(3)
    assert cancelled.silent()


def test_an_action_that_cancels_itself_is_called_once(timers: Timers) -> None:
    once, counted = CountingAction(), CountingAction()

    def action() -> None:
        once()
        timer.cancel()

    timer = timers.every(SOON, action)
    timers.every(SOON, counted)
    timers.start()
    counted.wait(5)
    once.wait()
    assert once.silent()


class Payload:
    """What an action keeps alive."""


def test_a_cancel_drops_the_action_at_once(timers: Timers) -> None:
    payload = Payload()
    alive = weakref.ref(payload)
    timer = timers.every(NEVER, partial(print, payload))
    del payload
    assert alive() is not None
    timer.cancel()
    timer.cancel()
    assert alive() is None


def test_many_cancelled_actions_leave_nothing_behind(timers: Timers) -> None:
    living = [timers.every(NEVER, CountingAction()) for _ in range(100)]
    most = 0
    for _ in range(10_000):
        timers.every(NEVER, CountingAction()).cancel()
        most = max(most, len(timers._agenda._heap))
    assert most <= 2 * len(living) + 100
    assert len(timers._agenda) == len(living)


def test_cancelled_actions_take_turns_with_living_ones_in_virtual_time() -> None:
    """The actions that are left are called at their times, however many others are cancelled between them."""
    clock = Clock()
    timers = Timers(lambda error: None, monotonic=clock)
    called: list[tuple[float, int]] = []
    made = [timers.every(1 + number, lambda number=number: called.append((clock.now, number))) for number in range(400)]
    for number, timer in enumerate(made):
        if number % 4:
            timer.cancel()
    run_until(timers, clock, 400.5)
    assert [one for one in called if one[0] == 1 + one[1]] == [(1.0 + number, number) for number in range(0, 400, 4)]
    assert {number % 4 for _, number in called} == {0}


def test_an_action_is_not_called_from_its_end_on_and_nothing_is_kept_of_it() -> None:
    clock = Clock()
    timers = Timers(lambda error: None, monotonic=clock)
    called: list[float] = []
    payload = Payload()
    alive = weakref.ref(payload)
    timers.every(10, lambda payload=payload: called.append(clock.now), 35)
    timers.every(3600, lambda payload=payload: called.append(clock.now), 40)
    del payload
    run_until(timers, clock, 34)
    assert called == [10, 20, 30]
    assert alive() is not None
    run_until(timers, clock, 41)
    assert called == [10, 20, 30]
    assert alive() is None
    assert timers.step(clock.now) is None


def run_until(timers: Timers, clock: Clock, end: float) -> None:
    """Step the timers as their thread does, in virtual time."""
    while (wait := timers.step(clock.now)) is not None and clock.now + wait <= end:
        clock.now += wait
    clock.now = end
    timers.step(clock.now)


def test_an_action_may_add_and_cancel_others(timers: Timers) -> None:
    counted = CountingAction()
    never = timers.every(NEVER, CountingAction())

    def action() -> None:
        never.cancel()
        timers.every(SOON, counted)
        first.cancel()

    first = timers.every(SOON, action)
    timers.start()
    counted.wait(2)


def test_an_action_that_fails_ends_the_timers_and_is_reported(
    timers: Timers, deaths: queue.SimpleQueue[BaseException]
) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    timers.every(SOON, broken)
    timers.start()
    assert isinstance(deaths.get(timeout=SECONDS), ZeroDivisionError)


def test_a_stop_waits_for_a_running_action(timers: Timers) -> None:
    entered, release, finished = threading.Event(), threading.Event(), threading.Event()

    def slow() -> None:
        entered.set()
        release.wait(SECONDS)
        finished.set()

    timers.every(SOON, slow)
    timers.start()
    assert entered.wait(SECONDS)
    stopping = threading.Thread(target=timers.stop)
    stopping.start()
    assert stopping.is_alive()
    release.set()
    stopping.join(SECONDS)
    assert finished.is_set()


def test_a_stop_from_an_action_does_not_wait_for_itself(
    timers: Timers, deaths: queue.SimpleQueue[BaseException]
) -> None:
    counted = CountingAction()

    def action() -> None:
        timers.stop()
        counted()

    timers.every(SOON, action)
    timers.start()
    counted.wait()
    timers.stop()
    assert counted.silent()
    assert deaths.empty()


@pytest.mark.parametrize("interval", [SOON, NEVER])
def test_start_and_stop_leave_no_thread_and_no_open_file(interval: float) -> None:
    def make() -> Timers:
        timers = Timers(lambda error: None)
        timers.every(interval, lambda: None)
        return timers

    stress(make)
