# SPDX-License-Identifier: Apache-2.0
"""What goes into the RPC API and comes out of it, as typed dictionaries. Memory in MB, disk in GB, times as ISO 8601 text
in UTC.

The wire format is open: a worker may accept and return further keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NotRequired, Required, TypedDict

Context = Mapping[str, Any]
"""A request context; project_id, user_id and request_id are read."""


class Instance(TypedDict, total=False):
    """An instance as its callers describe it. A claim needs the sizes; an update needs only what has changed. Swap is in MB;
    ``resources`` has what it asks for of custom classes, by class name."""

    uuid: Required[str]
    node: str | None
    vcpus: int
    memory_mb: int
    root_gb: int
    ephemeral_gb: int
    swap: int | None
    resources: Mapping[str, int] | None
    vm_state: str | None
    task_state: str | None
    os_type: str | None
    project_id: str | None
    user_id: str | None
    display_name: str | None
    instance_type: str | None
    instance_flavor_id: str | None
    availability_zone: str | None
    created_at: str | None
    launched_at: str | None
    deleted_at: str | None
    terminated_at: str | None
    image_meta: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None


class Limits(TypedDict, total=False):
    """Ceilings on a node's total usage, the host's reserve included; a missing or null limit means what [tracker] missing_limit
    says. Names of resource classes are limits too."""

    memory_mb: float | None
    disk_gb: float | None
    vcpu: float | None


InstanceLike = Instance | Mapping[str, Any]
LimitsLike = Limits | Mapping[str, float | None]


class GroupEntry(TypedDict, total=False):
    """One claim of a group."""

    instance: Required[InstanceLike]
    limits: LimitsLike | None
    claim_id: str | None


class Claim(TypedDict):
    """A claim. ``resources``: resource class -> amount; ``state``: begun, finished, aborted or expired; ``limit_source``:
    caller, capacity or unlimited; ``on_expiry``: keep, release, or null for what the worker's options say. (A worker of version
    1.0 leaves on_expiry out.)"""

    claim_id: str
    instance_uuid: str
    host: str
    node: str
    resources: dict[str, int]
    state: str
    begun_at: str
    expires_at: str
    generation: int
    limit_source: str
    on_expiry: NotRequired[str | None]


class MoveBeginning(TypedDict, total=False):
    """What a move begins with. ``kind``: resize, migration, live_migration or evacuation."""

    id: Required[str]
    kind: Required[str]
    from_host: str | None
    from_node: str | None


class Move(TypedDict):
    """A move as a host knows it. ``resources``: what the destination is charged; ``old_resources``: what the source was
    charged, {} if the host does not know it. ``state``: begun, finished, confirmed, reverted, aborted, expired or failed.
    ``finished_at`` and ``ended_at``: when the instance was handed over, and when the move ended, '' until then."""

    id: str
    kind: str
    instance_uuid: str
    from_host: str | None
    from_node: str | None
    to_host: str
    to_node: str
    resources: dict[str, int]
    old_resources: dict[str, int]
    state: str
    begun_at: str
    expires_at: str
    finished_at: str
    ended_at: str
    generation: int
    limit_source: str


class Allocation(TypedDict):
    """What a node is charged for an instance. ``role``: instance, incoming or hold; ``claim_state``: begun, finished, or
    expired for a claim that expired and left the instance charged."""

    instance_uuid: str
    host: str
    node: str
    project_id: str | None
    user_id: str | None
    resources: dict[str, int]
    role: str
    vm_state: str | None
    task_state: str | None
    claim_id: str
    claim_state: str
    begun_at: str


class Allocations(TypedDict):
    """A page of allocations, as of the ``sequences`` of the nodes that were asked. ``next``: where the next page begins; null
    at the end."""

    ledger_id: str
    sequences: dict[str, int]
    allocations: list[Allocation]
    next: str | None


class Fit(TypedDict):
    """Whether a claim would be granted, and every shortfall if it would not."""

    fits: bool
    shortfalls: list[dict[str, Any]]
    limit_source: str


class Refusal(TypedDict):
    """Why an instance is not adopted; ``code`` is that of the error."""

    instance_uuid: str
    code: str
    message: str


class Adoption(TypedDict):
    """What became of instances that run already: the uuids of those that are charged now, and of those that were charged
    before, exactly so; and the refusals."""

    adopted: list[str]
    already: list[str]
    refused: list[Refusal]


class Comparison(TypedDict):
    """What a node is charged for beside what runs there: uuids, sorted. ``building``: those whose claim is begun and that were
    never reported built; they are in neither of the other lists."""

    charged_not_running: list[str]
    running_not_charged: list[str]
    building: list[str]


class ClassInventory(TypedDict):
    """What a node has of one resource class. ``used`` is what instances are charged; the reserve is not in it."""

    total: int
    reserved: int
    allocation_ratio: float
    min_unit: int
    max_unit: int | None
    step_size: int
    capacity: int
    used: int


class Node(TypedDict):
    """A node: what its driver reported, what is used and free, and its counters. Free amounts may be negative; totals and free
    amounts are null while no inventory is known. (A worker of version 1.0 leaves ledger_id, the state and resources out.)"""

    id: int
    host: str
    node: str
    generation: int
    sequence: int
    ledger_id: NotRequired[str]
    disabled: bool
    state: NotRequired[str]
    state_reason: NotRequired[str]
    state_since: NotRequired[str]
    running_vms: int
    current_workload: int
    stats: dict[str, int]
    resources: NotRequired[dict[str, ClassInventory]]
    vcpus: int | None
    vcpus_used: int
    memory_mb: int | None
    memory_mb_used: int
    free_ram_mb: int | None
    local_gb: int | None
    local_gb_used: int
    free_disk_gb: int | None
    cpu_info: Any
    hypervisor_type: Any
    hypervisor_version: Any
    hypervisor_hostname: Any
    disk_available_least: Any


class Instances(TypedDict):
    """Instances that a node is charged for, as of the notification with the number ``sequence``. Each is the payload of a
    notification as it would be now, and ``since``, from when on it is charged as it is now, and ``period_resource_seconds``,
    resource class -> amount times seconds that its project was charged for it on this node from ``audit_period_beginning`` on:
    when the period begins that is not closed yet, '' on a node without an event. ``next``: the last uuid of the page if there
    are more behind it, else None."""

    ledger_id: str
    sequence: int
    audit_period_beginning: str
    instances: list[dict[str, Any]]
    next: str | None


class Notification(TypedDict):
    """A notification as it was published, or will be. ``timestamp``: when it occurred, as oslo.messaging writes it. The schemas
    of the payloads are in ``tracker_worker.notifications``."""

    message_id: str
    event_type: str
    priority: str
    timestamp: str
    payload: dict[str, Any]


class Notifications(TypedDict):
    """Notifications of one host and node name, in the order of their numbers (``sequence`` in the payload). ``first``: the
    number of the oldest one that is kept, or ``last`` + 1 if none is; ``last``: the number of the last one there is."""

    ledger_id: str
    first: int
    last: int
    notifications: list[Notification]


class Update(TypedDict):
    """The answer to a usage update: whether the instance is charged here, and whether anything changed."""

    tracked: bool
    changed: bool


Usage = dict[str, dict[str, Any]]
"""Project -> number of instances, and the sum of each standard class; under ``resources`` those of custom classes, if there are
any; and under ``incoming`` and ``hold``, each with the same, what is so for moves, if there is any."""
