# SPDX-License-Identifier: Apache-2.0
"""Claims expire by time that has passed, and not before what waits in the queue of their host was read."""

from __future__ import annotations

import logging

import pytest

from tests.support.builders import HOST, TIMEOUT, begin, instance_dict, node_name, uuid
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer, settle
from tests.unit.service.conftest import MakeHarness
from tracker_worker.bus.memory import MemoryBroker
from tracker_worker.domain.values import SECOND
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import LEASE_SECONDS
from tracker_worker.store.memory import MemoryStore

N1 = node_name(1)
TIMEOUT_SECONDS = TIMEOUT // SECOND
DAY = 86400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def harness(make_harness: MakeHarness, clock: Clock) -> EngineHarness:
    return make_harness(clock=clock).start()


def audit(harness: EngineHarness) -> None:
    harness.engine.audit(HOST)
    for _ in range(2):  # the task, then its chore
        harness.finish()


def begun(harness: EngineHarness) -> list[str]:
    """The instances whose claims are begun."""
    return sorted(uuid for ledger in harness.ledger() for uuid in ledger.begun)


class TestSteppedClock:
    @pytest.mark.parametrize("asked", [False, True], ids=["periodic", "called"])
    def test_a_step_forward_ends_no_claim(
        self, harness: EngineHarness, clock: Clock, caplog: pytest.LogCaptureFixture, asked: bool
    ) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        clock.step(26 * 365 * DAY)
        clock.forward(1)
        if asked:
            harness.caller.call("update_available_resource").reply()
        else:
            audit(harness)
        assert begun(harness) == [uuid(1)]
        told = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(told) == 1
        assert "clock" in told[0]
        assert "+819936000.0 s" in told[0]

    def test_expiry_goes_on_one_claim_timeout_after_the_step(self, harness: EngineHarness, clock: Clock) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        clock.step(3600)
        clock.forward(1)
        audit(harness)
        clock.forward(TIMEOUT_SECONDS - 1)
        audit(harness)
        assert begun(harness) == [uuid(1)]
        clock.forward(1)
        audit(harness)
        assert begun(harness) == []

    def test_a_step_that_another_chore_has_found_ends_no_claim_that_is_about_to_expire(
        self, harness: EngineHarness, clock: Clock
    ) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        with harness.busy():
            harness.engine.audit(HOST)
            clock.step(3600)
            harness.engine.renew_leases()
        for _ in range(2):
            harness.finish()
        assert begun(harness) == [uuid(1)]

    def test_after_a_step_back_the_times_of_events_do_not_fall(self, harness: EngineHarness, clock: Clock) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        clock.step(-3600)
        harness.engine.renew_leases()
        changes = {"uuid": uuid(1), "vm_state": "deleted"}
        harness.caller.call("update_usage", instance=changes).reply()
        [stream] = harness.store.inner.streams(HOST)
        times = [row.occurred_at for row in harness.store.inner.outbox(stream.id, after=0, limit=10)]
        assert len(times) == 3
        assert times == sorted(times)


class TestQueueThatWasNotRead:
    """A worker starts after a long time in which nobody has read the host's queue."""

    @pytest.fixture
    def store(self, clock: Clock) -> MemoryStore:
        store = MemoryStore(now=clock)
        settle(store, nodes=1)
        for number in (1, 2):
            Writer(store).put(begin(number, node=N1)).commit()
        clock.forward(TIMEOUT_SECONDS + 1)
        return store

    def test_a_claim_whose_end_waits_there_does_not_expire(
        self, make_harness: MakeHarness, clock: Clock, store: MemoryStore
    ) -> None:
        broker = MemoryBroker()
        standing = make_harness(store=store, broker=broker, clock=clock, owner="standing")
        standing.caller.cast("finish_resource_claim", claim_id=uuid(1))
        harness = make_harness(store=store, broker=broker, clock=clock)
        harness.engine.acquire_leases()
        audit_before_the_queue_is_read(harness)
        harness.start()
        audit(harness)
        states = {a.uuid: a.claim_state for ledger in harness.ledger() for a in ledger.allocations.values()}
        assert states == {uuid(1): "finished", uuid(2): "expired"}

    def test_a_claim_whose_end_another_worker_has_received_does_not_expire(
        self, make_harness: MakeHarness, clock: Clock, store: MemoryStore
    ) -> None:
        """The other worker hangs, and its lease ends before its connection does: the queue is empty, and not read."""
        broker = MemoryBroker()
        clock.forward(-TIMEOUT_SECONDS)
        hanging = make_harness(store=store, broker=broker, clock=clock, owner="hanging").start()
        hanging.bus.pause()
        hanging.caller.cast("finish_resource_claim", claim_id=uuid(1))
        clock.forward(TIMEOUT_SECONDS + LEASE_SECONDS + 1)
        harness = make_harness(store=store, broker=broker, clock=clock).start()
        assert harness.engine.held == {HOST}
        audit(harness)
        assert begun(harness) == [uuid(1), uuid(2)]
        hanging.stop(release=False)
        for _ in range(3):  # the end, the empty queue, its chore
            harness.finish()
        audit(harness)
        states = {a.uuid: a.claim_state for ledger in harness.ledger() for a in ledger.allocations.values()}
        assert states == {uuid(1): "finished", uuid(2): "expired"}

    def test_nothing_expires_while_it_is_not_read_to_its_end(
        self, make_harness: MakeHarness, clock: Clock, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(MemoryBroker, "is_empty", lambda self, source: False)
        harness = make_harness(store=store, clock=clock).start()
        clock.forward(TIMEOUT_SECONDS - 1)
        harness.engine.renew_leases()
        audit(harness)
        assert begun(harness) == [uuid(1), uuid(2)]
        clock.forward(1)
        audit(harness)
        assert begun(harness) == []

    def test_messages_of_a_connection_that_is_lost_are_read_first(self, harness: EngineHarness) -> None:
        harness.stop()
        expiry, ledgers = harness.engine._chores.expiry, harness.ledger()
        found: list[Chore] = []
        expiry._submit = found.append
        expiry.gained(HOST)
        expiry.emptied(HOST)  # what came before is not decided yet
        expiry.connection_lost()
        for chore in found:
            assert chore.done is not None
            chore.done(ledgers)
        assert not expiry.may(HOST)
        expiry.emptied(HOST)
        assert found[-1].done is not None
        found[-1].done(ledgers)
        assert expiry.may(HOST)

    def test_a_worker_that_takes_over_waits_again(
        self, make_harness: MakeHarness, clock: Clock, store: MemoryStore
    ) -> None:
        first = make_harness(store=store, clock=clock, owner="first").start()
        second = make_harness(store=store, clock=clock, owner="second").start()
        assert not second.engine._chores.expiry.may(HOST)
        second.caller.call("get_node").reply()
        for _ in range(3):
            second.finish()
        assert second.engine._chores.expiry.may(HOST)
        first.engine.renew_leases()
        first.finish()
        assert not first.engine._chores.expiry.may(HOST)


def audit_before_the_queue_is_read(harness: EngineHarness) -> None:
    """What a start does before its bus is started."""
    harness.engine.audit(HOST)
    for _ in range(3):
        harness.engine.step(harness.clock.monotonic())
    assert begun(harness) == [uuid(1), uuid(2)]
