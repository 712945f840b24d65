# SPDX-License-Identifier: Apache-2.0
"""Decisions on instances after their claim: reported changes, releases, comparison with what runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any

from msgspec.structs import replace

from tracker_worker.domain import commands, events
from tracker_worker.domain.allocation import ABORTED, BEGUN, EXPIRED, Allocation
from tracker_worker.domain.decision import NOTHING, Decision, decided
from tracker_worker.domain.fit import over_capacity, too_much
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import OWNER
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.moves import end_with_instance
from tracker_worker.domain.resources import SIZES
from tracker_worker.domain.states import DELETED, RELEASING, UNBUILT
from tracker_worker.domain.views import allocation_view
from tracker_worker.errors import InstanceElsewhere, InvalidInput

MOST_DELETIONS = 100_000
"""The most deletions that are remembered of a host."""
_MOST_FORGOTTEN = 100
"""Nodes that come from another host bring what is remembered of them. Each further deletion then makes room for so many."""


def update(host: HostLedger, command: commands.UpdateUsage, now: int) -> Decision:
    ledger = host.holding(command.uuid)
    gone = command.changes.get("vm_state") == DELETED
    if ledger is None:
        moved = tuple(end_with_instance(host, command.uuid, now)) if gone else ()
        if any(host.moving(command.uuid)) and moved:
            return Decision(node=moved[0][0], events=moved, reply={"tracked": True, "changed": True}, whole_host=True)
        untracked = _untracked(host, command, now)
        return replace(untracked, events=(*moved, *untracked.events), whole_host=True) if moved else untracked
    if command.node not in (None, ledger.name):
        raise InstanceElsewhere(instance_uuid=command.uuid, host=ledger.host, node=ledger.name)
    at = ledger.time(now)
    before = ledger.allocations[command.uuid]
    releases = _releases(before, command.changes)
    changes = _applicable(command.changes, releases)
    instance = before.instance.changed(changes)
    built = before.built or changes.get("vm_state") not in UNBUILT
    changed = instance is not before.instance
    reply = {"tracked": True, "changed": changed}
    if not changed:
        if built and not before.built and before.claim_state in (BEGUN, EXPIRED):
            return decided(ledger, events.BuiltNoted(at=at, allocation=replace(before, built=True)), reply=reply)
        return decided(ledger, reply=reply)
    if releases:
        last = replace(instance, **{size: getattr(before.instance, size) for size in (*SIZES, "swap", "custom")})
        event = events.UsageReleased(at=at, before=before, allocation=_ended(replace(before, instance=last)))
        return _released(host, ledger, event, reply, now)
    after = replace(before, instance=instance, resources=instance.resources, built=built)
    others = ledger.usage - before.resources
    excess = too_much(after.resources, others)
    if excess is not None and after.resources != before.resources:
        raise InvalidInput(field="instance", reason=excess)
    over = over_capacity(before.resources, after.resources, others + after.resources, ledger.inventory)
    return decided(ledger, events.UsageUpdated(at=at, before=before, allocation=after, over_capacity=over), reply=reply)


def _released(host: HostLedger, ledger: NodeLedger, event: events.UsageReleased, reply: Any, now: int) -> Decision:
    """The end of an instance's charge, and of what it is charged on the host for a move."""
    moved = end_with_instance(host, event.before.uuid, now) if any(each.moves or each.moving for each in host) else []
    return Decision(node=ledger, events=(*moved, (ledger, event)), reply=reply, whole_host=bool(moved))


def _untracked(host: HostLedger, command: commands.UpdateUsage, now: int) -> Decision:
    """Nobody is charged for the instance. Its deletion is remembered, since its claim may still come."""
    reply = {"tracked": False, "changed": False}
    ledger = None if command.node is None else host.node(command.node)
    deleted = command.changes.get("vm_state") == DELETED
    if not deleted or not command.notes_deletions:
        return Decision(node=ledger, reply=reply)
    # A host remembers an instance once: the nodes share what is remembered.
    again = next((other for other in host if command.uuid in other.deletions), None)
    ledger = again or ledger or next(iter(host), None)
    if ledger is None:
        return Decision(reply=reply)
    noted = events.DeletionNoted(at=ledger.time(now), uuid=command.uuid)
    excess = sum(len(other.deletions) for other in host) + (again is None) - MOST_DELETIONS
    forgotten = _oldest_forgotten(host, command.uuid, min(excess, _MOST_FORGOTTEN), now) if excess > 0 else ()
    return Decision(node=ledger, events=((ledger, noted), *forgotten), reply=reply, whole_host=True)


