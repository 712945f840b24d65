# SPDX-License-Identifier: Apache-2.0
"""What a request asks for: the fields of its instance as notifications have them, its resources, and what its limits lack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.invariants.record import Heard, Vector

LIMITS = {"VCPU": "vcpu", "MEMORY_MB": "memory_mb", "DISK_GB": "disk_gb"}
SIZES = ("vcpus", "memory_mb", "root_gb", "ephemeral_gb")
# Instance field -> payload key. The payload has '' for None.
TEXTS = {
    "display_name": "display_name",
    "instance_type": "instance_type",
    "instance_flavor_id": "instance_flavor_id",
    "availability_zone": "availability_zone",
    "created_at": "created_at",
    "launched_at": "launched_at",
    "deleted_at": "deleted_at",
    "terminated_at": "terminated_at",
    "vm_state": "state",
    "task_state": "state_description",
    "project_id": "tenant_id",
    "user_id": "user_id",
}
MAPPINGS = ("image_meta", "metadata")
# This field is in no payload, but its change is a change of the instance.
UNSEEN = "os_type"
OWNER = ("tenant_id", "user_id")


def agrees(event: Heard, instance: Mapping[str, Any]) -> bool:
    """Whether a notification charges for the requested instance. Its project and user may come from the request's context."""
    fields = facts_of(instance)
    fields.pop(UNSEEN, None)
    for owner in OWNER:
        if not fields.get(owner):
            fields.pop(owner, None)
    return all(event.payload[key] == value for key, value in fields.items())


def facts_of(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields of ``instance``, by payload key."""
    facts = {size: instance[size] for size in SIZES if size in instance}
    facts |= {key: instance[name] or "" for name, key in TEXTS.items() if name in instance}
    facts |= {name: instance[name] or {} for name in MAPPINGS if name in instance}
    if UNSEEN in instance:
        facts[UNSEEN] = instance[UNSEEN]
    return facts


def vector(instance: Mapping[str, Any]) -> dict[str, int]:
    """The resources that a claim for this instance reserves."""
    return {
        "VCPU": instance["vcpus"],
        "MEMORY_MB": instance["memory_mb"],
        "DISK_GB": instance["root_gb"] + instance["ephemeral_gb"] - (-instance.get("swap", 0) // 1024),
    }


def shortfalls(requested: Vector, used: Vector, limits: Mapping[str, float] | None) -> list[dict[str, Any]]:
    """The resources whose requested amount exceeds the limits' remainder."""
    lacks = []
    for name, key in LIMITS.items():
        given = (limits or {}).get(key)
        if given is None:
            continue
        limit = int(float(f"{given:.15g}"))
        if 0 < requested[name] > limit - used.get(name, 0):
            lacks.append({"resource": name, "requested": requested[name], "used": used.get(name, 0), "limit": limit})
    return lacks
