# SPDX-License-Identifier: Apache-2.0
"""When a host counts as unheard. The clock and the bus are the test's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tracker_worker.bus.base import FANOUT, Contact
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.service.health.hearing import Hearing

INTERVAL = 5


class Bus(MemoryBus):
    """Notes the probes, and answers none of them."""

    def __init__(self) -> None:
        super().__init__(MemoryBroker())
        self.probed: list[Sequence[str]] = []

    def probe(self, hosts: Sequence[str]) -> None:
        self.probed.append(hosts)


class Case:
    def __init__(self, hosts: Sequence[str] = ("h1", "h2"), interval: float = INTERVAL) -> None:
        self.now = 1000.0
        self.bus = Bus()
        self.hearing = Hearing(self.bus, hosts, interval_seconds=interval, monotonic=lambda: self.now)
        self.heard: dict[str, float] = {}
        self.contact: dict[str, Any] = {"probed_since": self.now}

    def pass_time(self, seconds: float, *heard: str) -> None:
        """Let time pass, with probes as often as they are due; these sources are heard each time."""
        until = self.now + seconds
        while self.now < until:
            self.hearing.probe({"h2", "h1"})
            self.heard |= dict.fromkeys(heard, self.now)
            self.now = min(until, self.now + self.hearing.period_seconds)

    def known(self) -> Contact:
        return Contact(consuming=True, publishing=True, heard=dict(self.heard), **self.contact)

    def unheard(self, *active: str, standby: Sequence[str] = ()) -> dict[str, float]:
        return dict(self.hearing.unheard(self.known(), active=active, standby=standby))


@pytest.fixture
def case() -> Case:
    return Case()


def test_what_is_heard_in_each_interval_is_no_matter(case: Case) -> None:
    case.pass_time(60, "h1", FANOUT)

    assert case.unheard("h1", standby=["h2"]) == {}
    assert case.bus.probed[0] == ["h1", "h2"]


def test_a_host_of_which_nothing_comes_for_two_intervals_is_unheard(case: Case) -> None:
    case.pass_time(20, "h1", "h2")
    case.pass_time(2 * INTERVAL - case.hearing.period_seconds, "h2")  # the last one came a period ago
    assert case.unheard("h1", "h2") == {}
    case.pass_time(0.1, "h2")
    assert list(case.unheard("h1", "h2")) == ["h1"]
    case.pass_time(0.1, "h1")
    assert case.unheard("h1", "h2") == {}


def test_a_standby_is_heard_by_its_queue_of_fanouts(case: Case) -> None:
    case.pass_time(20, FANOUT, "h1")
    case.pass_time(2 * INTERVAL + 0.1, "h1")

    assert list(case.unheard("h1", standby=["h2"])) == ["h2"]


def test_a_new_connection_has_two_intervals(case: Case) -> None:
    case.pass_time(60)
    case.contact["probed_since"] = case.now

    case.pass_time(2 * INTERVAL)
    assert case.unheard("h1") == {}
    case.pass_time(0.1)
    assert list(case.unheard("h1")) == ["h1"]


@pytest.mark.parametrize("excuse", [{"probed_since": None}, {"holds_back": True}])
def test_nobody_is_unheard_where_nothing_can_come(case: Case, excuse: dict[str, Any]) -> None:
    case.pass_time(60)
    assert case.unheard("h1")
    case.contact |= excuse

    assert case.unheard("h1") == {}


def test_after_a_stop_of_the_process_everything_has_two_intervals_again(case: Case) -> None:
    case.pass_time(20, "h1")
    case.now += 3600  # SIGSTOP, or the machine was suspended
    assert case.unheard("h1") == {}
    case.pass_time(2 * INTERVAL)
    assert case.unheard("h1") == {}
    case.pass_time(0.1)
    assert case.unheard("h1")


def test_a_broker_that_answers_no_probe_is_noticed_after_two_intervals(case: Case) -> None:
    case.pass_time(20, "h1")
    case.contact["silent_since"] = case.now
    case.pass_time(2 * INTERVAL)
    assert case.hearing.unanswered(case.known()) is None
    case.pass_time(0.1)
    assert case.hearing.unanswered(case.known()) == pytest.approx(2 * INTERVAL + 0.1)
    case.contact["probed_since"] = None  # an alarm
    assert case.hearing.unanswered(case.known()) is None


@pytest.mark.parametrize(
    ("hosts", "interval", "period", "patience"),
    [
        (1, 5, 2, 10),
        (1, 1, 1, 2),
        (49, 5, 2, 10),
        (50, 5, 1, 10),
        (1000, 5, 1, 42),  # 1001 queues, 50 a second: 21 s for a round
        (1000, 60, 1, 120),
    ],
)
def test_with_many_hosts_a_round_of_all_may_take_longer(
    hosts: int, interval: int, period: float, patience: float
) -> None:
    hearing = Case([f"h{number}" for number in range(hosts)], interval).hearing

    assert (hearing.period_seconds, hearing.patience_seconds) == (period, patience)
