# SPDX-License-Identifier: Apache-2.0
"""Pruning of the inbox: a copy that waited while no worker consumed it is still recognised."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.builders import instance_dict, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.support.worker import WorkerHarness
from tracker_worker.domain import usage
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service import worker as module

HOUR = 3600


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timers with intervals of seconds fire almost immediately."""
    real = module.Timers.every

    def every(timers: Any, interval_seconds: float, action: Callable[[], None]) -> Any:
        return real(timers, min(interval_seconds, 0.01), action)

    monkeypatch.setattr(module.Timers, "every", every)


def pruned(worker_harness: WorkerHarness) -> None:
    """Wait until rows have been pruned under the present conditions."""
    before = worker_harness.store.calls.count("prune")
    wait_until(lambda: worker_harness.store.calls.count("prune") >= before + 3, "it is pruned")


@pytest.mark.usefixtures("quick")
def test_the_retention_of_inbox_rows_begins_again_after_a_lost_connection(
    worker_harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker_harness.worker.start()
    worker_harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    [unique_id] = next(commit.answered for commit in worker_harness.store.commits if commit.answered)

    def known() -> bool:
        pruned(worker_harness)
        return bool(worker_harness.store.inner.answered([unique_id]))

    with monkeypatch.context() as cut_off:
        cut_off.setattr(worker_harness.bus, "connected", lambda: False)
        pruned(worker_harness)
        worker_harness.clock.forward(5 * HOUR)
        assert known()
    assert known()
    worker_harness.clock.forward(HOUR - 1)
    assert known()
    worker_harness.clock.forward(1)
    assert not known()


def test_nothing_is_pruned_while_messages_wait_for_the_store(harness: EngineHarness) -> None:
    # The commit whose answer was lost may have been made, and the waiting messages are looked up when the store is available.
    tried: queue.SimpleQueue[None] = queue.SimpleQueue()

    def away() -> None:
        harness.engine.prune(inbox_seconds=HOUR, outbox_seconds=HOUR)
        tried.put(None)
        raise StoreUnavailable(reason="the connection is lost")

    harness.store.script["commit"] = [away]
    harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
    tried.get(timeout=SECONDS)
    harness.finish()
    assert harness.charged() == [uuid(1)]
    assert harness.store.calls.count("prune") == 0
    harness.engine.prune(inbox_seconds=HOUR, outbox_seconds=HOUR)
    harness.finish()
    assert harness.store.calls.count("prune") == 1


def test_a_host_that_remembers_as_many_deletions_as_are_kept_says_so_once(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage, "MOST_DELETIONS", 3)

    def remembered() -> list[str]:
        harness.finish()
        return [name for ledger in harness.ledger() for name in ledger.deletions]

    def prune() -> list[str]:
        harness.engine.prune(inbox_seconds=HOUR, outbox_seconds=HOUR)
        harness.finish()
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    def delete(number: int) -> None:
        harness.caller.call("update_usage", instance={"uuid": uuid(number), "vm_state": "deleted"}).reply()

    for number in (1, 2):
        delete(number)
    assert prune() == []
    for number in (3, 4, 5):
        delete(number)
    assert remembered() == [uuid(3), uuid(4), uuid(5)]
    said = (
        "host host-1: 3 deletions of instances that were not charged are remembered, as many as are kept; for each further "
        "one the oldest is forgotten"
    )
    assert prune() == prune() == [said]
    assert remembered() == [uuid(3), uuid(4), uuid(5)]
