# SPDX-License-Identifier: Apache-2.0
"""One instance's life with all other events that give a notification, and the notifications that billing must receive."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tests.support.builders import instance_dict, sized
from tests.support.deadline import wait_until
from tests.support.stock import CONTEXT, Client
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput
from tracker_worker.notifications.schema import load

HOST, NODE = "story", "story-1"
SIZE = sized(vcpus=2, memory_mb=2048, disk_gb=20)
RESOURCES = {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20}
LARGER = {"VCPU": 4, "MEMORY_MB": 2048, "DISK_GB": 20}
NOTHING = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}

# Event type, priority, and the part of the payload that this step determines.
EXPECTED_NOTIFICATIONS: list[tuple[str, str, Mapping[str, Any]]] = [
    ("tracker.node.updated", "info", {"disabled": False, "vcpus": 64, "vcpus_used": 0}),
    (
        "tracker.claim.begun",
        "info",
        {
            "instance_id": "i1",
            "resources": RESOURCES,
            "limit_source": "caller",
            "charged": RESOURCES,
            "claim_state": "begun",
            "role": "instance",
        },
    ),
    (
        "tracker.claim.rejected",
        "warn",
        {
            "instance_id": "i2",
            "shortfalls": [{"resource": "VCPU", "requested": 2, "used": 2, "limit": 3}],
            "limit_source": "caller",
            "charged": NOTHING,
            "claim_state": "",
            "role": "",
        },
    ),
    ("tracker.claim.finished", "info", {"instance_id": "i1", "state": "building", "claim_state": "finished"}),
    (
        "tracker.usage.updated",
        "info",
        {
            "instance_id": "i1",
            "state": "active",
            "state_description": "",
            "old_state": "building",
            "old_task_state": "spawning",
            "old_resources": RESOURCES,
            "resources": RESOURCES,
        },
    ),
    (
        "tracker.usage.updated",
        "info",
        {
            "instance_id": "i1",
            "old_resources": RESOURCES,
            "resources": LARGER,
            "charged": LARGER,
            "over_capacity": [],
            "vcpus": 4,
            "old_state": "active",
        },
    ),
    ("tracker.claim.begun", "info", {"instance_id": "i3", "tenant_id": "project-of-context", "user_id": "user-of-context"}),
    ("tracker.claim.aborted", "info", {"instance_id": "i3", "charged": NOTHING, "claim_state": "aborted", "role": ""}),
    ("tracker.claim.begun", "info", {"instance_id": "i4"}),
    ("tracker.claim.expired", "info", {"instance_id": "i4", "released": False, "charged": RESOURCES, "claim_state": "expired"}),
    (
        "tracker.usage.released",
        "info",
        {
            "instance_id": "i1",
            "state": "deleted",
            "old_state": "active",
            "resources": LARGER,
            "charged": NOTHING,
            "role": "",
            "released_by": "",
            "reason": "",
        },
    ),
]  # fmt: skip


def play(client: Client) -> None:
    """Cause ``EXPECTED_NOTIFICATIONS`` and, in between, requests that must give no notification."""
    first = instance_dict(uuid="i1", task_state="spawning", **SIZE)
    client.call(HOST, "begin_resource_claim", instance=first, limits={"vcpu": 64})
    client.call(HOST, "begin_resource_claim", instance=first, limits={"vcpu": 64})
    _refused(client, ComputeResourcesUnavailable, instance=instance_dict(uuid="i2", **SIZE), limits={"vcpu": 3})
    _refused(client, ClaimConflict, instance={**first, "vcpus": 3})
    _refused(client, InvalidInput, instance={**first, "vcpus": -3})
    client.call(HOST, "finish_resource_claim", claim_id="i1")
    client.call(HOST, "finish_resource_claim", claim_id="i1")
    active = {"uuid": "i1", "vm_state": "active", "task_state": None}
    client.cast(HOST, "update_usage", instance=active)
    client.cast(HOST, "update_usage", instance=active)
    client.cast(HOST, "update_usage", instance={"uuid": "i1", "vcpus": 4, "colour": "blue"})
    client.cast(HOST, "update_usage", instance={"uuid": "unknown", "vm_state": "active"})
    unowned = instance_dict(uuid="i3", project_id=None, user_id=None, **SIZE)
    client.call(HOST, "begin_resource_claim", instance=unowned)
    client.call(HOST, "abort_resource_claim", claim_id="i3")
    client.call(HOST, "begin_resource_claim", instance=instance_dict(uuid="i4", **SIZE), timeout=0.001)
    wait_until(lambda: client.call(HOST, "update_available_resource") and not _claims(client), "i4 expires")
    client.call(HOST, "update_usage", instance={"uuid": "i1", "vm_state": "deleted"})
    client.call(HOST, "update_available_resource")


def _claims(client: Client) -> list[Any]:
    claims: list[Any] = client.call(HOST, "list_claims")
    return claims


def _refused(client: Client, error: type[Exception], **arguments: Any) -> None:
    try:
        client.prepare(HOST).call(CONTEXT, "begin_resource_claim", **arguments)
    except error:
        return
    raise AssertionError(f"not refused with {error.__name__}")


def check_payload(event_type: str, payload: Mapping[str, Any]) -> None:
    """Validate a payload against the published schema, with another validator than the worker's."""
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(load(name))) for name in ("instance.json", "node.json")
    )
    jsonschema.Draft7Validator(load(f"{event_type}.json"), registry=registry).validate(payload)
    occurred = datetime.fromisoformat(payload["occurred_at"])
    assert payload["occurred_at"].endswith("Z")
    assert occurred.utcoffset() is not None
