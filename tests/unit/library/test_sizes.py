# SPDX-License-Identifier: Apache-2.0
"""Resource classes and adoption, in one process and over a store."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, NODE, driver_resource_dict, instance_dict, sized, uuid
from tests.support.tracker import CONTEXT, audited, conf, event_types
from tracker_worker.errors import ComputeResourcesUnavailable, InvalidInput
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.library.tracker import ResourceTracker
from tracker_worker.store.base import Store


def with_gpus(**classes: object) -> FakeDriver:
    return FakeDriver(HOST, conf(), nodes={NODE: driver_resource_dict(resources=classes or {"VGPU": 4})})


@pytest.mark.behaviour("resource-classes")
def test_a_custom_class_goes_from_the_driver_to_a_claim_and_back_from_the_store(store: Store) -> None:
    tracker = audited(with_gpus(), store=store)
    claim = tracker.begin_resource_claim(CONTEXT, instance_dict(1, resources={"VGPU": 3}), {"VGPU": 4})
    assert claim is not None
    assert claim.resources == {"VGPU": 3}
    assert str(claim).endswith("2 VCPUs, 3 VGPU]")
    assert tracker.begin_resource_claim(CONTEXT, instance_dict(2, resources={"VGPU": 2}), {"VGPU": 4}) is None
    tracker.finish_resource_claim(claim)
    again = audited(with_gpus(), store=store)
    assert again.compute_node is not None
    assert again.compute_node["resources"]["VGPU"]["used"] == 3
    assert again.tracked_instances[uuid(1)].custom == (("VGPU", 3),)
    again.update_usage(CONTEXT, {"uuid": uuid(1), "resources": {"VGPU": 1}})
    again.update_usage(CONTEXT, {"uuid": uuid(1), "vm_state": "deleted"})
    assert again.compute_node["resources"]["VGPU"]["used"] == 0
    assert event_types(store)[-1] == "tracker.usage.released"


@pytest.mark.behaviour("resource-classes")
def test_a_refused_context_manager_has_every_shortfall_with_its_reason() -> None:
    tracker = audited(with_gpus(VGPU={"total": 8, "step_size": 2}))
    instance = instance_dict(1, **sized(1), resources={"VGPU": 3, "FPGA": 1})
    with pytest.raises(ComputeResourcesUnavailable) as caught, tracker.resource_claim(CONTEXT, instance):
        pass
    assert [each.get("reason") for each in caught.value.kwargs["shortfalls"]] == [
        None,
        "must be a multiple of 2 (step_size)",
    ]
    assert "VGPU: requested 3, used 0" in str(caught.value)
    assert str(caught.value).endswith("(must be a multiple of 2 (step_size))")


@pytest.mark.behaviour("resource-classes")
def test_the_reserve_of_vcpus_is_an_option() -> None:
    tracker = audited(reserved_host_vcpus=3)
    assert tracker.compute_node is not None
    assert tracker.compute_node["vcpus_used"] == 3
    assert tracker.compute_node["resources"]["VCPU"]["capacity"] == 29


@pytest.mark.behaviour("driver-answer")
def test_a_wrong_class_of_a_driver_is_named_and_what_was_there_stays() -> None:
    driver = with_gpus()
    tracker = audited(driver)
    before = tracker.compute_node
    driver.nodes[NODE] = driver_resource_dict(resources={"VGPU": {"total": 4, "reserved": 5}})
    with pytest.raises(InvalidInput) as caught:
        tracker.update_available_resource(CONTEXT)
    assert caught.value.kwargs["field"] == "resources.VGPU.reserved"
    assert tracker.compute_node == before


@pytest.mark.behaviour("adoption")
def test_instances_that_run_already_are_adopted(store: Store) -> None:
    tracker = audited(store=store)
    nobody = instance_dict(1, project_id=None)
    answer = tracker.adopt(CONTEXT, [nobody, {"uuid": uuid(2)}, instance_dict(3, node="node-9")])
    assert (answer["adopted"], answer["already"]) == ([uuid(1)], [])
    assert [each["code"] for each in answer["refused"]] == ["invalid_input", "node_not_found"]
    assert tracker.adopt(CONTEXT, [nobody])["already"] == [uuid(1)]
    assert tracker.tracked_instances[uuid(1)].project_id == CONTEXT["project_id"]
    assert tracker.claims == {}
    assert event_types(store)[-1] == "tracker.usage.adopted"


@pytest.mark.behaviour("adoption", "disabled-until-audited")
def test_a_disabled_tracker_adopts_nothing() -> None:
    tracker = ResourceTracker(HOST, with_gpus(), conf=conf())
    assert tracker.adopt(CONTEXT, [instance_dict(1)]) == {"adopted": [], "already": [], "refused": []}
    assert tracker.tracked_instances == {}
