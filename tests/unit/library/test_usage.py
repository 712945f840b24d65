# SPDX-License-Identifier: Apache-2.0
"""``update_usage`` and the counters."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import instance_dict, sized, uuid
from tests.support.tracker import CONTEXT, audited, event_types, picture, used
from tracker_worker.domain.states import VM_STATES
from tracker_worker.errors import InvalidInput
from tracker_worker.store.memory import MemoryStore


@pytest.mark.behaviour("usage-update")
def test_an_update_of_an_instance_that_is_not_tracked_is_ignored_and_counted() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(store)
    tracker.update_usage(CONTEXT, instance_dict(2))
    tracker.update_usage(CONTEXT, instance_dict(3, vm_state="deleted"))
    assert (picture(tracker), event_types(store)) == before
    assert tracker.ignored_updates == 2


@pytest.mark.behaviour("usage-update")
def test_an_update_that_changes_nothing_writes_nothing() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker), event_types(store)
    tracker.update_usage(CONTEXT, instance_dict(1, hostname="read by nobody"))
    tracker.update_usage(CONTEXT, {"uuid": uuid(1)})
    assert (picture(tracker), event_types(store)) == before
    assert tracker.ignored_updates == 0


@pytest.mark.behaviour("usage-update")
def test_an_update_of_states_takes_effect() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.update_usage(CONTEXT, {"uuid": uuid(1), "vm_state": "active", "task_state": None})
    counters = tracker.stats.to_dict()
    assert {key: value for key, value in counters.items() if key.startswith(("num_vm", "num_task", "io"))} == {
        "io_workload": 0,
        "num_vm_active": 1,
        "num_task_None": 1,
    }
    assert used(tracker) == (2, 4608, 50)
    assert event_types(store)[-1] == "tracker.usage.updated"


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("state", sorted(VM_STATES - {"deleted", "shelved_offloaded"}))
def test_a_state_that_does_not_release_keeps_the_charge(state: str) -> None:
    tracker = audited()
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state=state, task_state=None))
    assert used(tracker) == (2, 4608, 50)


@pytest.mark.behaviour("usage-update")
def test_an_update_to_deleted_releases_the_instance_and_its_claim() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
    assert (tracker.claims, tracker.tracked_instances, used(tracker)) == ({}, {}, (0, 512, 0))
    assert tracker.stats.to_dict() == {"num_instances": 0, "num_vcpus_used": 0, "io_workload": 0}
    assert event_types(store)[1:] == ["tracker.claim.begun", "tracker.usage.released"]


@pytest.mark.behaviour("release-exactly-once")
@pytest.mark.parametrize("order", ["delete, abort", "abort, delete", "delete, delete", "delete, finish"])
def test_a_charge_is_released_once_even_if_it_ends_twice(order: str) -> None:
    tracker = audited()
    instance = instance_dict(1)
    tracker.begin_resource_claim(CONTEXT, instance)
    for step in order.split(", "):
        if step == "delete":
            tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted"))
        elif step == "abort":
            tracker.abort_resource_claim(CONTEXT, uuid(1), instance)
        else:
            tracker.finish_resource_claim(uuid(1))
        assert used(tracker) == (0, 512, 0)


@pytest.mark.behaviour("size-change")
def test_a_changed_size_is_charged_anew_and_a_deletion_releases_exactly_that_charge() -> None:
    store = MemoryStore()
    tracker = audited(store=store)
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.begin_resource_claim(CONTEXT, instance_dict(2))
    tracker.update_usage(CONTEXT, instance_dict(1, **sized(5, 1000, 7)))
    assert used(tracker) == (7, 512 + 4096 + 1000, 57)
    assert tracker.stats.num_vcpus_used == 7
    claim = tracker.claims[uuid(1)]
    assert (claim.vcpus, claim.memory_mb, claim.disk_gb) == (5, 1000, 7)
    assert event_types(store)[-1] == "tracker.usage.updated"
    # The deletion carries other sizes, which must not count.
    tracker.update_usage(CONTEXT, instance_dict(1, vm_state="deleted", **sized(99, 99, 99)))
    assert used(tracker) == (2, 4608, 50)


@pytest.mark.behaviour("usage-update")
def test_an_update_may_charge_more_than_the_node_has() -> None:
    tracker = audited(missing_limit="capacity")
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    tracker.update_usage(CONTEXT, instance_dict(1, **sized(33, 200_000, 3000)))
    assert used(tracker) == (33, 200_512, 3000)


@pytest.mark.behaviour("size-values")
def test_an_invalid_update_changes_nothing() -> None:
    tracker = audited()
    tracker.begin_resource_claim(CONTEXT, instance_dict(1))
    before = picture(tracker)
    wrongs: list[dict[str, Any]] = [{"vcpus": -1}, {"memory_mb": 1.0}, {"vm_state": "asleep"}, {"uuid": ""}]
    for wrong in wrongs:
        with pytest.raises(InvalidInput):
            tracker.update_usage(CONTEXT, instance_dict(1, task_state="spawning", **wrong))
    assert picture(tracker) == before


@pytest.mark.behaviour("workload-counters")
def test_the_counters_and_their_accessors_count_the_claimed_instances() -> None:
    tracker = audited()
    instances: list[dict[str, Any]] = [
        {"vm_state": "building", "task_state": "image_snapshot", "os_type": "linux", "project_id": "p"},
        {"vm_state": "active", "task_state": "resize_prep", "os_type": "linux", "project_id": "p"},
        {"vm_state": "stopped", "task_state": None, "os_type": "windows", "project_id": "q"},
    ]
    for number, fields in enumerate(instances, start=1):
        tracker.begin_resource_claim(CONTEXT, instance_dict(number, **fields))
    stats = tracker.stats
    assert stats.to_dict() == {
        "num_instances": 3,
        "num_vcpus_used": 6,
        "io_workload": 3,
        "num_vm_building": 1,
        "num_vm_active": 1,
        "num_vm_stopped": 1,
        "num_task_image_snapshot": 1,
        "num_task_resize_prep": 1,
        "num_task_None": 1,
        "num_os_type_linux": 2,
        "num_os_type_windows": 1,
        "num_proj_p": 2,
        "num_proj_q": 1,
    }
    assert (stats.num_instances_for_project("p"), stats.num_instances_for_project("nobody")) == (2, 0)
    assert (stats.num_os_type("linux"), stats.num_os_type("plan9"), stats.num_vcpus_used) == (2, 0, 6)
    view = tracker.compute_node
    assert view is not None
    assert (view["running_vms"], view["current_workload"]) == (3, 2)
