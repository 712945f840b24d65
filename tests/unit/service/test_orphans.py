# SPDX-License-Identifier: Apache-2.0
"""Hosts that nobody serves: somebody says so, publishes what is left of them, and ends their claims."""

from __future__ import annotations

import logging

import pytest

from tests.support.builders import HOST, TIMEOUT, begin, instance_dict, node_name
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer, note, register, settle
from tests.unit.service.conftest import MakeHarness
from tracker_worker.administration import Administration
from tracker_worker.domain.commands import ExpireClaims
from tracker_worker.domain.values import SECOND
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import CARETAKER, LEASE_SECONDS
from tracker_worker.store.memory import MemoryStore

N1 = node_name(1)
OLD, OLDER = "old-1", "old-2"
TIMEOUT_SECONDS = TIMEOUT // SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> MemoryStore:
    """A database with a host that nobody serves: a claim of its is due, and its notifications were not published."""
    store = MemoryStore(now=clock)
    writer = settle(store, host=OLD, nodes=1)
    for number in (1, 2):
        writer.put(begin(number, node=N1))
    writer.notifications = [note(writer[N1], sequence, event_type="tracker.claim.begun") for sequence in (2, 3)]
    writer.commit()
    return store


@pytest.fixture
def harness(make_harness: MakeHarness, clock: Clock, store: MemoryStore) -> EngineHarness:
    return make_harness(clock=clock, store=store).start()


def look(harness: EngineHarness) -> None:
    harness.engine.look_for_orphans()
    for _ in range(4):  # the look, the empty queue, the chore of that, the chore that expires claims
        harness.finish()


def owners(store: MemoryStore) -> dict[str, str | None]:
    return {record.name: record.lease_owner for record in store.hosts()}


