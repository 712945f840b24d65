# SPDX-License-Identifier: Apache-2.0
"""The state tables: the known states and the meaning of each state for the ledger."""

from __future__ import annotations

import pytest

from tests.support.builders import instance
from tracker_worker.domain.states import (
    IO_TASK_STATES,
    IO_VM_STATES,
    RELEASING,
    TASK_STATES,
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
@pytest.mark.parametrize("vm_state", [state for state in SEED_VM_STATES if state != "deleted"] + ["shelved", None])
@pytest.mark.parametrize("task_state", [None, "deleting", "spawning"])
def test_of_the_states_of_the_original_only_deleted_releases(vm_state, task_state):
    assert instance(vm_state=vm_state, task_state=task_state).releases is False


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("task_state", [None, *SEED_TASK_STATES])
def test_deleted_releases_with_every_task_state(task_state):
    assert instance(vm_state="deleted", task_state=task_state).releases is True


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("task_state", [None, *SEED_TASK_STATES])
def test_shelved_offloaded_releases_unless_the_task_state_is_spawning(task_state):
    assert instance(vm_state="shelved_offloaded", task_state=task_state).releases is (task_state != "spawning")


@pytest.mark.behaviour("release-states")
def test_the_release_rule_is_a_table_over_known_states():
    assert set(RELEASING) <= VM_STATES
    assert all(kept <= TASK_STATES for kept in RELEASING.values())


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
