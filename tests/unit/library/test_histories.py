# SPDX-License-Identifier: Apache-2.0
"""The tracker's store goes back, or goes on in another history: the tracker forgets what is lost, and goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.backup import Backup
from tests.support.builders import NOW, instance_dict, uuid
from tests.support.tracker import CONTEXT, audited
from tracker_worker.ids import NewIds
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.new_history import begin_history
from tracker_worker.store.memory import MemoryStore

Use = Callable[[ResourceTracker], object]


def claim(tracker: ResourceTracker, number: int) -> None:
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(number)) is not None


USES: dict[str, Use] = {
    "a claim": lambda tracker: claim(tracker, 3),
    "a read": lambda tracker: tracker.compute_node,
    "an update": lambda tracker: tracker.update_usage(CONTEXT, {"uuid": uuid(1), "vm_state": "active"}),
    "an audit": lambda tracker: tracker.update_available_resource(CONTEXT),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_store_that_went_back_gets_a_new_history(use: Use, caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    claim(tracker, 1)
    backup = Backup(store)
    claim(tracker, 2)
    backup.restore()
    use(tracker)
    assert uuid(2) not in tracker.tracked_instances
    assert uuid(1) in tracker.tracked_instances
    assert len(store.histories()) == 2
    view = tracker.compute_node
    assert view is not None
    assert view["ledger_id"] == store.histories()[-1].ledger_id
    assert "1 commits are lost" in caplog.text


def test_a_read_sees_the_new_history_also_at_a_generation_that_the_old_one_had() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    claim(tracker, 1)
    backup = Backup(store)
    claim(tracker, 2)
    lost = tracker.compute_node
    backup.restore()
    new = begin_history(
        store, predecessor=store.histories()[-1].ledger_id, reason="a restore", now=NOW, new_id=NewIds()
    )
    view = tracker.compute_node
    assert lost is not None
    assert view is not None
    assert (view["ledger_id"], view["running_vms"], view["generation"]) == (new, 1, lost["generation"])


def test_a_history_that_another_writer_has_begun_is_followed() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    claim(tracker, 1)
    first = store.histories()[-1].ledger_id
    second = begin_history(store, predecessor=first, reason="a restore", now=NOW, new_id=NewIds())
    claim(tracker, 2)
    assert [history.ledger_id for history in store.histories()] == [first, second]
    assert set(tracker.tracked_instances) == {uuid(1), uuid(2)}