def _oldest_forgotten(
    host: HostLedger, besides: str, number: int, now: int
) -> Iterator[tuple[NodeLedger, events.DeletionsForgotten]]:
    """Forget the oldest ``number`` deletions of a host, but not that of the instance ``besides``. Takes as long as the host has
    nodes, however many deletions there are."""
    known = merge(*(_remembered(ledger, besides) for ledger in host), key=itemgetter(0))
    gone: dict[str, list[str]] = {}
    for _, uuid, ledger in islice(known, number):
        gone.setdefault(ledger.name, []).append(uuid)
    for name, uuids in gone.items():
        yield host.any_node(name), events.DeletionsForgotten(at=now, uuids=tuple(uuids))


def _remembered(ledger: NodeLedger, besides: str) -> Iterator[tuple[int, str, NodeLedger]]:
    for uuid, at in ledger.deletions.items():
        if uuid != besides:
            yield at, uuid, ledger


def _applicable(changes: Mapping[str, Any], releases: bool) -> Mapping[str, Any]:
    """The changes without an owner where it says nothing, or comes with the end of the charge: whoever was charged is told."""
    return {name: value for name, value in changes.items() if name not in OWNER or (value and not releases)}


def _releases(before: Allocation, changes: Mapping[str, Any]) -> bool:
    """Whether the change means that the instance holds nothing any more. A state that it had before says nothing new."""
    state = changes.get("vm_state")
    again = None if state is None else RELEASING.get(state)
    return again is not None and (again or before.instance.vm_state != state)


def _ended(held: Allocation) -> Allocation:
    """An allocation that is released: a claim that is begun ends without a build."""
    return replace(held, claim_state=ABORTED) if held.claim_state == BEGUN else held


def release(host: HostLedger, command: commands.ReleaseAllocation, now: int) -> Decision:
    ledger = host.holding(command.uuid)
    if ledger is None:
        charges = host.charges(command.uuid)
        moved = tuple(end_with_instance(host, command.uuid, now)) if charges else ()
        if not moved:
            return NOTHING
        return Decision(node=charges[0][0], events=moved, reply=allocation_view(*charges[0]), whole_host=True)
    held = ledger.allocations[command.uuid]
    event = events.UsageReleased(
        at=ledger.time(now),
        before=held,
        allocation=_ended(held),
        released_by=command.released_by,
        reason=command.reason,
    )
    return _released(host, ledger, event, allocation_view(ledger, held), now)


def compare(host: HostLedger, command: commands.CompareInstances, now: int) -> Decision:
    ledger = host.node_or_only(command.node, "node")
    charged = ledger.allocations.keys()
    moving = {uuid for uuid, _ in ledger.moving}  # it may run here, or not
    building = {uuid for uuid in ledger.begun if not ledger.allocations[uuid].built}
    comparison = events.Comparison(
        charged_not_running=tuple(sorted(charged - command.uuids - building)),
        running_not_charged=tuple(sorted(command.uuids - charged - moving)),
        building=tuple(sorted(building)),
    )
    reply = {name: list(getattr(comparison, name)) for name in comparison.__struct_fields__}
    if not comparison.charged_not_running and not comparison.running_not_charged:
        return decided(ledger, reply=reply)
    drift = events.InstancesDrift(at=ledger.time(now), comparison=comparison)
    return decided(ledger, drift, reply=reply, whole_host=command.node is None)


def forget_deletions(host: HostLedger, command: commands.ForgetDeletions, now: int) -> Decision:
    kept = sorted(
        (at, uuid) for ledger in host for uuid, at in ledger.deletions.items() if at >= command.reported_before
    )
    kept_uuids = {uuid for _, uuid in kept[max(0, len(kept) - command.most) :]}
    happened: list[tuple[NodeLedger, events.Event]] = []
    for ledger in host:
        if gone := tuple(uuid for uuid in ledger.deletions if uuid not in kept_uuids):
            happened.append((ledger, events.DeletionsForgotten(at=now, uuids=gone)))
    return Decision(events=tuple(happened), whole_host=True)
