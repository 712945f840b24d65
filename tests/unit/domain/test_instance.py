# SPDX-License-Identifier: Apache-2.0
"""Reading instances: the fields that count, that are kept and that are invalid."""

from __future__ import annotations

import json
from types import MappingProxyType

import pytest

from tests.support.builders import instance, instance_dict, resources, uuid
from tracker_worker.domain.instance import owned, read_changes, read_instance, read_node
from tracker_worker.domain.resources import SIZES
from tracker_worker.domain.states import TASK_STATES, VM_STATES
from tracker_worker.errors import InvalidInput

ABSURD = [-1, None, 4.0, 0.5, True, False, float("nan"), float("inf"), "4", 2**53 + 1, 10**400, [1], {}]


def refusal(read, fields):
    with pytest.raises(InvalidInput) as caught:
        read(fields)
    json.dumps(caught.value.kwargs)
    return caught.value.kwargs["field"]


@pytest.mark.behaviour("instance-fields")
def test_memory_is_memory_mb_disk_is_root_gb_plus_ephemeral_gb_and_cpu_is_vcpus():
    read = instance(memory_mb=4096, root_gb=40, ephemeral_gb=10, vcpus=2)
    assert read.resources == resources(vcpu=2, memory_mb=4096, disk_gb=50)


@pytest.mark.behaviour("instance-fields")
def test_unknown_fields_are_accepted_and_not_kept():
    described = instance_dict(kernel_id="k", fault={"code": 500, "oops": object()}, host="host-9", node="node-1")
    assert read_instance(described) == instance()


@pytest.mark.behaviour("instance-fields")
def test_fields_that_billing_reads_are_kept():
    kept = {
        "display_name": "web",
        "user_id": "u",
        "project_id": "p",
        "instance_type": "m1.large",
        "instance_flavor_id": "4",
        "availability_zone": "az-2",
        "created_at": "2026-01-01T00:00:00Z",
        "launched_at": "2026-01-01T00:00:01Z",
        "deleted_at": "2026-01-02T00:00:00Z",
        "terminated_at": "2026-01-02T00:00:01Z",
        "image_meta": {"os": "x"},
        "metadata": {"a": "b"},
        "os_type": "windows",
        "vm_state": "active",
        "task_state": "rebooting",
        "root_gb": 1,
        "ephemeral_gb": 2,
    }
    read = instance(**kept)
    assert {name: getattr(read, name) for name in kept} == kept


@pytest.mark.behaviour("instance-fields")
def test_a_uuid_and_sizes_are_enough_for_an_instance():
    read = read_instance({"uuid": "u", "memory_mb": 1, "root_gb": 2, "ephemeral_gb": 3, "vcpus": 4})
    assert read.resources == resources(4, 1, 5)
    assert (read.vm_state, read.task_state, read.os_type, read.project_id) == (None, None, None, None)
    assert (read.created_at, read.metadata) == ("", {})


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", ABSURD, ids=lambda value: repr(value)[:12])
def test_a_size_that_is_not_an_integer_from_0_to_2_53_is_invalid_and_named(size, value):
    assert refusal(read_instance, instance_dict(**{size: value})) == f"instance.{size}"
    assert refusal(read_changes, {"uuid": "u", size: value}) == f"instance.{size}"


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("size", SIZES)
def test_a_missing_size_is_invalid_and_named(size):
    described = instance_dict()
    del described[size]
    assert refusal(read_instance, described) == f"instance.{size}"
    read_changes(described)


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("amount", [0, 2**53])
def test_the_sizes_0_and_2_53_are_accepted(size, amount):
    assert getattr(instance(**{size: amount}), size) == amount


@pytest.mark.parametrize("value", ["", None, 1, b"u", ["u"], {}, True, "a\0b", "\ud800"])
def test_an_empty_or_non_string_uuid_is_invalid(value):
    assert refusal(read_instance, instance_dict(uuid=value)) == "instance.uuid"
    assert refusal(read_changes, {"uuid": value}) == "instance.uuid"


def test_a_missing_uuid_is_invalid():
    assert refusal(read_changes, {"vm_state": "active"}) == "instance.uuid"


@pytest.mark.parametrize("described", [None, [], "instance", 1, [("uuid", "u")]])
def test_an_instance_that_is_not_an_object_is_invalid(described):
    assert refusal(read_instance, described) == "instance"
    assert refusal(read_changes, described) == "instance"


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("vm_state", [None, *sorted(VM_STATES)])
def test_every_known_vm_state_is_accepted(vm_state):
    assert instance(vm_state=vm_state).vm_state == vm_state


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("vm_state", ["ACTIVE", "", "unknown", "None", 1, True, ["active"], {"active": 1}])
def test_an_unknown_vm_state_is_invalid(vm_state):
    assert refusal(read_instance, instance_dict(vm_state=vm_state)) == "instance.vm_state"


@pytest.mark.behaviour("task-states")
@pytest.mark.parametrize("task_state", [None, *sorted(TASK_STATES)])
def test_every_task_state_of_the_original_is_accepted(task_state):
    assert instance(task_state=task_state).task_state == task_state


@pytest.mark.behaviour("task-states")
@pytest.mark.parametrize("task_state", [1, True, ["spawning"], {}, b"spawning"])
def test_a_task_state_that_is_not_a_text_is_invalid(task_state):
    assert refusal(read_instance, instance_dict(task_state=task_state)) == "instance.task_state"


@pytest.mark.parametrize("field", ["metadata", "image_meta"])
def test_metadata_that_is_not_an_object_is_invalid(field):
    assert refusal(read_instance, instance_dict(**{field: [{"key": "a"}]})) == f"instance.{field}"


