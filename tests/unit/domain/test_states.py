# SPDX-License-Identifier: Apache-2.0
"""The state tables: the known states and the meaning of each state for the ledger."""

from __future__ import annotations

import pytest

from tests.support.builders import begin, host_ledger, instance, play, update, uuid
from tracker_worker.domain.states import (
    IO_TASK_STATES,
    IO_VM_STATES,
    RELEASING,
    TASK_STATES,
    UNBUILT,
    VM_STATES,
)
from tracker_worker.domain.stats import Stats

SEED_VM_STATES = [
    "active", "building", "paused", "suspended", "stopped", "rescued", "resized", "soft-delete", "deleted", "error",
]  # fmt: skip
SEED_TASK_STATES = [
    "scheduling", "block_device_mapping", "networking", "spawning", "image_snapshot", "image_backup",
    "updating_password", "resize_prep", "resize_migrating", "resize_migrated", "resize_finish", "resize_reverting",
    "resize_confirming", "rebooting", "rebooting_hard", "pausing", "unpausing", "suspending", "resuming",
    "stopping", "starting", "powering-off", "powering-on", "rescuing", "unrescuing", "rebuilding",
    "rebuild_block_device_mapping", "rebuild_spawning", "migrating", "deleting",
]  # fmt: skip


@pytest.mark.behaviour("release-states")
def test_every_vm_state_of_the_original_is_known():
    assert set(SEED_VM_STATES) <= VM_STATES
    assert VM_STATES - set(SEED_VM_STATES) == {"shelved", "shelved_offloaded"}


@pytest.mark.behaviour("release-states")
def test_the_release_rule_is_a_table_over_known_states():
    assert set(RELEASING) == {"deleted", "shelved_offloaded"} <= VM_STATES


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("task_state", [None, "deleting", "spawning"])
@pytest.mark.parametrize("old", [*sorted(VM_STATES - {"deleted"}), None])
@pytest.mark.parametrize("new", [*sorted(VM_STATES), None])
def test_only_deleted_and_a_change_to_shelved_offloaded_release(old, new, task_state):
    host = host_ledger()
    play(host, begin(1, vm_state=old))
    play(host, update(1, vm_state=new, task_state=task_state))
    assert (host.holding(uuid(1)) is None) is (new == "deleted" or (new == "shelved_offloaded" and old != new))


@pytest.mark.behaviour("built-stays-charged")
def test_an_instance_that_is_building_in_error_or_shelved_need_not_be_built():
    assert set(UNBUILT) == {None, "building", "error", "shelved", "shelved_offloaded"}


@pytest.mark.behaviour("task-states")
def test_the_task_states_are_those_of_the_original():
    assert set(SEED_TASK_STATES) == TASK_STATES


@pytest.mark.behaviour("workload-counters")
def test_the_io_heavy_states_are_building_and_five_task_states():
    assert sorted(IO_VM_STATES) == ["building"]
    assert sorted(IO_TASK_STATES) == ["image_backup", "image_snapshot", "rebuilding", "resize_migrating", "resize_prep"]


@pytest.mark.behaviour("workload-counters")
@pytest.mark.parametrize(
    ("vm_state", "task_state", "load"),
    [
        ("active", None, 0),
        (None, None, 0),
        ("building", "spawning", 1),
        ("active", "image_backup", 1),
        ("building", "rebuilding", 2),
        ("active", "resize_migrated", 0),
    ],
)
def test_an_instance_may_count_twice_in_the_io_workload(vm_state, task_state, load):
    counted = Stats()
    counted.add(instance(vm_state=vm_state, task_state=task_state))
    assert counted.io_workload == load
