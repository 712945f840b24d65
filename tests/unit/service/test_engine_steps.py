# SPDX-License-Identifier: Apache-2.0
"""The engine step by step, without its thread, on a monotonic clock that only the test moves."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator

import pytest

from tests.support.builders import begin, instance_dict, node_name, uuid
from tests.support.caller import Call, Refused
from tests.support.engine import STEPS_TO_SETTLE, EngineHarness
from tests.support.store import Writer
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, Store, Unstorable


class Steps:
    """A harness whose engine is stepped by hand; ``now`` is the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.harness = EngineHarness(monotonic=lambda: self.now)
        self.store = self.harness.store
        self.harness.engine.acquire_leases()
        self.harness.connect()
        self.harness.engine.renew_leases()
        self.harness.bus.probe(sorted(self.harness.engine.held))
        for _ in range(STEPS_TO_SETTLE):
            self.step()

    def step(self) -> float | None:
        """One step. Time passes only where a script of the store says so."""
        return self.harness.engine.step(self.now)

    def begin(self, number: int, *, seconds: float) -> Call:
        """Call for a claim, and wait for its reply for ``seconds``."""
        return self.harness.caller.call(
            "begin_resource_claim", instance=instance_dict(number), deadline=self.now + seconds
        )

    def run_until(self, end: float) -> None:
        """Step whenever a step is due, up to the time ``end``."""
        while self.now < end:
            due = self.step()
            self.now = end if due is None else min(end, self.now + due)

    def silence(self, seconds: float) -> Callable[[], None]:
        """An access to the store that takes ``seconds`` and fails."""

        def access() -> None:
            self.now += seconds
            raise StoreUnavailable(reason="the database is silent")

        return access


@pytest.fixture(autouse=True)
def short_delays() -> None:
    """The delays are the real ones: the time is not."""


@pytest.fixture
def steps() -> Iterator[Steps]:
    made = Steps()
    yield made
    made.harness.stop()


def test_pruning_is_done_although_requests_arrived_before_it(steps: Steps) -> None:
    steps.begin(1, seconds=60)
    steps.harness.engine.prune(inbox_seconds=3600, outbox_seconds=3600)
    steps.step()
    assert steps.store.calls.count("prune") == 1


def test_pruning_is_left_out_while_a_failed_batch_waits(steps: Steps) -> None:
    steps.store.script["commit"] = [StoreUnavailable(reason="a test says so")]
    steps.harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
    steps.step()
    steps.harness.engine.prune(inbox_seconds=3600, outbox_seconds=3600)
    steps.step()
    assert steps.store.calls.count("prune") == 0


def test_pruning_is_left_out_while_the_rest_of_a_split_batch_waits(steps: Steps) -> None:
    """A batch was committed and the answer was lost. The inbox must keep the row of each item until the item is decided."""
    commit = steps.store.inner.commit

    def lost(made: Commit) -> None:
        commit(made)
        raise StoreUnavailable(reason="a test says so")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps.store.inner, "commit", lost)
        for number in (1, 2):
            steps.harness.caller.cast("begin_resource_claim", instance=instance_dict(number))
        steps.step()
    steps.harness.clock.forward(7200)
    steps.now += 7200
    charged: list[list[str]] = []
    steps.store.script["commit"] = [Unstorable("a test says so")]
    steps.store.script["prune"] = [lambda: charged.append(steps.harness.charged()) for _ in range(20)]
    steps.harness.caller.cast("begin_resource_claim", instance=instance_dict(3))
    for _ in range(12):
        steps.step()
        steps.harness.engine.prune(inbox_seconds=3600, outbox_seconds=3600)
        steps.now += 1
    assert charged != []
    assert all(uuids == [uuid(1), uuid(2), uuid(3)] for uuids in charged)


def test_a_call_after_an_outage_is_decided_although_the_last_call_of_the_outage_was_refused(steps: Steps) -> None:
    steps.store.script["commit"] = [steps.silence(9.8)]
    late = steps.begin(1, seconds=10)
    for _ in range(2):
        steps.step()
    assert isinstance(late.reply(), Refused)

    steps.now += 3600
    later = steps.begin(2, seconds=10)
    steps.step()
    assert later.reply()["instance_uuid"] == uuid(2)


