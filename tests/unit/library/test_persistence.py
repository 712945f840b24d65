# SPDX-License-Identifier: Apache-2.0
"""Commits that fail, and trackers that restart on the same store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import HOST, NODE, instance_dict, sized, uuid
from tests.support.store import picture as stored
from tests.support.tracker import (
    CONTEXT,
    Clock,
    FailingMemoryStore,
    FailingSQLStore,
    audited,
    driver,
    event_types,
    picture,
    sqlite,
    used,
)
from tracker_worker.errors import StoreUnavailable
from tracker_worker.library.tracker import ResourceTracker

Failing = FailingMemoryStore | FailingSQLStore
Work = Callable[[ResourceTracker, dict[str, Any]], object]

WORK: dict[str, Work] = {
    "begin": lambda tracker, _: tracker.begin_resource_claim(CONTEXT, instance_dict(2)),
    "refuse": lambda tracker, _: tracker.begin_resource_claim(CONTEXT, instance_dict(2), {"vcpu": 0}),
    "manage": lambda tracker, _: tracker.resource_claim(CONTEXT, memory_mb=1),
    "finish": lambda tracker, _: tracker.finish_resource_claim(uuid(1)),
    "abort": lambda tracker, instance: tracker.abort_resource_claim(CONTEXT, uuid(1), instance),
    "update": lambda tracker, _: tracker.update_usage(CONTEXT, instance_dict(1, **sized(1))),
    "delete": lambda tracker, _: tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted")),
}


@pytest.mark.behaviour("atomic-claim")
@pytest.mark.parametrize("work", WORK)
def test_a_failed_commit_changes_nothing_and_the_operation_can_be_repeated(failing_store: Failing, work: str) -> None:
    tracker = audited(store=failing_store)
    instance = instance_dict(1)
    tracker.begin_resource_claim(CONTEXT, instance)
    before = picture(tracker), stored(failing_store), dict(instance)
    failing_store.failing = True
    with pytest.raises(StoreUnavailable):
        WORK[work](tracker, instance)
    assert (picture(tracker), stored(failing_store), instance) == before
    failing_store.failing = False
    WORK[work](tracker, instance)
    assert len(event_types(failing_store)) == len(before[1]["outbox"][1]) + 1


@pytest.mark.behaviour("atomic-claim")
def test_an_instance_gets_no_host_when_the_commit_of_its_claim_fails(failing_store: Failing) -> None:
    tracker = audited(store=failing_store)
    instance = instance_dict(1)
    failing_store.failing = True
    with pytest.raises(StoreUnavailable):
        tracker.begin_resource_claim(CONTEXT, instance)
    assert instance == instance_dict(1)


@pytest.mark.behaviour("atomic-claim")
def test_a_claim_whose_commit_raised_after_it_was_made_exists_and_may_be_repeated(failing_store: Failing) -> None:
    tracker = audited(store=failing_store)
    instance = instance_dict(1)
    failing_store.failing = failing_store.too_late = True
    with pytest.raises(StoreUnavailable):
        tracker.begin_resource_claim(CONTEXT, instance)
    failing_store.failing = False
    assert list(tracker.claims) == [uuid(1)]
    assert tracker.begin_resource_claim(CONTEXT, instance) == tracker.claims[uuid(1)]
    assert instance["host"] == HOST
    assert used(tracker) == (2, 4608, 50)
    assert event_types(failing_store)[1:] == ["tracker.claim.begun"]


@pytest.mark.behaviour("atomic-claim")
def test_a_tracker_that_restarts_on_the_same_store_finds_its_whole_ledger(tmp_path: Path) -> None:
    clock = Clock()
    store = sqlite(tmp_path)
    tracker = audited(store=store, clock=clock)
    for number in (1, 2, 3):
        tracker.begin_resource_claim(CONTEXT, instance_dict(number, vcpus=number))
    tracker.finish_resource_claim(uuid(2))
    tracker.update_usage(CONTEXT, {"uuid": uuid(2), "vm_state": "active", "task_state": None})
    before = picture(tracker)
    store.stop()

    store = sqlite(tmp_path)
    again = ResourceTracker(HOST, driver(), store=store, clock=clock)
    assert again.disabled
    again.update_available_resource(CONTEXT)
    assert picture(again) == before
    again.abort_resource_claim(CONTEXT, before["claims"][uuid(1)])
    assert used(again) == (5, 512 + 2 * 4096, 100)
    store.stop()


@pytest.mark.behaviour("claim-expiry")
def test_claims_that_became_overdue_while_no_tracker_ran_expire_at_the_first_audit(tmp_path: Path) -> None:
    clock = Clock()
    store = sqlite(tmp_path)
    audited(store=store, clock=clock).begin_resource_claim(CONTEXT, instance_dict(1))
    store.stop()
    clock.at += 601
    store = sqlite(tmp_path)
    again = audited(store=store, clock=clock)
    assert (again.claims, used(again)) == ({}, (2, 4608, 50))
    store.stop()


@pytest.mark.behaviour("atomic-claim")
def test_a_tracker_without_a_store_of_its_own_keeps_no_notifications() -> None:
    tracker = audited()
    for number in range(5):
        tracker.begin_resource_claim(CONTEXT, instance_dict(number))
    assert event_types(tracker._decisions._store, NODE) == []
    view = tracker.compute_node
    assert view is not None
    assert view["sequence"] == 6


def test_the_library_imports_neither_a_bus_nor_a_database() -> None:
    program = (
        "import sys, tracker_worker.library.tracker as t; from tracker_worker.inventory.fake import FakeDriver\n"
        "tracker = t.ResourceTracker('h', FakeDriver('h')); tracker.update_available_resource(None)\n"
        "print(*sorted({'oslo_messaging', 'oslo_service', 'eventlet', 'kombu', 'amqp', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "", "")
