# SPDX-License-Identifier: Apache-2.0
"""The demo's billing adds up what is charged now, and what is owed, from the notifications that the worker renders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec
import pytest

from tests.model.moving import DirectCloud
from tests.model.scheduling import Scheduler
from tests.support.bill import Bill
from tests.support.builders import HOST, NOW, TIMEOUT, begin, claim_id, host_ledger, node_name, put, update, uuid
from tracker_worker.cli.demo.billing import Billing, Charge, bill
from tracker_worker.domain import commands
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import FINISH, REVERT
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.notifications.render import render
from tracker_worker.store.memory import MemoryStore

N1, N2 = node_name(1), node_name(2)
SMALL = {"instances": 1, "VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
LARGE = {"instances": 1, "VCPU": 8, "MEMORY_MB": 4096, "DISK_GB": 50}
NOTHING = dict.fromkeys(SMALL, 0)


class Books:
    """A host with two nodes, and the demo's billing, which hears what happens there."""

    def __init__(self) -> None:
        self.host: HostLedger = host_ledger(2)
        self.billing = Billing()
        self._heard = 0

    def do(self, command: commands.Command, seconds: int = 0) -> None:
        """Decide the command so many seconds after the beginning."""
        for ledger, event in put(self.host, command, NOW + seconds * SECOND).events:
            self._heard += 1
            told = render(event, ledger, message_id=str(self._heard))
            self.hear(told.event_type, msgspec.json.decode(told.payload), str(self._heard))

    def hear(self, event_type: str, payload: Mapping[str, Any], message_id: str) -> None:
        self.billing.receive({"message_id": message_id, "event_type": event_type, "payload": payload})

    def begin_move(self, node: str, seconds: int, **limits: float) -> None:
        larger = begin(1, node=node, vcpus=8, limits=limits or None)
        self.do(commands.BeginMove(begin=larger, id="m1", kind="resize"), seconds)

    def step(self, step: str, seconds: int, effective: int | None = None) -> None:
        at = None if effective is None else NOW + effective * SECOND
        self.do(commands.StepMove(id="m1", step=step, effective_at=at, remembers=TIMEOUT), seconds)

    def vcpu_seconds(self, until: int) -> float:
        sums = self.billing.bill([uuid(1)], iso(NOW + until * SECOND))
        return sum(owed["VCPU"] for owed in sums.values()) / SECOND


@pytest.fixture
def books() -> Books:
    made = Books()
    made.do(begin(1, node=N1))
    return made


def test_a_move_that_has_begun_and_one_that_is_refused_change_no_charge(books: Books) -> None:
    books.begin_move(N2, 5, vcpu=1)
    assert books.billing.events["tracker.move.rejected"] == 1
    books.begin_move(N2, 6)
    assert (books.billing.of_node(HOST, N1), books.billing.of_node(HOST, N2)) == (SMALL, NOTHING)
    assert books.vcpu_seconds(until=10) == 2 * 10


@pytest.mark.parametrize("node", [N1, N2], ids=["in place", "on another node"])
def test_a_resized_instance_is_billed_for_one_size_at_any_time(books: Books, node: str) -> None:
    books.begin_move(node, 5)
    assert books.vcpu_seconds(until=10) == 2 * 10
    books.step(FINISH, 10)
    assert books.billing.of_node(HOST, node) == LARGE
    assert books.vcpu_seconds(until=20) == 2 * 10 + 8 * 10
    books.step(REVERT, 30)
    assert books.billing.of_node(HOST, N1) == SMALL
    assert books.vcpu_seconds(until=40) == 2 * 10 + 8 * 20 + 2 * 10
    assert [*books.billing.of_projects().values()] == [SMALL]