def test_a_call_is_not_answered_with_an_outage_that_is_over(steps: Steps) -> None:
    """The store has answered since the outage, but with the news that it cannot store the batch."""
    steps.store.script["commit"] = [steps.silence(9.8), Unstorable("a test says so")]
    for number in (1, 2):
        steps.harness.caller.cast("begin_resource_claim", instance=instance_dict(number))
    steps.step()
    steps.now += 1
    steps.step()
    call = steps.begin(3, seconds=10)
    for _ in range(3):
        steps.step()
    assert call.reply()["instance_uuid"] == uuid(3)
    assert steps.harness.charged() == [uuid(1), uuid(2), uuid(3)]


@pytest.mark.parametrize(("timeout", "silence", "interval"), [(5, 3, 3), (5, 3, 20), (15, 10, 20), (60, 10, 20)])
def test_every_call_of_an_outage_is_answered_in_time(
    steps: Steps, timeout: float, silence: float, interval: float
) -> None:
    """A cursor waits to be written, a lease to be renewed, and every access to the store takes ``silence`` seconds."""
    steps.begin(1, seconds=60)
    steps.step()
    for name in Store.__abstractmethods__:
        steps.store.script[name] = [steps.silence(silence) for _ in range(1000)]
    draw = random.Random(2012)
    calls: list[tuple[float, Call]] = []
    arrives, renews, end = steps.now, steps.now + 5, steps.now + 1000
    while steps.now < end:
        while arrives <= steps.now:  # also what arrived while the engine waited for the store
            calls.append((arrives + timeout, steps.begin(len(calls) + 2, seconds=arrives + timeout - steps.now)))
            arrives += draw.expovariate(1 / interval)
        if renews <= steps.now:
            steps.harness.engine.renew_leases()
            renews += 5
        due = steps.step()
        late = [deadline for deadline, call in calls if deadline <= steps.now and not call.replied()]
        assert late == []
        calls = [(deadline, call) for deadline, call in calls if not call.replied()]
        steps.now = max(steps.now, min(arrives, renews, steps.now + (interval if due is None else due)))


def test_a_call_is_told_in_time_although_cursors_wait_to_be_written(steps: Steps) -> None:
    steps.begin(1, seconds=60)
    steps.step()  # its notification is confirmed, so that a cursor has moved
    steps.store.script["commit"] = [steps.silence(5) for _ in range(10)]
    steps.now += 1
    deadline = steps.now + 16
    call = steps.begin(2, seconds=16)
    while not call.replied() and steps.now < deadline:
        steps.now += steps.step() or 0
    assert steps.now < deadline
    assert isinstance(call.reply(), Refused)


def test_the_relay_goes_on_while_a_batch_waits_for_the_store(lagging: Steps) -> None:
    """The store cannot write: it is full, for example."""
    lagging.store.script["outbox"].clear()
    lagging.harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
    lagging.run_until(lagging.now + 10)
    assert len(lagging.harness.notified()) == 3
    assert lagging.harness.unsettled() == 1


def test_a_relay_that_lags_reads_although_cursors_cannot_be_written(steps: Steps) -> None:
    steps.begin(1, seconds=60)
    steps.step()
    steps.store.script["commit"] = [StoreUnavailable(reason="a test says so") for _ in range(1000)]
    steps.run_until(steps.now + 5)
    steps.harness.notified()
    add_notifications(steps)
    steps.run_until(steps.now + 10)
    assert len(steps.harness.notified()) == 3


def test_a_relay_that_lags_asks_an_unavailable_store_less_and_less_often(
    lagging: Steps, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        lagging.run_until(lagging.now + 60)
    reads = lagging.store.calls.count("outbox")
    assert 10 < reads < 40
    assert sum("the relay is put off" in record.getMessage() for record in caplog.records) == reads
    lagging.store.script.clear()
    lagging.run_until(lagging.now + 10)
    assert len(lagging.harness.notified()) == 3


def add_notifications(steps: Steps) -> None:
    """Another worker makes three claims; the relay learns of them when the lease is renewed."""
    writer = Writer(steps.store.inner)
    for number in (7, 8, 9):
        writer.put(begin(number, node=node_name(1)))
    writer.commit()
    steps.harness.engine.renew_leases()


@pytest.fixture
def lagging(steps: Steps) -> Steps:
    """Another worker has added three notifications, and the store is unavailable."""
    add_notifications(steps)
    for name in ("commit", "outbox"):
        steps.store.script[name] = [StoreUnavailable(reason="a test says so") for _ in range(1000)]
    return steps
