# SPDX-License-Identifier: Apache-2.0
"""What is a violation, and what is none."""

from __future__ import annotations

import pytest

from tests.simulation.queues import Stored
from tests.simulation.test_outside import settled, started
from tests.simulation.watch import Violation
from tests.simulation.world import World
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Commit, InboxRow


def given(world: World, unique_id: str) -> None:
    """The queue of h1 gives a command to its worker."""
    queue = world.broker.queue("h1")
    assert queue is not None
    message = Stored("openstack", "tracker.h1", b"\0\0", b"", world.stage.now, unique_id)
    world.judge.turns.given(queue, message, queue.consumers[0].session)


def decided(world: World, *unique_ids: str) -> None:
    queue = world.broker.queue("h1")
    assert queue is not None
    rows = [InboxRow(unique_id=unique_id, host_id=1, reply=b"", received_at=0) for unique_id in unique_ids]
    ledgers = [NodeLedger(id=1, host="h1", name="n1")]
    world.judge.turns.committed(queue.consumers[0].session.client, Commit(ledgers=ledgers, inbox_rows=rows))


def test_a_command_that_is_decided_out_of_its_turn_is_a_violation() -> None:
    world = started(11)
    for unique_id in ("first", "second", "third"):
        given(world, unique_id)
    decided(world, "first", "third")
    with pytest.raises(Violation, match=r"message second of tracker\.h1 was decided after another one"):
        decided(world, "second")


def test_what_changes_nothing_has_no_turn() -> None:
    world = started(15)
    for unique_id in ("first", "second"):
        given(world, unique_id)
    decided(world, "second")
    queue = world.broker.queue("h1")
    assert queue is not None
    row = InboxRow(unique_id="first", host_id=1, reply=b"", received_at=0)
    world.judge.turns.committed(queue.consumers[0].session.client, Commit(inbox_rows=[row]))


def test_what_was_parked_is_decided_once_more_when_the_worker_does_not_learn_of_its_commit() -> None:
    world = started(16)
    for unique_id in ("first", "second", "third"):
        given(world, unique_id)
    decided(world, "second")
    queue = world.broker.queue("h1")
    assert queue is not None
    world.judge.turns.in_doubt(queue.consumers[0].session.client)
    decided(world, "third", "first")


def test_a_copy_in_the_same_hands_may_be_decided_in_the_turn_of_either() -> None:
    world = started(12)
    for unique_id in ("first", "second", "first"):
        given(world, unique_id)
    decided(world, "second")
    decided(world, "first")


def test_a_copy_in_the_same_hands_stays_one_when_the_database_goes_back() -> None:
    world = started(14)
    given(world, "first")
    world.judge.turns.went_back()
    for unique_id in ("second", "first"):
        given(world, unique_id)
    decided(world, "first", "second")


def test_a_notification_that_the_broker_cannot_read_is_skipped_and_the_node_goes_on() -> None:
    world = started(13, workers=1)
    world.act(13, rate=30, hostile=False, operator=False)
    world.broker.poison_next = True
    refused: list[int] = []
    for _ in range(40):
        world.stage.run(world.stage.now + 0.5)
        refused += [row.refused_sequence for row in world.store.backlog() if row.refused_sequence is not None]
    assert refused
    world.broker.poison = None
    assert all(row.refused_sequence is None for row in world.store.backlog())
    settled(world)


def test_a_claim_that_expires_before_its_end_is_read_is_a_violation() -> None:
    world = started(14, workers=1)
    worker = world.sites[0].worker
    queue = world.broker.queue("h1")
    assert worker is not None
    assert queue is not None
    claim = {"host": "h1", "claim_id": "c1", "instance_id": "i1"}
    expiries = world.judge.expiries
    expiries._due["c1"] = world.stage.now + 1
    end = Stored("openstack", "tracker.h1", b"\0\0", b"abort_resource_claim c1", world.stage.now, "end")
    queue.ready.append(end)
    expiries._look_for_its_end(claim, worker)  # it came after the worker had read the queue
    end.came_at = end.moved_at = 0.0
    worker._engine._chores.expiry._since["h1"] = 1.0
    with pytest.raises(Violation, match="its end waits in the queue of h1"):
        expiries._look_for_its_end(claim, worker)
