# SPDX-License-Identifier: Apache-2.0
"""The store goes back under a running worker, or goes on in another history: nothing is answered from what is lost.

The file is long because each case is another moment at which a database goes back, seen by the same functions.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from tests.support.backup import Backup
from tests.support.builders import HOST, NOW, instance_dict, node_name, uuid
from tests.support.caller import drained
from tests.support.deadline import wait_until
from tests.support.engine import EngineHarness
from tests.support.store import Writer, settle
from tests.support.worker import WorkerHarness
from tests.unit.service.conftest import MakeHarness
from tracker_worker.administration import Administration
from tracker_worker.errors import StoreUnavailable
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.store.base import Conflict, Unstorable
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import decode_message

N1 = node_name(1)
AWAY = StoreUnavailable(reason="the database fails over")


def claim(harness: EngineHarness, number: int, **options: Any) -> Any:
    return harness.caller.call("begin_resource_claim", instance=instance_dict(number), **options).reply()


def payloads(harness: EngineHarness) -> list[dict[str, Any]]:
    """The payloads of the notifications published since the last call, with their message ids."""
    harness.finish()
    found = [decode_message(body) for body in drained(harness.broker.notifications)]
    return [{**message["payload"], "message_id": message["message_id"]} for message in found]


def published(harness: EngineHarness, count: int) -> list[dict[str, Any]]:
    """The payloads of the next ``count`` notifications."""
    found = [decode_message(harness.broker.notifications.get(timeout=10)) for _ in range(count)]
    return [{**message["payload"], "event_type": message["event_type"]} for message in found]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


@pytest.fixture
def memory(harness: EngineHarness) -> MemoryStore:
    assert isinstance(harness.store.inner, MemoryStore)
    return harness.store.inner


@pytest.fixture
def backup(harness: EngineHarness, memory: MemoryStore) -> Backup:
    """Two claims are in it; three more are told and published, and are not in it."""
    for number in (1, 2):
        claim(harness, number)
    wait_until(lambda: list(memory.streams(HOST)[0].cursors.values()) == [3], "the cursor")
    backup = Backup(memory)
    for number in (3, 4, 5):
        claim(harness, number, unique_id=f"u-{number}")
    harness.finish()
    assert [payload["sequence"] for payload in payloads(harness)] == [2, 3, 4, 5, 6]
    return backup


def test_a_claim_after_the_store_went_back_is_decided_on_what_the_store_has(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    old = memory.histories()[-1].ledger_id
    backup.restore()
    reply = claim(harness, 6)
    new = memory.histories()[-1]
    assert new.ledger_id != old
    assert new.predecessor == old
    assert "went back by 3 commits" in new.reason
    assert harness.charged() == [uuid(1), uuid(2), uuid(6)]
    assert reply["generation"] == harness.ledger().node(N1).generation == 5
    changed, begun = published(harness, 2)
    assert (changed["event_type"], changed["sequence"]) == ("tracker.node.updated", 4)
    assert (changed["previous_ledger_id"], changed["previous_sequence"]) == (old, 3)
    assert (begun["event_type"], begun["sequence"], begun["instance_id"]) == ("tracker.claim.begun", 5, uuid(6))
    assert {changed["ledger_id"], begun["ledger_id"]} == {new.ledger_id}


def test_a_message_that_cannot_be_stored_shows_that_the_store_went_back(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    old = memory.histories()[-1].ledger_id
    backup.restore()
    harness.store.script["commit"] = [Unstorable("the first attempt")]
    assert claim(harness, 6)["instance_uuid"] == uuid(6)
    assert memory.histories()[-1].predecessor == old
    assert harness.charged() == [uuid(1), uuid(2), uuid(6)]
    assert harness.deaths.empty()


def test_an_error_says_how_many_commits_are_lost_of_which_nodes_and_what_billing_has_heard(
    harness: EngineHarness, memory: MemoryStore, backup: Backup, caplog: pytest.LogCaptureFixture
) -> None:
    old = memory.histories()[-1].ledger_id
    backup.restore()
    claim(harness, 6)
    (error,) = errors(caplog)
    assert f"the ledger {old} has ended" in error
    assert memory.histories()[-1].ledger_id in error
    assert "3 commits are lost" in error
    assert f"{HOST}/{N1} was at generation 6 and event 6, is at 3 and 3 (published up to event 6)" in error


def test_a_worker_that_has_nothing_to_do_notices_it_at_the_renewal(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    backup.restore()
    harness.engine.renew_leases()
    harness.finish()
    assert len(memory.histories()) == 2
    assert [payload["previous_sequence"] for payload in published(harness, 1)] == [3]


@pytest.mark.parametrize("method", ["get_node", "list_claims"])
def test_a_read_is_answered_from_the_new_history(
    harness: EngineHarness, memory: MemoryStore, backup: Backup, method: str
) -> None:
    backup.restore()
    answer = harness.caller.call(method).reply()
    if method == "get_node":
        assert (answer["running_vms"], answer["ledger_id"]) == (2, memory.histories()[-1].ledger_id)
    else:
        assert {held["instance_uuid"] for held in answer} == {uuid(1), uuid(2)}
    assert len(memory.histories()) == 2


def test_a_copy_of_a_message_that_is_lost_is_decided_and_not_answered_from_memory(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    """The copy comes after an outage, as in a failover: the worker looks before it answers."""

    def fail_over() -> None:
        backup.restore()
        raise AWAY

    with harness.busy():
        harness.store.script["take_lease"] = [fail_over]
        harness.engine.renew_leases()
        copy = harness.caller.call("begin_resource_claim", unique_id="u-4", instance=instance_dict(4))
    told = copy.reply()
    assert harness.charged() == [uuid(1), uuid(2), uuid(4)]
    assert told["claim_id"] == harness.ledger().node(N1).allocations[uuid(4)].claim_id


def test_after_an_outage_the_store_is_compared_before_anything_is_committed(
    make_harness: MakeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    """The node of the claim has lost nothing, so that its commit would succeed."""
    harness = make_harness(hosts=["host-1", "host-2"]).start()
    assert isinstance(harness.store.inner, MemoryStore)
    backup = Backup(harness.store.inner)
    claim(harness, 1, source="host-2")
    harness.store.script["commit"] = [AWAY, AWAY, backup.restore]
    harness.store.script["progress"] = [backup.restore]
    reply = claim(harness, 2, source="host-1")
    assert reply["generation"] == 3
    assert harness.charged("host-1") == [uuid(2)]
    assert harness.charged("host-2") == []
    assert "1 commits are lost: host-2/node-1" in errors(caplog)[0]


def test_a_store_that_has_gone_back_and_refuses_a_message_is_noticed(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    old = memory.histories()[-1].ledger_id

    def refuse() -> None:
        backup.restore()
        raise Unstorable("all of them")

    harness.store.script["commit"] = [refuse]
    assert claim(harness, 6)["state"] == "begun"
    assert memory.histories()[-1].predecessor == old
    assert harness.charged() == [uuid(1), uuid(2), uuid(6)]


def test_a_store_that_comes_back_as_it_was_keeps_its_history(harness: EngineHarness, memory: MemoryStore) -> None:
    claim(harness, 1)
    harness.store.script["commit"] = [AWAY]
    claim(harness, 2)
    harness.engine.renew_leases()
    harness.finish()
    assert len(memory.histories()) == 1


def test_cursors_of_the_lost_history_are_not_written(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    """Otherwise what has a lower number would never be published."""
    (stream,) = memory.streams(HOST)
    topic = next(iter(stream.cursors))
    backup.restore()
    memory._rows.streams[stream.id].cursors[topic].sequence = 6  # written just before the worker noticed
    claim(harness, 6)
    assert [payload["sequence"] for payload in published(harness, 2)] == [4, 5]


def test_a_worker_that_has_not_noticed_a_new_history_writes_no_cursor_in_it(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    """Another worker has begun it: the number 4 is that of another event in it, which is still to be published."""
    (stream,) = memory.streams(HOST)
    topic = next(iter(stream.cursors))
    backup.restore()
    begin_history(memory, predecessor=memory.histories()[-1].ledger_id, reason="a test", now=NOW, new_id=NewIds())
    harness.engine._relay.moved[stream.id, topic] = 6
    with pytest.raises(Conflict):
        harness.engine._relay.flush()
    assert memory.streams(HOST)[0].cursors == {topic: 3}


def test_a_confirm_from_the_lost_history_confirms_nothing_of_the_new_one(
    make_harness: MakeHarness,
) -> None:
    harness = make_harness().start()
    memory = harness.store.inner
    assert isinstance(memory, MemoryStore)
    backup = Backup(memory)
    late: list[Any] = []
    confirmed, harness.engine.confirmed = harness.engine.confirmed, late.extend  # type: ignore[method-assign]
    harness.bus.stop(0)
    harness.connect()
    claim(harness, 1)
    published(harness, 1)
    backup.restore()
    claim(harness, 2)
    harness.finish()
    first, *new = late
    confirmed([first])
    harness.finish()
    harness.engine._relay.flush()
    assert first in new
    assert list(memory.streams(HOST)[0].cursors.values()) == [1]
    confirmed(new)
    harness.engine._relay.flush()
    assert list(memory.streams(HOST)[0].cursors.values()) == [3]


def test_a_worker_follows_a_history_that_another_one_has_begun(
    harness: EngineHarness, memory: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    claim(harness, 1)
    wait_until(lambda: list(memory.streams(HOST)[0].cursors.values()) == [2], "the cursor")
    payloads(harness)
    old = memory.histories()[-1].ledger_id
    new = begin_history(memory, predecessor=old, reason="a restore", now=NOW, new_id=NewIds())
    reply = claim(harness, 2)
    assert [history.ledger_id for history in memory.histories()] == [old, new]
    assert reply["generation"] == 4
    (error,) = errors(caplog)
    assert f"another worker or an operator has begun the ledger {new} (a restore)" in error
    assert [(told["event_type"], told["ledger_id"]) for told in published(harness, 2)] == [
        ("tracker.node.updated", new),
        ("tracker.claim.begun", new),
    ]


def test_nothing_is_published_in_a_new_history_before_the_bus_has_been_started(make_harness: MakeHarness) -> None:
    """Seed 7700014 of the simulation: while a worker starts, another one begins a history."""
    harness = make_harness()
    memory = harness.store.inner
    harness.engine.acquire_leases()
    harness.engine.start()
    harness.running = True
    begin_history(memory, predecessor=memory.histories()[-1].ledger_id, reason="a restore", now=NOW, new_id=NewIds())
    harness.inventories.start()
    harness.engine.audit(HOST)  # as the first audit does, before the bus is there
    harness.finish()
    assert harness.ledger().ledger_id == memory.histories()[-1].ledger_id
    assert harness.broker.notifications.empty()

    harness.connect()
    harness.engine.renew_leases()
    [told] = published(harness, 1)
    assert (told["event_type"], told["ledger_id"]) == ("tracker.node.updated", memory.histories()[-1].ledger_id)


def test_of_two_workers_one_begins_the_history_and_the_other_follows(
    harness: EngineHarness, make_harness: MakeHarness, memory: MemoryStore, backup: Backup
) -> None:
    settle(memory, host="host-2", nodes=1)
    both = Backup(memory)
    other = make_harness(store=memory, hosts=["host-2"], owner="worker-2").start()
    claim(harness, 6)
    claim(other, 7, source="host-2")
    both.restore()
    for worker in (harness, other):
        worker.engine.renew_leases()
    for worker in (harness, other):
        worker.finish()
    assert len(memory.histories()) == 2
    assert claim(other, 8, source="host-2")["generation"] == 3
    assert claim(harness, 9)["generation"] == 8


def test_a_generation_that_the_new_history_has_again_is_not_the_old_one(
    harness: EngineHarness, memory: MemoryStore
) -> None:
    """One commit is lost, and the first event of the new history takes its generation and its number."""
    backup = Backup(memory)
    claim(harness, 1)
    backup.restore()
    Writer(memory)  # another writer, which has not seen the lost commit
    begin_history(memory, predecessor=memory.histories()[-1].ledger_id, reason="a test", now=NOW, new_id=NewIds())
    assert harness.ledger().node(N1).generation == 2
    assert claim(harness, 2)["generation"] == 3
    assert harness.charged() == [uuid(2)]


def test_a_read_sees_the_new_history_also_at_a_generation_that_the_old_one_had(
    harness: EngineHarness, memory: MemoryStore
) -> None:
    backup = Backup(memory)
    claim(harness, 1)
    backup.restore()
    new = begin_history(memory, predecessor=memory.histories()[-1].ledger_id, reason="a test", now=NOW, new_id=NewIds())
    assert harness.ledger().node(N1).generation == 2
    view = harness.caller.call("get_node").reply()
    assert (view["ledger_id"], view["running_vms"]) == (new, 0)


def test_a_store_that_went_back_behind_the_last_history_gets_a_new_one(
    harness: EngineHarness, memory: MemoryStore
) -> None:
    backup = Backup(memory)
    first = memory.histories()[-1].ledger_id
    second = begin_history(memory, predecessor=first, reason="a test", now=NOW, new_id=NewIds())
    claim(harness, 1)
    backup.restore()
    claim(harness, 2)
    third = memory.histories()[-1]
    assert third.ledger_id not in (first, second)
    assert third.predecessor == first
    assert second in third.reason


def test_what_cannot_be_settled_now_is_settled_later(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    backup.restore()
    harness.store.script["histories"] = [AWAY, AWAY]
    assert claim(harness, 6)["generation"] == 5
    assert len(memory.histories()) == 2


def test_a_node_that_gets_another_name_has_lost_nothing(harness: EngineHarness, memory: MemoryStore) -> None:
    """The numbers of its new name are lower."""
    for number in range(1, 6):
        claim(harness, number)
    Administration(memory, notify=True).move_node(N1, host=HOST, to=HOST, name="node-new")
    assert claim(harness, 6)["node"] == "node-new"
    harness.engine.renew_leases()
    harness.finish()
    assert len(memory.histories()) == 1
    assert len(harness.charged()) == 6


def test_a_store_that_went_back_to_before_the_host_was_registered_gets_it_again(
    worker_harness: WorkerHarness,
) -> None:
    memory = worker_harness.store.inner
    assert isinstance(memory, MemoryStore)
    empty = Backup(memory)
    worker_harness.worker.start()
    claimed = worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    empty.restore()
    again = worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1))
    worker_harness.worker.reload()  # the inventory is read again at the next audit
    assert again.reply() != claimed
    assert len(memory.histories()) == 2


def test_a_hole_in_the_outbox_begins_one_new_history_and_what_is_behind_it_is_published(
    make_harness: MakeHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness = make_harness(topics=["one", "two"]).start(relaying=False)
    memory = harness.store.inner
    assert isinstance(memory, MemoryStore)
    old = memory.histories()[-1].ledger_id
    for number in (1, 2, 3):
        claim(harness, number)
    (stream,) = memory.streams(HOST)
    del memory._rows.streams[stream.id].outbox[3]
    harness.engine.acquire_leases()
    harness.engine.renew_leases()
    found = published(harness, 6)
    assert [history.predecessor for history in memory.histories()] == [None, old]
    (error,) = errors(caplog)
    assert "the outbox lacks the events 3 to 3 of node host-1/node-1" in error
    assert sorted(payload["sequence"] for payload in found) == [2, 2, 4, 4, 5, 5]
    assert {payload.get("previous_sequence") for payload in found} == {None, 4}


def test_payloads_of_one_ledger_never_use_a_number_twice(
    harness: EngineHarness, memory: MemoryStore, backup: Backup
) -> None:
    heard: list[dict[str, Any]] = []
    for number in range(6, 30):
        if number % 8 == 0:
            backup.restore()
        claim(harness, number)
        heard += payloads(harness)
    harness.engine.renew_leases()
    heard += payloads(harness)
    numbers = [(payload["ledger_id"], payload["node"], payload["sequence"]) for payload in heard]
    assert len(set(numbers)) == len(numbers)
    assert len({payload["message_id"] for payload in heard}) == len(numbers)
    assert json.dumps(heard)
