# SPDX-License-Identifier: Apache-2.0
"""The views of a ledger that callers get. Each view is a copy made of JSON types."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from operator import itemgetter
from typing import Any

import msgspec

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.classes import ClassInventory
from tracker_worker.domain.inventory import FACTS
from tracker_worker.domain.ledger import NodeLedger, ProjectUsage
from tracker_worker.domain.move import Move
from tracker_worker.domain.resources import CLASSES, STANDARD, Resources
from tracker_worker.domain.segments import Segment, whole_seconds
from tracker_worker.domain.values import SECOND

# A custom class that the node no longer has. One that it has always has a max_unit.
_GONE = ClassInventory(total=0)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 in UTC; the text gets its Z by itself


class Entries:
    """The entries of a JSON object that may be large: pairs of key and value, each made when it is asked for."""

    def __init__(self, pairs: Iterable[tuple[str, Any]]) -> None:
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._pairs)


@lru_cache(maxsize=256)  # commands that are decided together have the same times
def iso(at: int) -> str:
    """The time ``at`` (microseconds) as ISO 8601 text in UTC with 'Z', always with microseconds."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat("T", "microseconds") + "Z"


def iso_second(at: int) -> str:
    """The time ``at`` (microseconds), rounded down to its second, as ISO 8601 text in UTC with 'Z'."""
    return (_EPOCH + timedelta(seconds=at // SECOND)).isoformat("T", "seconds") + "Z"


def claim_view(ledger: NodeLedger, allocation: Allocation, *, generation: int) -> dict[str, Any]:
    """A claim as the RPC API returns it."""
    return {
        "claim_id": allocation.claim_id,
        "instance_uuid": allocation.uuid,
        "host": ledger.host,
        "node": ledger.name,
        "resources": allocation.resources.to_dict(),
        "state": allocation.claim_state,
        "begun_at": iso(allocation.begun_at),
        "expires_at": iso(allocation.expires_at),
        "generation": generation,
        "limit_source": allocation.limit_source,
        "on_expiry": allocation.on_expiry,
    }


def each_claim_view(
    ledgers: Iterable[NodeLedger], *, limit: int | None = None, after: str | None = None
) -> Iterator[dict[str, Any]]:
    """The claims that are begun, by claim_id, each made when it is asked for: those after ``after``, at most ``limit``."""
    begun = [
        (held.claim_id, ledger, held)
        for ledger in ledgers
        for uuid in ledger.begun
        if (held := ledger.allocations[uuid]).claim_id > (after or "")
    ]
    for _, ledger, held in sorted(begun, key=itemgetter(0))[:limit]:
        yield claim_view(ledger, held, generation=ledger.generation)


def allocation_view(ledger: NodeLedger, held: Allocation) -> dict[str, Any]:
    """What a node is charged for an instance."""
    return charge_view(ledger.host, ledger.name, held)


def charge_view(host: str, node: str, held: Allocation) -> dict[str, Any]:
    """What a node, given by its names, is charged for an instance."""
    instance = held.instance
    return {
        "instance_uuid": held.uuid,
        "host": host,
        "node": node,
        "project_id": instance.project_id,
        "user_id": instance.user_id,
        "resources": held.resources.to_dict(),
        "role": held.role,
        "vm_state": instance.vm_state,
        "task_state": instance.task_state,
        "claim_id": held.claim_id,
        "claim_state": held.claim_state,
        "begun_at": iso(held.begun_at),
    }


def segment_view(segment: Segment) -> dict[str, Any]:
    """A segment as billing gets it."""
    held = segment.allocation
    return {
        "from": iso_second(segment.since),
        "to": iso_second(segment.until),
        "seconds": whole_seconds(segment.since, segment.until),
        "resources": held.resources.to_dict(),
        "state": held.instance.vm_state or "",
        "claim_state": held.claim_state,
    }


def move_view(move: Move, *, generation: int = 0) -> dict[str, Any]:
    """A move as the RPC API returns it. ``generation`` is that of the node that keeps its record; 0: not known."""
    return {
        "id": move.id,
        "kind": move.kind,
        "instance_uuid": move.instance_uuid,
        "from_host": move.from_host,
        "from_node": move.from_node,
        "to_host": move.to_host,
        "to_node": move.to_node,
        "resources": move.resources.to_dict(),
        "old_resources": {} if move.old_resources is None else move.old_resources.to_dict(),
        "state": move.state,
        "begun_at": iso(move.begun_at),
        "expires_at": iso(move.expires_at),
        "finished_at": iso(move.finished_at) if move.finished_at else "",
        "ended_at": iso(move.ended_at) if move.ended_at else "",
        "generation": generation,
        "limit_source": move.limit_source,
    }


def node_view(ledger: NodeLedger) -> dict[str, Any]:
    """A node: the keys of its driver, its used and free amounts, and its statistics.

    Memory is in MB, disk in GB. A free amount may be negative. Totals and free amounts are None where no inventory is known.
    ``resources`` has each class of the inventory, and each custom one that is charged all the same.
    """
    inventory, usage, stats = ledger.inventory, ledger.usage, ledger.stats
    view: dict[str, Any] = {
        "id": ledger.id,
        "host": ledger.host,
        "node": ledger.name,
        "generation": ledger.generation,
        "sequence": ledger.sequence,
        "ledger_id": ledger.ledger_id,
        "disabled": ledger.disabled,
        "state": ledger.life.state,
        "state_reason": ledger.life.reason,
        "state_since": iso(ledger.life.since) if ledger.life.since else "",
        "running_vms": stats.num_instances,
        "current_workload": stats.current_workload,
        "stats": stats.to_dict(),
        "resources": _each_class(ledger),
    }
    for klass in CLASSES:
        total = None if inventory is None else inventory.total[klass.name]
        view[klass.total] = total
        view[klass.used] = usage[klass.name]
        if klass.free:
            view[klass.free] = None if total is None else total - usage[klass.name]
    for fact in FACTS:
        view[fact] = None if inventory is None else _copied(inventory.facts.get(fact))
    return view


def _copied(value: Any) -> Any:
    """A copy of a value of JSON types."""
    if isinstance(value, dict):
        return {name: _copied(item) for name, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _each_class(ledger: NodeLedger) -> dict[str, dict[str, Any]]:
    """What the node has of each class, its capacity, and what instances are charged: the reserve is not in ``used``."""
    inventory, charged = ledger.inventory, ledger.charged
    classes = {} if inventory is None else inventory.classes
    gone = {name: _GONE for name, _ in charged.custom if name not in classes}
    return {
        name: {**msgspec.structs.asdict(each), "capacity": each.capacity, "used": charged[name]}
        for name, each in (*classes.items(), *gone.items())
    }


def usage_view(ledgers: Iterable[NodeLedger], project_id: str | None = None) -> dict[str, dict[str, Any]]:
    """The number of instances and the sum of each resource class, per project; the custom classes are under ``resources``, if
    there are any. ``project_id`` None stands for every project that has instances. Instances without a project are counted
    under ''. What is incoming and on hold for moves is counted apart, under the names of these roles, where there is any."""
    return dict(each_usage(ledgers, project_id))


def each_usage(ledgers: Iterable[NodeLedger], project_id: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of ``usage_view``, each made when it is asked for."""
    total: dict[str, ProjectUsage] = {}
    moving: dict[str, dict[str, ProjectUsage]] = {}
    for ledger in ledgers:
        for project, held in ledger.projects.items():
            if project_id is None or (project or "") == project_id:
                _add(total.setdefault(project or "", ProjectUsage()), held.instances, held.resources)
        for (_, role), charged in ledger.moving.items():
            owner = charged.instance.project_id or ""
            if project_id in (None, owner):
                total.setdefault(owner, ProjectUsage())
                _add(moving.setdefault(owner, {}).setdefault(role, ProjectUsage()), 1, charged.resources)
    for name, usage in total.items():
        roles = {role: _usage(of_role) for role, of_role in sorted(moving.get(name, {}).items())}
        yield name, {**_usage(usage), **roles}


def _add(usage: ProjectUsage, instances: int, resources: Resources) -> None:
    usage.instances += instances
    usage.resources += resources


def _usage(usage: ProjectUsage) -> dict[str, Any]:
    counted = {"instances": usage.instances, **dict(zip(STANDARD, usage.resources.amounts, strict=True))}
    custom = dict(usage.resources.custom)
    return {**counted, "resources": custom} if custom else counted
