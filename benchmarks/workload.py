# SPDX-License-Identifier: Apache-2.0
"""The generator's requests, as stock clients write them; the same seed gives the same requests."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.request import encode_request

NODE = "node-1"
# The capacity holds every claim that a run can make.
CAPACITY = {"vcpus": 2**40, "memory_mb": 2**50, "local_gb": 2**50}
# The same capacity as an inventory driver returns it.
RESOURCE = {**CAPACITY, "vcpus_used": 0, "memory_mb_used": 0, "local_gb_used": 0, "cpu_info": ""}
LIMITS = {"memory_mb": 1.5 * 2**49, "disk_gb": 2.0**49, "vcpu": 16.0 * 2**35}
_PROJECTS = 50
CONTEXT = {
    "request_id": "req-11111111-2222-4333-8444-555555555555",
    "global_request_id": None,
    "user_id": "1f2e3d4c5b6a79880716253443526170",
    "user": "1f2e3d4c5b6a79880716253443526170",
    "project_id": "9e3a6f0b8d5c4f6f9d6a1c2b3e4f5a6b",
    "tenant": "9e3a6f0b8d5c4f6f9d6a1c2b3e4f5a6b",
    "user_domain": "default",
    "project_domain": "default",
    "is_admin": False,
    "read_only": False,
    "show_deleted": False,
    "roles": ["member", "reader"],
    "auth_token": None,
    "service_roles": [],
    "resource_uuid": None,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """``calls`` requests, distributed over ``hosts`` in turn.

    ``others`` (0 to 1) is the share that finish or update an earlier claim. Such a request is at least ``distance``
    calls later than its claim, so that servers that do not keep the order have answered the claim by then as well. A
    ``method`` other than begin_resource_claim is sent alone, without arguments.
    """

    hosts: Sequence[str]
    calls: int
    seed: str
    others: float = 0.0
    distance: int = 1000
    method: str = "begin_resource_claim"


def instance(rng: random.Random, number: int) -> dict[str, Any]:
    """An instance as a scheduler describes it."""
    return {
        "uuid": str(UUID(int=rng.getrandbits(128), version=4)),
        "node": NODE,
        "memory_mb": 4096,
        "root_gb": 40,
        "ephemeral_gb": 10,
        "vcpus": 2,
        "vm_state": "building",
        "task_state": "scheduling",
        "os_type": "linux",
        "project_id": f"{rng.randrange(_PROJECTS):032x}",
        "user_id": "1f2e3d4c5b6a79880716253443526170",
        "display_name": f"web-{number}",
        "instance_type": "m1.medium",
        "instance_flavor_id": "3",
        "availability_zone": "az-1",
        "created_at": "2026-01-15T11:59:58Z",
        "launched_at": None,
        "deleted_at": None,
        "terminated_at": None,
        "image_meta": {"base_image_ref": "b5f7e1c2-7c0e-4c55-9d0c-7a1f3a0e9a11", "min_disk": 10},
        "metadata": {"role": "web"},
    }


def requests(load: Workload, reply_queue: str, message_prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield host and body of each request. A message id is ``message_prefix`` and the request's number as 8 hex digits."""
    rng = random.Random(load.seed)
    claimed: deque[tuple[int, str, str]] = deque()
    for number in range(load.calls):
        host = load.hosts[number % len(load.hosts)]
        arguments: dict[str, Any] = {}
        method = load.method
        if method == "begin_resource_claim":
            if claimed and number - claimed[0][0] > load.distance and rng.random() < load.others:
                method, host, arguments = _other(rng, number, *claimed.popleft())
            else:
                wanted = instance(rng, number)
                if load.others:
                    claimed.append((number, host, wanted["uuid"]))
                arguments = {"instance": wanted, "limits": LIMITS, "timeout": None}
        body = encode_request(
            method,
            arguments,
            context=CONTEXT,
            unique_id=f"{rng.getrandbits(128):032x}",
            reply_to=ReplyTo(reply_queue, f"{message_prefix}{number:08x}"),
        )
        yield host, body


def _other(rng: random.Random, number: int, _claimed: int, host: str, uuid: str) -> tuple[str, str, dict[str, Any]]:
    if rng.random() < 0.5:
        return "finish_resource_claim", host, {"claim_id": uuid}
    changed = {"uuid": uuid, "node": NODE, "vm_state": "active", "task_state": None, "display_name": f"vm-{number}"}
    return "update_usage", host, {"instance": changed}