@pytest.mark.parametrize("node", ["", 1, True, ["node-1"], {}])
def test_a_node_that_is_not_a_name_is_invalid(node):
    assert refusal(read_node, instance_dict(node=node)) == "instance.node"


def test_a_node_may_be_absent_or_none():
    assert read_node(instance_dict()) is None
    assert read_node(instance_dict(node=None)) is None
    assert read_node(instance_dict(node="node-1")) == "node-1"


@pytest.mark.behaviour("usage-update")
def test_changes_hold_exactly_the_known_fields_that_were_sent():
    sent = {"uuid": uuid(), "vm_state": "active", "task_state": None, "unread": 1}
    assert read_changes(sent) == {"uuid": uuid(), "vm_state": "active", "task_state": None}


@pytest.mark.behaviour("usage-update")
def test_changes_without_a_difference_return_the_same_instance():
    before = instance()
    assert before.changed(read_changes(instance_dict())) is before
    assert before.changed(read_changes({"uuid": uuid()})) is before
    assert before.changed(read_changes(instance_dict(kernel_id="unread", host="other"))) is before


@pytest.mark.behaviour("usage-update")
def test_a_field_that_is_not_sent_keeps_its_value_and_none_is_a_value():
    after = instance().changed(read_changes({"uuid": uuid(), "task_state": None, "memory_mb": 8192}))
    assert after == instance(task_state=None, memory_mb=8192)


@pytest.mark.behaviour("usage-update")
@pytest.mark.parametrize("value", [True, "1", {"a": 1}, [1], None])
def test_metadata_whose_value_changes_its_type_is_a_change(value):
    before = instance(metadata={"k": {"n": [1]}})
    after = before.changed(read_changes({"uuid": uuid(), "metadata": {"k": {"n": [value]}}}))
    assert after is not before
    assert repr(after.metadata) == repr({"k": {"n": [value]}})


@pytest.mark.behaviour("usage-update")
def test_metadata_in_another_order_is_not_a_change():
    before = instance(metadata={"a": 1, "b": {"c": 1, "d": 2}})
    assert before.changed({"metadata": {"b": {"d": 2, "c": 1}, "a": 1}}) is before


@pytest.mark.behaviour("claim-snapshot")
def test_an_instance_is_a_snapshot():
    described = instance_dict(metadata={"deep": {"er": [1]}})
    read = read_instance(MappingProxyType(described))
    described["metadata"]["deep"]["er"].append(2)
    described["memory_mb"] = 1
    assert read.memory_mb == 4096
    assert read.metadata == {"deep": {"er": [1]}}
    with pytest.raises(AttributeError):
        read.memory_mb = 1


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize(("swap", "disk"), [(None, 50), (0, 50), (1, 51), (1024, 51), (1025, 52)])
def test_swap_is_in_mb_and_counts_as_disk_rounded_up_to_gb(swap, disk):
    assert instance(swap=swap).resources["DISK_GB"] == disk


@pytest.mark.behaviour("instance-fields")
@pytest.mark.parametrize("field", ["pci_requests", "numa_topology"])
def test_a_key_that_looks_like_a_resource_is_refused_and_not_dropped(field):
    for read in (read_instance, read_changes):
        for empty in (None, {}, []):
            read(instance_dict(**{field: empty}))
        with pytest.raises(InvalidInput) as caught:
            read(instance_dict(**{field: {"VGPU": 1}}))
        assert caught.value.kwargs["field"] == f"instance.{field}"


@pytest.mark.behaviour("canonical-uuids")
@pytest.mark.parametrize("spelling", ["{}", "{{{}}}", "urn:uuid:{}"])
@pytest.mark.parametrize("change", [str, str.upper, lambda text: text.replace("-", "")])
def test_a_uuid_in_any_spelling_is_kept_in_one(spelling, change):
    assert instance(uuid=spelling.format(change(uuid(10)))).uuid == uuid(10)


@pytest.mark.behaviour("canonical-uuids")
@pytest.mark.parametrize(
    "name", ["vm-1", "VM-1", "urn:vm-1", "{vm-1}", uuid(10) + "0", uuid(10)[:-1] + "g", uuid(10)[:-1] + "\u0661"]
)
def test_another_name_is_kept_as_it_is(name):
    assert instance(uuid=name).uuid == name


@pytest.mark.behaviour("canonical-uuids")
@pytest.mark.parametrize("name", [" vm-1", "vm-1 ", "vm-1\n", f"{uuid(1)} ", "\u3000vm-1", " "])
def test_white_space_at_an_end_of_a_uuid_is_refused(name):
    with pytest.raises(InvalidInput) as caught:
        instance(uuid=name)
    assert caught.value.kwargs["field"] == "instance.uuid"


@pytest.mark.behaviour("canonical-uuids")
def test_ids_of_projects_and_users_are_never_respelled():
    made = instance(project_id=uuid(10).upper(), user_id=uuid(10).replace("-", ""))
    assert (made.project_id, made.user_id) == (uuid(10).upper(), uuid(10).replace("-", ""))


@pytest.mark.behaviour("atomic-claim")
@pytest.mark.parametrize("own", [None, "", "p"])
@pytest.mark.parametrize(
    "context", [{}, {"project_id": None}, {"project_id": ""}, {"project_id": "q"}, {"tenant": "q"}]
)
@pytest.mark.parametrize("required", [True, False])
def test_the_owner_is_the_instances_or_else_the_contexts_and_may_be_required(own, context, required):
    said = own or next(filter(None, context.values()), None)
    if required and not said:
        with pytest.raises(InvalidInput) as caught:
            owned(instance(project_id=own), context, required=required)
        assert caught.value.kwargs["field"] == "instance.project_id"
    else:
        assert (owned(instance(project_id=own), context, required=required).project_id or None) == said
