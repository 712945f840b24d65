# SPDX-License-Identifier: Apache-2.0
"""The clock of a worker: the time of its database, carried on by the monotonic clock."""

from __future__ import annotations

import logging

import pytest

from tests.support.builders import NOW
from tests.support.scripted import Clock as Machine
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.clock import Clock


class Case:
    """A database whose machine has a clock, and a worker. An answer of the database takes ``before`` and ``after`` seconds to
    reach the database and to come back."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.away = False
        self.before = self.after = 0.0
        self.reads = 0
        self.clock = Clock(self.read, monotonic=self.machine.monotonic)

    def read(self) -> int:
        self.reads += 1
        if self.away:
            raise StoreUnavailable(reason="away")
        self.machine.forward(self.before)
        time = self.machine()
        self.machine.forward(self.after)
        return time


@pytest.fixture
def case() -> Case:
    return Case()


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def test_it_is_the_time_of_the_database(case: Case) -> None:
    assert case.clock() == NOW


def test_the_monotonic_clock_carries_it_on(case: Case) -> None:
    case.clock()
    case.machine.forward(3.5)
    assert case.clock() == NOW + 3_500_000
    assert case.reads == 1


def test_a_step_is_not_seen_before_the_next_synchronization(case: Case) -> None:
    case.clock()
    case.machine.step(3600)
    assert case.clock() == NOW
    case.clock.sync()
    assert case.clock() == NOW + 3600 * SECOND


@pytest.mark.parametrize(("seconds", "said"), [(3600, "+3600.0 s"), (-3600, "-3600.0 s"), (2.5, "+2.5 s")])
def test_a_step_is_one_warning_with_its_size(
    case: Case, caplog: pytest.LogCaptureFixture, seconds: float, said: str
) -> None:
    case.clock.sync()
    case.machine.step(seconds)
    for _ in range(3):
        case.clock.sync()
        case.machine.forward(5)
    tail = ": no claim expires and no row is dropped because of that" if seconds > 0 else ""
    assert warnings(caplog) == [f"the clock of the database was stepped by {said}{tail}"]


@pytest.mark.parametrize("seconds", [1.9, -1.9])
def test_a_clock_that_is_slewed_is_followed_without_a_word(
    case: Case, caplog: pytest.LogCaptureFixture, seconds: float
) -> None:
    case.clock.sync()
    for _ in range(10):
        case.machine.step(seconds)
        case.machine.forward(5)
        case.clock.sync()
        assert case.clock() == case.machine()
    assert warnings(caplog) == []
    assert not case.clock.stepped_within(3600)


def test_only_a_step_forward_is_a_jump(case: Case) -> None:
    case.clock.sync()
    case.machine.step(-3600)
    case.clock.sync()
    assert case.clock.stepped_within(15)
    assert not case.clock.jumped_within(600)
    case.machine.step(3600)
    case.clock.sync()
    assert case.clock.jumped_within(600)
    case.machine.forward(599)
    assert case.clock.jumped_within(600)
    case.machine.forward(1)
    assert not case.clock.jumped_within(600)


def test_what_was_before_the_first_synchronization_is_not_known(case: Case) -> None:
    assert not case.clock.unsure_within(600)
    case.clock.sync()
    assert case.clock.unsure_within(600)
    case.machine.forward(600)
    assert not case.clock.unsure_within(600)
    case.machine.step(3600)
    case.clock.sync()
    assert case.clock.unsure_within(600)


@pytest.mark.parametrize(("before", "after"), [(10, 0), (0, 10), (5, 5)])
def test_a_slow_answer_is_no_step_and_changes_nothing(
    case: Case, caplog: pytest.LogCaptureFixture, before: float, after: float
) -> None:
    case.clock.sync()
    case.before, case.after = before, after
    for _ in range(5):
        case.clock.sync()
        assert case.clock() == case.machine()
    assert warnings(caplog) == []


def test_a_step_is_seen_through_a_slow_answer(case: Case) -> None:
    case.clock.sync()
    case.before = 10
    case.machine.step(3600)
    case.clock.sync()
    assert case.clock.jumped_within(600)
    assert case.clock() == case.machine()


def test_a_recent_synchronization_is_enough(case: Case) -> None:
    case.clock.sync()
    case.machine.forward(0.5)
    case.clock.sync(older_than_seconds=1)
    assert case.reads == 1
    case.machine.forward(0.5)
    case.clock.sync(older_than_seconds=1)
    assert case.reads == 2


def test_it_goes_on_while_the_database_is_away(case: Case) -> None:
    case.clock.sync()
    case.away = True
    case.machine.forward(60)
    with pytest.raises(StoreUnavailable):
        case.clock.sync()
    assert case.clock() == NOW + 60 * SECOND


def test_without_a_database_there_is_no_time(case: Case) -> None:
    case.away = True
    with pytest.raises(StoreUnavailable):
        case.clock()
    case.away = False
    assert case.clock() == NOW
