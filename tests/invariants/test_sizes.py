# SPDX-License-Identifier: Apache-2.0
"""Custom classes and adoptions: correct runs have no violations, altered ones have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.invariants.books import ADOPTED, BEGUN
from tests.invariants.check import check
from tests.invariants.record import UNKNOWN, Evidence
from tests.invariants.scene import PLACE, Scene, changed, only
from tests.support.builders import instance_dict, uuid

NODE = PLACE[1]
CLASSES = {"VGPU": {"total": 8, "reserved": 1, "step_size": 2}, "FPGA": 2, "VCPU": {"max_unit": 4}}


def scene_with_classes() -> Scene:
    return Scene(resources=CLASSES)


def running(number: int = 1, **fields: object) -> dict[str, object]:
    return instance_dict(number, **{"node": NODE, "vm_state": "active", **fields})


def test_claims_updates_and_ends_of_custom_classes_are_explained() -> None:
    scene = scene_with_classes()
    scene.begin(1, resources={"VGPU": 4})
    scene.begin(1, resources={"VGPU": 2})
    scene.begin(2, resources={"VGPU": 4}, limits={"VGPU": 8})
    scene.begin(2, resources={"VGPU": 3, "TPU": 1}, vcpus=5, limits={"TPU": 9})
    scene.begin(3, resources={"VGPU": 2, "FPGA": 0}, limits={"VGPU": 8, "VCPU": 100})
    scene.view()
    scene.call("update_usage", instance={"uuid": uuid(1), "node": NODE, "resources": {"FPGA": 1}})
    scene.call("update_usage", instance={"uuid": uuid(3), "node": NODE, "resources": None})
    scene.listing()
    scene.call(
        "update_usage", instance={"uuid": uuid(1), "node": NODE, "vm_state": "deleted", "resources": {"FPGA": 9}}
    )
    scene.view()

    assert check(scene.evidence()) == []


def test_adoptions_are_explained() -> None:
    scene = scene_with_classes()
    scene.begin(1)
    scene.call("update_usage", instance={"uuid": uuid(6), "node": NODE, "vm_state": "deleted"})
    instances = [running(1), running(2, resources={"VGPU": 9}), running(3, vcpus=True), running(4), running(6)]
    scene.call("adopt", instances=instances)
    scene.call("adopt", instances=[running(2, vcpus=3), running(4), running(5, node="node-9")])
    scene.cast("adopt", instances=[running(4), running(7)])
    scene.call("adopt", outcome=UNKNOWN, instances=[running(7), running(8)])
    scene.view()
    scene.call("abort_resource_claim", claim_id=uuid(2))
    scene.call("update_usage", instance={"uuid": uuid(2), "node": NODE, "vm_state": "deleted"})

    assert check(scene.evidence()) == []


def with_event(scene: Scene, event_type: str, **payload: object) -> Evidence:
    """The evidence with another payload in the last event of this type, in the queue as in the outbox."""
    index = max(index for index, one in enumerate(scene.heard) if one.event_type == event_type)
    heard = [*scene.heard]
    heard[index] = changed(heard[index], **payload)
    node = scene.books()[PLACE]
    issued = [
        replace(row, payload=heard[index].payload) if row.message_id == heard[index].message_id else row
        for row in node.issued
    ]
    return scene.evidence(heard=heard, nodes={PLACE: replace(node, issued=issued)})


def test_a_column_of_a_custom_class_that_is_not_the_sum_is_a_violation() -> None:
    scene = scene_with_classes()
    scene.begin(1, resources={"VGPU": 4})
    node = scene.books()[PLACE]
    assert node.usage["VGPU"] == 5
    wrong = scene.evidence(nodes={PLACE: replace(node, usage={**node.usage, "VGPU": 4})})
    assert "has usage columns" in only(wrong)


def test_a_claim_of_a_custom_class_beyond_its_limit_is_a_violation() -> None:
    scene = scene_with_classes()
    request = scene.begin(1, resources={"VGPU": 6}, limits={"VGPU": 8})
    scene.requests[0] = replace(request, args={**request.args, "limits": {"VGPU": 6}})
    assert "was granted or refused against its limits" in only(scene.evidence())


def test_a_claim_that_is_not_in_the_units_of_the_class_is_a_violation() -> None:
    scene = Scene(resources={"VGPU": 8})
    scene.begin(1, resources={"VGPU": 3})
    told = scene.heard[0].payload["resources"]
    strict = {**told, "VGPU": {**told["VGPU"], "step_size": 2}}
    heard = [changed(scene.heard[0], resources=strict), *scene.heard[1:]]
    node = scene.books()[PLACE]
    issued = [replace(node.issued[0], payload=heard[0].payload), *node.issued[1:]]
    wrong = scene.evidence(heard=heard, nodes={PLACE: replace(node, issued=issued)})
    assert "was granted or refused against its limits" in only(wrong)


def test_an_event_with_another_amount_than_the_claim_asks_for_is_a_violation() -> None:
    scene = scene_with_classes()
    scene.begin(1, resources={"VGPU": 2})
    told = {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50, "VGPU": 4}
    assert len(check(with_event(scene, BEGUN, resources=told, charged=told))) >= 1


@pytest.mark.parametrize("said", ["adopted", "already"])
def test_an_adoption_that_was_told_and_has_no_effect_is_a_violation(said: str) -> None:
    scene = Scene()
    scene.call("adopt", instances=[])
    reply = {"adopted": [], "already": [], "refused": [], said: [uuid(1)]}
    scene.requests[0] = replace(scene.requests[0], args={"instances": [running(1)]}, reply=reply)
    inbox = {"u-1": {"result": reply, "failure": None}}
    assert check(scene.evidence(inbox=inbox)) != []


def test_an_adoption_that_nobody_asked_for_is_a_violation() -> None:
    scene = Scene()
    scene.call("adopt", instances=[running(1)])
    assert scene.heard[-1].event_type == ADOPTED
    assert check(scene.evidence()) == []
    assert "is the effect of no request" in only(scene.evidence(requests=[]))
