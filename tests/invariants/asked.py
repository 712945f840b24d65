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
CUSTOM = "custom"
"""The amounts of custom classes, which payloads have beside the standard ones in ``resources``."""


def agrees(event: Heard, instance: Mapping[str, Any]) -> bool:
    """Whether a notification charges for the requested instance. Its project and user may come from the request's context."""
    fields = facts_of(instance)
    fields.pop(UNSEEN, None)
    for owner in OWNER:
        if not fields.get(owner):
            fields.pop(owner, None)
    return all(said(event.payload, key) == value for key, value in fields.items())


def facts_of(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The given fields of ``instance``, by payload key."""
    facts = {size: instance[size] for size in SIZES if size in instance}
    facts |= {key: instance[name] or "" for name, key in TEXTS.items() if name in instance}
    facts |= {name: instance[name] or {} for name in MAPPINGS if name in instance}
    if UNSEEN in instance:
        facts[UNSEEN] = instance[UNSEEN]
    if "resources" in instance:
        facts[CUSTOM] = _custom(instance)
    return facts


def said(payload: Mapping[str, Any], key: str) -> Any:
    """What a payload says of a fact."""
    if key != CUSTOM:
        return payload[key]
    return {name: amount for name, amount in payload["resources"].items() if name not in LIMITS}


def _custom(instance: Mapping[str, Any]) -> dict[str, int]:
    return {name: amount for name, amount in (instance.get("resources") or {}).items() if amount}


def vector(instance: Mapping[str, Any]) -> dict[str, int]:
    """The resources that a claim for this instance reserves."""
    return {
        "VCPU": instance["vcpus"],
        "MEMORY_MB": instance["memory_mb"],
        "DISK_GB": instance["root_gb"] + instance["ephemeral_gb"] - (-instance.get("swap", 0) // 1024),
        **_custom(instance),
    }


def shortfalls(
    requested: Vector, used: Vector, limits: Mapping[str, float] | None, offers: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The resources whose requested amount exceeds the limits' remainder, or is not in the units in which the node offers
    them. A custom class that the node does not offer has the limit 0; one that is charged all the same has no max_unit."""
    lacks = []
    for name in (*LIMITS, *sorted(requested.keys() - LIMITS.keys())):
        want, have, limit, reason = requested[name], used.get(name, 0), _limit(name, limits), ""
        if name in offers and (name in LIMITS or offers[name]["max_unit"] is not None):
            reason = _reason(want, offers[name])
        elif name not in LIMITS:
            limit = 0
        if want and (reason or want > limit - have):
            lack = {"resource": name, "requested": want, "used": have, "limit": limit}
            lacks.append({**lack, "reason": reason} if reason else lack)
    return lacks


def _limit(name: str, limits: Mapping[str, float] | None) -> int:
    given = [limits[key] for key in (LIMITS.get(name), name) if limits and limits.get(key or "") is not None]
    return int(float(f"{given[0]:.15g}")) if given else 2**62


def _reason(want: int, offer: Mapping[str, Any]) -> str:
    if want < offer["min_unit"]:
        return f"must be at least {offer['min_unit']} (min_unit)"
    if offer["max_unit"] is not None and want > offer["max_unit"]:
        return f"must be at most {offer['max_unit']} (max_unit)"
    return f"must be a multiple of {offer['step_size']} (step_size)" if want % offer["step_size"] else ""