def test_a_hand_over_that_is_told_late_takes_back_what_was_billed_after_it(books: Books) -> None:
    books.begin_move(N2, 5)
    books.do(update(1, vm_state="active"), 20)
    books.do(update(1, vm_state="stopped"), 25)
    assert books.vcpu_seconds(until=30) == 2 * 30
    books.step(FINISH, 30, effective=10)
    assert books.vcpu_seconds(until=30) == 2 * 10 + 8 * 20


def test_an_owner_pays_until_another_one_does(books: Books) -> None:
    books.do(update(1, project_id="p2"), 4)
    owed = books.billing.bill([uuid(1)], iso(NOW + 10 * SECOND))
    assert [owed[project]["VCPU"] / SECOND for project in (begin(1).instance.project_id or "", "p2")] == [8, 12]


def test_what_a_former_owner_was_charged_in_a_period_ends_no_charge(books: Books) -> None:
    books.do(update(1, project_id="p2"), 4)
    told = {
        "host": HOST,
        "node": N1,
        "sequence": 3,
        "instance_id": uuid(1),
        "tenant_id": "p1",
        "charged": dict.fromkeys(SMALL.keys() - {"instances"}, 0),
        "occurred_at": iso(NOW + 6 * SECOND),
    }
    books.hear("tracker.usage.exists", told, "exists")
    assert books.billing.of_node(HOST, N1) == SMALL
    assert books.vcpu_seconds(until=10) == 2 * 10


def test_an_end_is_the_end_of_the_charge_and_a_refused_claim_is_none(books: Books) -> None:
    books.do(commands.AbortClaim(claim_id=claim_id(books.host)), 3)
    claim = begin(1, node=N1)
    books.do(msgspec.structs.replace(claim, limits=read_limits({"vcpu": 1})), 4)
    assert books.billing.events["tracker.claim.rejected"] == 1
    assert books.billing.of_node(HOST, N1) == NOTHING
    assert books.vcpu_seconds(until=TIMEOUT) == 6


def test_what_comes_twice_counts_once_and_what_is_missing_is_named(books: Books) -> None:
    node = {"host": "h", "node": "n"}
    for sequence, message_id in ((1, "a"), (1, "a"), (3, "b")):
        books.hear("tracker.node.updated", {**node, "sequence": sequence}, message_id)
    assert books.billing.duplicates == 1
    assert [gap for gap in books.billing.gaps if gap.startswith("h/")] == ["h/n: 3 instead of 2"]


def test_a_bill_ends_where_it_is_asked_for() -> None:
    charges = [Charge(iso(NOW), "p", {"VCPU": 2}), Charge(iso(NOW + 7), "p", {"VCPU": 3})]
    assert bill([charges], iso(NOW + 9)) == {"p": Counter(VCPU=2 * 7 + 3 * 2)}


class _Heard(Bill):
    """Tells the demo's billing what it hears itself."""

    def __init__(self) -> None:
        super().__init__()
        self.demo = Billing()
        self._count = 0

    def add(self, event_type: str, payload: Mapping[str, Any]) -> None:
        super().add(event_type, payload)
        self._count += 1
        self.demo.receive({"message_id": str(self._count), "event_type": event_type, "payload": dict(payload)})


@pytest.mark.parametrize("seed", range(20, 25))
def test_after_random_moves_it_bills_what_the_other_consumer_bills(seed: int) -> None:
    random = Random(seed)
    cloud = DirectCloud(random, lambda now: MemoryStore(now=now, random_bytes=random.randbytes))
    cloud.bill = heard = _Heard()
    scheduler = Scheduler(cloud)
    for _ in range(150):
        scheduler.act()
    assert heard.demo.events["tracker.move.finished"] > 5
    for uuid_, intervals in heard.intervals().items():
        expected: Counter[str] = Counter()
        for one in intervals:
            end = cloud.now if one.end is None else one.end
            for name, amount in one.resources:
                expected[name] += amount * (end - one.begin)
        billed = heard.demo.bill([uuid_], iso(cloud.now)).values()
        assert sum(billed, Counter()) == +expected, uuid_
