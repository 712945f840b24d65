# SPDX-License-Identifier: Apache-2.0
"""The workload counters of a node."""

from __future__ import annotations

import pytest

from tests.support.builders import instance
from tracker_worker.domain.stats import Stats

EMPTY = {"num_instances": 0, "num_vcpus_used": 0, "io_workload": 0}


def counted(*instances):
    stats = Stats()
    for each in instances:
        stats.add(each)
    return stats


@pytest.mark.behaviour("workload-counters")
def test_the_counters_without_instances_are_three_totals_of_0():
    assert counted().to_dict() == EMPTY


@pytest.mark.behaviour("workload-counters")
def test_an_instance_counts_in_every_counter():
    stats = counted(instance(vm_state="building", task_state="spawning", os_type="linux", project_id="p", vcpus=3))
    assert stats.to_dict() == {
        "num_instances": 1,
        "num_vcpus_used": 3,
        "io_workload": 1,
        "num_vm_building": 1,
        "num_task_spawning": 1,
        "num_os_type_linux": 1,
        "num_proj_p": 1,
    }


@pytest.mark.behaviour("workload-counters")
def test_null_fields_are_counted_under_the_word_none():
    stats = counted(instance(vm_state=None, task_state=None, os_type=None, project_id=None))
    assert {key for key, count in stats.to_dict().items() if count == 1} == {
        "num_instances", "num_vm_None", "num_task_None", "num_os_type_None", "num_proj_None",
    }  # fmt: skip
    assert stats.num_instances_for_project(None) == 1
    assert stats.num_os_type(None) == 1


@pytest.mark.behaviour("workload-counters")
def test_current_workload_counts_every_task_state_except_none():
    stats = counted(
        instance(1, task_state=None),
        instance(2, task_state=None),
        instance(3, task_state="deleting"),
        instance(4, task_state="rebooting"),
        instance(5, task_state="rebooting"),
    )
    assert stats.current_workload == 3
    assert stats.to_dict()["num_task_None"] == 2


@pytest.mark.behaviour("workload-counters")
@pytest.mark.parametrize("task", ["resize_migrating", "rebuilding", "resize_prep", "image_snapshot", "image_backup"])
def test_a_building_instance_with_an_io_heavy_task_state_counts_twice(task):
    assert counted(instance(vm_state="building", task_state=task)).io_workload == 2
    assert counted(instance(vm_state="active", task_state=task)).io_workload == 1


@pytest.mark.behaviour("workload-counters")
@pytest.mark.parametrize("task", [None, "spawning", "resize_migrated", "rebuild_spawning", "migrating"])
def test_other_task_states_do_not_count_as_io_workload(task):
    assert counted(instance(vm_state="active", task_state=task)).io_workload == 0


@pytest.mark.behaviour("workload-counters")
def test_the_accessors_return_0_for_an_unknown_project_or_os_type():
    stats = counted(instance(1, project_id="p", os_type="linux", vcpus=2), instance(2, project_id="q", vcpus=5))
    assert stats.num_instances == 2
    assert stats.num_vcpus_used == 7
    assert (stats.num_instances_for_project("p"), stats.num_instances_for_project("nobody")) == (1, 0)
    assert (stats.num_os_type("linux"), stats.num_os_type("plan9")) == (2, 0)
    assert "num_proj_nobody" not in stats.to_dict()


@pytest.mark.behaviour("workload-counters")
def test_an_update_decreases_the_old_counters_and_increases_the_new_counters():
    old, new = instance(vm_state="building", task_state="spawning"), instance(vm_state="active", task_state=None)
    stats = counted(old)
    stats.remove(old)
    stats.add(new)
    assert stats.to_dict() == counted(new).to_dict()
    assert "num_vm_building" not in stats.to_dict()


@pytest.mark.behaviour("workload-counters")
def test_a_deleted_instance_is_in_no_counter():
    one, other = instance(1, project_id="p", vcpus=0), instance(2, project_id="q")
    stats = counted(one, other)
    stats.remove(one)
    assert stats.to_dict() == counted(other).to_dict()
    stats.remove(other)
    assert stats.to_dict() == EMPTY


@pytest.mark.behaviour("copies-only")
def test_the_dict_of_counters_is_a_copy():
    stats = counted(instance())
    handed = stats.to_dict()
    handed["num_instances"] = 99
    handed.clear()
    assert stats.num_instances == stats.to_dict()["num_instances"] == 1