def test_they_are_named_once_with_the_number_of_their_instances(
    harness: EngineHarness, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    def named() -> list[str]:
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        caplog.clear()
        return [text.partition(";")[0] for text in warnings]

    register(store, OLDER)
    look(harness)
    assert named() == ["hosts of the database that no worker serves: old-1 (2 instances), old-2 (0 instances)"]
    look(harness)
    assert named() == []
    Writer(store, "old-1").put(begin(3, node=N1)).commit()
    settle(store, host="old-3", nodes=1).put(begin(1, node=N1)).commit()
    look(harness)
    assert named() == ["hosts of the database that no worker serves: old-3 (1 instance)"]


def test_their_notifications_are_published(harness: EngineHarness, store: MemoryStore) -> None:
    look(harness)
    assert len(harness.hear(3)) == 3
    harness.stop()
    [stream] = store.streams(OLD)
    assert dict(stream.cursors) == {"notifications": 3}
    assert owners(store) == {OLD: None, HOST: None}


def test_their_claims_expire(harness: EngineHarness, store: MemoryStore, clock: Clock) -> None:
    look(harness)
    assert [len(node.begun) for node in harness.ledger(OLD)] == [2]
    clock.forward(TIMEOUT_SECONDS + 1)
    harness.engine.renew_leases()
    look(harness)
    assert [len(node.begun) for node in harness.ledger(OLD)] == [0]


def test_claims_that_are_due_expire_as_soon_as_the_queue_is_seen_to_be_empty(
    make_harness: MakeHarness, clock: Clock, store: MemoryStore
) -> None:
    clock.forward(TIMEOUT_SECONDS + 1)
    harness = make_harness(clock=clock, store=store).start()
    look(harness)
    assert [len(node.begun) for node in harness.ledger(OLD)] == [0]


def test_claims_whose_end_waits_in_the_queue_do_not_expire(
    make_harness: MakeHarness, clock: Clock, store: MemoryStore
) -> None:
    clock.forward(TIMEOUT_SECONDS + 1)
    harness = make_harness(clock=clock, store=store).start()
    harness.caller.cast("finish_resource_claim", source=OLD, claim_id="c")
    look(harness)
    assert [len(node.begun) for node in harness.ledger(OLD)] == [2]


def test_a_lease_that_was_taken_by_a_clock_that_was_ahead_does_not_count(
    harness: EngineHarness, clock: Clock, store: MemoryStore
) -> None:
    """The clock of the database went back since, and the worker is gone."""
    host_id = next(record.id for record in store.hosts() if record.name == OLD)
    ahead = clock() + 3600 * SECOND
    store.take_lease([host_id], "gone", now=ahead, until=ahead + LEASE_SECONDS * SECOND)
    look(harness)
    assert str(owners(store)[OLD]).endswith(CARETAKER)


def test_the_lease_of_a_worker_that_was_killed_is_waited_for(
    harness: EngineHarness, store: MemoryStore, clock: Clock
) -> None:
    [host_id] = [record.id for record in store.hosts() if record.name == OLD]
    store.take_lease([host_id], "killed", now=clock(), until=clock() + LEASE_SECONDS * SECOND)
    look(harness)
    assert owners(store)[OLD] == "killed"
    clock.forward(LEASE_SECONDS + 1)
    look(harness)
    assert owners(store)[OLD] == f"worker-1{CARETAKER}"


def test_one_worker_cares_for_a_host(
    harness: EngineHarness, make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    other = make_harness(hosts=["host-2"], store=store, clock=clock, owner="worker-2").start()
    for _ in range(5):
        for each in (harness, other):
            look(each)
            each.engine.renew_leases()
        clock.forward(5)
    assert owners(store)[OLD] == f"worker-1{CARETAKER}"
    assert len(harness.notified()) == 3
    assert other.notified() == []
    harness.stop()
    look(other)
    assert owners(store)[OLD] == f"worker-2{CARETAKER}"


def test_whoever_serves_the_host_has_it_at_once(
    harness: EngineHarness, make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    look(harness)
    server = make_harness(hosts=[OLD], store=store, clock=clock, owner="server").start()
    assert owners(store)[OLD] == "server"
    assert server.engine.held == {OLD}
    harness.engine.renew_leases()
    harness.finish()
    assert harness.engine._chores.orphans.cared_for == frozenset()
    look(harness)
    assert owners(store)[OLD] == "server"


def test_a_worker_that_serves_no_host_of_the_database_leaves_them_alone(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    """Its database may be a copy."""
    harness = make_harness(clock=clock, store=store)
    harness.engine.allow(frozenset())
    harness.start()
    look(harness)
    assert owners(store) == {OLD: None, HOST: None}
    assert harness.notified() == []


def test_what_a_name_has_left_behind_that_no_host_has_is_published(harness: EngineHarness, store: MemoryStore) -> None:
    store.open_cursors(OLD, ["notifications"])
    Administration(store, notify=True).rename_host(OLD, "new-1")
    assert store.streams_without_host() == [OLD]
    look(harness)
    # The old name's three and its last one, and the first one of the new name.
    assert sorted(number for _, number in harness.hear(5)) == [1, 1, 2, 3, 4]
    harness.stop()
    assert store.streams_without_host() == []


def test_a_worker_that_serves_no_host_any_more_publishes_nothing_of_such_a_name(
    harness: EngineHarness, store: MemoryStore
) -> None:
    Administration(store, notify=True).rename_host(OLD, "new-1")
    look(harness)
    assert OLD in harness.engine._relay._relayed
    harness.engine.allow(frozenset())
    look(harness)
    assert OLD not in harness.engine._relay._relayed


def test_a_host_that_is_forgotten_meanwhile_is_given_up(harness: EngineHarness, store: MemoryStore) -> None:
    host_id = register(store, OLDER)
    look(harness)
    assert harness.engine._chores.orphans.cared_for == {OLD, OLDER}
    store.forget_host(host_id)
    look(harness)
    assert harness.engine._chores.orphans.cared_for == {OLD}
    assert harness.caller.call("begin_resource_claim", instance=instance_dict(5)).reply()["state"] == "begun"


@pytest.mark.parametrize("chores", [1, 4])
def test_chores_of_a_host_that_is_renamed_before_they_are_decided_are_dropped(
    harness: EngineHarness, store: MemoryStore, clock: Clock, caplog: pytest.LogCaptureFixture, chores: int
) -> None:
    look(harness)
    clock.forward(TIMEOUT_SECONDS + 1)
    with harness.busy():
        for _ in range(chores):
            harness.engine.submit(Chore(host=OLD, commands=[ExpireClaims(node=N1)]))
        Administration(store, notify=True).rename_host(OLD, "new-1")
    assert harness.caller.call("begin_resource_claim", instance=instance_dict(5)).reply()["state"] == "begun"
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
    look(harness)
    look(harness)
    assert [len(node.begun) for node in harness.ledger("new-1")] == [0]
