# SPDX-License-Identifier: Apache-2.0
"""Correct runs have no violations, whatever the clients learned."""

from __future__ import annotations

from dataclasses import replace

from tests.invariants.check import check
from tests.invariants.record import SENT, UNKNOWN, Heard, Parked, Request, read_lines, write_lines
from tests.invariants.scene import PLACE, Scene
from tests.support.builders import instance_dict, uuid

NODE = PLACE[1]


def test_the_life_of_an_instance_is_explained() -> None:
    scene = Scene()
    scene.begin()
    scene.view()
    scene.cast("update_usage", instance={"uuid": uuid(), "node": NODE, "display_name": "new", "memory_mb": 8192})
    scene.call("update_usage", instance={"uuid": uuid(), "node": NODE, "os_type": "windows"})
    scene.call("update_usage", instance={"uuid": uuid(), "node": NODE, "display_name": "new"})
    scene.call("finish_resource_claim", claim_id=uuid())
    scene.call("finish_resource_claim", claim_id=uuid())
    scene.cast("update_usage", instance={"uuid": uuid(), "node": NODE, "vm_state": "deleted"})
    scene.call("update_usage", instance={"uuid": uuid(), "node": NODE, "display_name": "late"})
    scene.view()

    assert check(scene.evidence()) == []


def test_refusals_repetitions_conflicts_and_expiry_are_explained() -> None:
    scene = Scene(nodes=2)
    scene.begin(1, limits={"vcpu": 3})
    scene.begin(2, limits={"vcpu": 3.9, "memory_mb": 5000})
    scene.begin(1)
    scene.begin(1, vcpus=3)
    scene.begin(1, node="node-2")
    scene.cast("begin_resource_claim", instance=instance_dict(1, node="node-2"))
    scene.begin(3, node="node-2")
    scene.call("abort_resource_claim", claim_id=uuid(3))
    scene.begin(3, node=NODE)
    scene.expire()
    scene.call("abort_resource_claim", claim_id=uuid(3))

    assert check(scene.evidence()) == []


def test_a_repetition_whose_record_was_lost_with_the_worker_is_explained() -> None:
    scene = Scene()
    scene.begin(1)
    scene.begin(1)
    scene.cast("begin_resource_claim", instance=instance_dict(2, node=NODE))
    scene.begin(2)
    repeated = [request.unique_id for request in scene.requests][1::2]
    kept = {name: reply for name, reply in scene.inbox.items() if name not in repeated}

    assert len(kept) == len(scene.inbox) - 2
    assert check(scene.evidence(inbox=kept)) == []


def test_a_lost_answer_is_explained_whether_or_not_there_was_an_effect() -> None:
    scene = Scene()
    scene.call("begin_resource_claim", outcome=UNKNOWN, instance=instance_dict(1, node=NODE))
    scene.sent("begin_resource_claim", {"instance": instance_dict(2, node=NODE)}, call=True, outcome=UNKNOWN)
    scene.begin(1)

    assert check(scene.evidence()) == []


def test_a_call_that_fails_because_the_store_is_unavailable_may_have_had_its_effect() -> None:
    scene = Scene()
    told = scene.begin(1)
    scene.requests[0] = replace(told, outcome="error", reply=None, error="store_unavailable", facts={})

    assert check(scene.evidence()) == []


def test_ends_name_one_claim_and_late_ones_have_no_effect() -> None:
    scene = Scene()
    first = scene.begin(1).reply["claim_id"]
    scene.call("renew_resource_claim", claim_id=first, timeout=7200)
    scene.call("renew_resource_claim", claim_id=first, timeout=1)
    scene.call("abort_resource_claim", claim_id=first)
    second = scene.begin(1).reply["claim_id"]
    scene.call("abort_resource_claim", claim_id=first)
    scene.cast("finish_resource_claim", claim_id=first)
    scene.call("renew_resource_claim", claim_id=first, timeout=7200)
    scene.call("finish_resource_claim", claim_id=second)

    assert check(scene.evidence()) == []


def test_deletions_before_claims_and_reports_that_an_instance_is_built_are_explained() -> None:
    scene = Scene(nodes=2)
    scene.call("update_usage", instance={"uuid": uuid(1), "vm_state": "deleted"})
    scene.view()
    scene.begin(1)
    scene.cast("begin_resource_claim", instance=instance_dict(1, node=NODE))
    for number in (2, 3):
        scene.begin(number)
    scene.call("update_usage", instance={"uuid": uuid(2), "vm_state": "active", "project_id": None})
    scene.call("update_usage", instance={"uuid": uuid(2), "node": "node-2", "vm_state": "active"})
    scene.expire()
    for number in (2, 3):
        scene.call("abort_resource_claim", claim_id=uuid(number))
    scene.call("update_usage", instance={"uuid": uuid(2), "vm_state": "shelved_offloaded", "project_id": "other"})

    assert check(scene.evidence()) == []


def test_copies_of_a_request_have_one_effect() -> None:
    scene = Scene()
    told = scene.begin(1)
    scene.call("abort_resource_claim", claim_id=uuid(1))
    again = replace(told, sent_at=10, ended_at=11)

    assert check(scene.evidence(requests=[*scene.requests, again])) == []


def test_copies_of_notifications_may_arrive_at_any_time() -> None:
    scene = Scene()
    scene.begin(1)
    scene.begin(2)
    copied = [*scene.heard[:2], *scene.heard]

    assert check(scene.evidence(heard=copied)) == []


def test_concurrent_requests_may_take_effect_in_any_order() -> None:
    scene = Scene()
    scene.begin(1)
    first = scene.cast("update_usage", instance={"uuid": uuid(), "node": NODE, "display_name": "one"})
    second = scene.cast("update_usage", instance={"uuid": uuid(), "node": NODE, "display_name": "two"})
    exchanged = [
        scene.requests[0],
        replace(first, sent_at=5, ended_at=7),
        replace(second, sent_at=5, ended_at=7),
    ]

    assert check(scene.evidence(requests=exchanged)) == []


def test_json_lines_keep_every_field(tmp_path) -> None:
    scene = Scene()
    scene.begin(1)
    scene.sent("update_usage", {"instance": {"uuid": uuid()}}, call=False, outcome=SENT)
    scene.cast("begin_resource_claim", instance=instance_dict(1, node=NODE, vcpus=9))
    for values, kind in ((scene.requests, Request), (scene.heard, Heard), (scene.parked, Parked)):
        write_lines(tmp_path / "lines", values)

        assert read_lines(tmp_path / "lines", kind) == values


def test_a_further_topic_may_have_the_notifications_in_any_order_and_repeatedly() -> None:
    scene = Scene()
    scene.begin()
    scene.call("finish_resource_claim", claim_id=uuid())

    assert check(scene.evidence(others={"slow": [*reversed(scene.heard), *scene.heard]})) == []
