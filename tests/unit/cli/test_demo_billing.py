# SPDX-License-Identifier: Apache-2.0
"""The demo's billing: what is charged now, what is owed, and what a consumer does not know that has lost something."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import msgspec
import pytest

from tests.support.builders import HOST, NOW, TIMEOUT, begin, host_ledger, node_name, put, update, uuid
from tracker_worker.cli.demo.billing import Billing, Charge, owed_seconds, totals, used_seconds
from tracker_worker.domain import commands
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import FINISH
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.notifications.render import render

N1, N2 = node_name(1), node_name(2)
SMALL = {"instances": 1, "VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
LARGE = {"instances": 1, "VCPU": 8, "MEMORY_MB": 4096, "DISK_GB": 50}


def at(seconds: float) -> str:
    return iso(NOW + round(seconds * SECOND))


class Story:
    """A host with two nodes, and the demo's billing, which hears what happens there."""

    def __init__(self) -> None:
        self.host: HostLedger = host_ledger(2)
        self.billing = Billing()
        self.bodies: list[dict[str, object]] = []

    def do(self, command: commands.Command, seconds: float = 0) -> None:
        """Decide the command so many seconds after the beginning."""
        for ledger, event in put(self.host, command, NOW + round(seconds * SECOND)).events:
            told = render(event, ledger, message_id=str(len(self.bodies)))
            payload = msgspec.json.decode(told.payload)
            self.bodies.append({"message_id": told.message_id, "event_type": told.event_type, "payload": payload})
            self.billing.receive(self.bodies[-1])

    def resize(self, *, begun: float, finished: float, effective: float | None = None) -> None:
        self.do(commands.BeginMove(begin=begin(1, node=N2, vcpus=8), id="m1", kind="resize"), begun)
        effective_at = None if effective is None else NOW + round(effective * SECOND)
        self.do(commands.StepMove(id="m1", step=FINISH, effective_at=effective_at, remembers=TIMEOUT), finished)

    def vcpu_seconds(self, until: int) -> int:
        usage = self.billing.read(lambda books: books.usage(at(0), at(until)))
        return sum(owed["VCPU"] for owed in used_seconds(usage, [uuid(1)]).values())


@pytest.fixture
def story() -> Story:
    made = Story()
    made.do(begin(1, node=N1))
    made.do(begin(2, node=N1))
    return made


def test_what_is_charged_now_has_a_place_and_a_project(story: Story) -> None:
    story.do(update(2, project_id="another"), 1)
    story.resize(begun=5, finished=10)
    charged = {charge.place[1]: charge for charge in story.billing.charged()}
    assert {node: totals([charge]) for node, charge in charged.items()} == {N1: SMALL, N2: LARGE}
    assert [charged[node].project for node in (N1, N2)] == ["another", begin(1).instance.project_id]
    assert {charge.place[0] for charge in charged.values()} == {HOST}
    assert totals([]) == dict.fromkeys(SMALL, 0)


def test_a_hand_over_that_is_told_late_takes_back_what_was_billed_after_it(story: Story) -> None:
    assert story.vcpu_seconds(until=30) == 2 * 30
    story.resize(begun=5, finished=30, effective=10)
    assert story.vcpu_seconds(until=40) == 2 * 10 + 8 * 30


def test_copies_count_once_and_losses_are_missing(story: Story) -> None:
    story.do(update(1, vcpus=4), 5)
    story.billing.receive(story.bodies[-1])
    assert story.billing.events == {"tracker.claim.begun": 2, "tracker.usage.updated": 1}
    made = [(1, 1)]  # the notification of the node itself, which nobody told
    assert story.billing.read(lambda books: books.missing()) == {(HOST, N1): made}
    assert story.billing.without(0.3, 0.6).missing() == {(HOST, N1): [*made, (3, 3)]}
    assert story.billing.wait_for({(HOST, N1): 4}, seconds=0)
    assert not story.billing.wait_for({(HOST, N1): 5}, seconds=0)


def test_a_node_that_has_closed_nothing_is_waited_for(story: Story) -> None:
    begun = story.billing.first_at
    assert not story.billing.wait_until_closed(begun, begun + timedelta(seconds=1), seconds=0)


def test_a_bill_counts_whole_seconds_and_ends_where_it_is_asked_for() -> None:
    charges = [Charge(at(0.9), "p", {"VCPU": 2}), Charge(at(7.1), "p", {"VCPU": 3})]
    owed = owed_seconds([charges], datetime.fromisoformat(at(9.5)))
    assert owed == {"p": Counter(VCPU=2 * 7 + 3 * 2)}
