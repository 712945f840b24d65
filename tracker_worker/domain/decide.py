# SPDX-License-Identifier: Apache-2.0
"""The decision on a command: which events it causes in a host's ledgers. This module reads ledgers and changes none.

A refusal is a value: ``Decision.error``. The caller makes decisions one after the other, each on the ledgers to which the
events of the decision before have been applied; because of this order the capacity rule holds without locks.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from tracker_worker.domain import commands, events
from tracker_worker.domain.allocation import ABORTED, CALLER, CAPACITY, FINISHED, UNLIMITED, Allocation
from tracker_worker.domain.fit import UNLIMITED as LIMITLESS
from tracker_worker.domain.fit import fits
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.resources import SIZES
from tracker_worker.domain.views import claim_view
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable, InvalidInput, TrackerError


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a command. The caller applies ``events`` to ``node`` in order and in one commit, and sends ``reply`` or
    ``error`` after the commit."""

    node: NodeLedger | None = None
    events: tuple[events.Event, ...] = ()
    reply: Any = None
    error: TrackerError | None = None


_NOTHING = Decision()


def decide(host: HostLedger, command: commands.Command, now: int) -> Decision:
    """The decision on ``command`` at ``now`` (microseconds). Changes no ledger. A refusal is returned, never raised."""
    try:
        match command:
            case commands.BeginClaim():
                return _begin(host, command, now)
            case commands.FinishClaim(claim_id=claim_id):
                return _finish(host, claim_id, now)
            case commands.AbortClaim(claim_id=claim_id):
                return _abort(host, claim_id, now)
            case commands.ExpireClaims():
                return _expire(host.node(command.node), command.release, now)
            case commands.UpdateUsage():
                return _update(host, command, now)
            case commands.ReportInventory():
                return _report(host.node(command.node), command, now)
    except TrackerError as refusal:
        return Decision(error=refusal)


def _begin(host: HostLedger, command: commands.BeginClaim, now: int) -> Decision:
    ledger = host.node_or_only(command.node, "instance.node")
    instance = command.instance
    if instance.releases:
        raise InvalidInput(
            field="instance.vm_state", reason=f"an instance that is {instance.vm_state} cannot be claimed"
        )
    if ledger.inventory is None:
        return Decision(node=ledger)
    requested = instance.resources
    holder = host.holding(instance.uuid)
    if holder is not None:
        held = holder.allocations[instance.uuid]
        if holder is not ledger:
            raise _conflict(holder, held, f"not on {ledger.name}")
        if held.resources != requested:
            raise _conflict(holder, held, f"with {held.resources.to_dict()}, not {requested.to_dict()}")
        return Decision(node=ledger, reply=claim_view(ledger, held, generation=ledger.generation))
    limits = command.limits
    source = CALLER if limits.given else UNLIMITED
    if command.capacity_limits:
        source = CALLER if limits.given else CAPACITY
        limits = limits.completed(ledger.inventory.total)
    shortfalls = fits(requested, ledger.usage, limits)
    if shortfalls:
        return Decision(
            node=ledger,
            events=(events.ClaimRejected(at=now, instance=instance, shortfalls=shortfalls, limit_source=source),),
            error=ComputeResourcesUnavailable(shortfalls=[shortfall.to_dict() for shortfall in shortfalls]),
        )
    allocation = Allocation(
        instance=instance,
        resources=requested,
        begun_at=now,
        expires_at=now + command.timeout,
        limit_source=source,
    )
    return Decision(
        node=ledger,
        events=(events.ClaimBegun(at=now, allocation=allocation),),
        reply=claim_view(ledger, allocation, generation=ledger.next_generation),
    )


def _conflict(ledger: NodeLedger, held: Allocation, reason: str) -> ClaimConflict:
    return ClaimConflict(instance_uuid=held.uuid, node=ledger.name, reason=reason)


def _finish(host: HostLedger, claim_id: str, now: int) -> Decision:
    ledger = host.holding(claim_id)
    if ledger is None or claim_id not in ledger.begun:
        return _NOTHING
    finished = replace(ledger.allocations[claim_id], claim_state=FINISHED)
    return Decision(
        node=ledger,
        events=(events.ClaimFinished(at=now, allocation=finished),),
        reply=claim_view(ledger, finished, generation=ledger.next_generation),
    )


def _abort(host: HostLedger, claim_id: str, now: int) -> Decision:
    ledger = host.holding(claim_id)
    if ledger is None or claim_id not in ledger.begun:
        return _NOTHING
    aborted = ledger.allocations[claim_id]
    return Decision(
        node=ledger,
        events=(events.ClaimAborted(at=now, allocation=aborted),),
        reply=claim_view(ledger, aborted, generation=ledger.next_generation, state=ABORTED),
    )


def _expire(ledger: NodeLedger, release: bool, now: int) -> Decision:
    due = [ledger.allocations[uuid] for uuid in ledger.begun]
    due = sorted((a for a in due if a.expires_at < now), key=lambda a: (a.expires_at, a.uuid))
    return Decision(
        node=ledger,
        events=tuple(
            events.ClaimExpired(at=now, allocation=replace(a, claim_state=FINISHED), released=release) for a in due
        ),
    )


def _update(host: HostLedger, command: commands.UpdateUsage, now: int) -> Decision:
    ledger = host.node_or_only(command.node, "instance.node")
    before = ledger.allocations.get(command.uuid)
    if before is None:
        return Decision(node=ledger, reply={"tracked": False, "changed": False})
    instance = before.instance.changed(command.changes)
    if instance is before.instance:
        return Decision(node=ledger, reply={"tracked": True, "changed": False})
    event: events.Event
    if instance.releases:
        last = replace(instance, **{size: getattr(before.instance, size) for size in SIZES})
        event = events.UsageReleased(at=now, before=before, allocation=replace(before, instance=last))
    else:
        after = replace(before, instance=instance, resources=instance.resources)
        grown = fits(after.resources, ledger.usage - before.resources, LIMITLESS)
        if grown and after.resources != before.resources:
            raise InvalidInput(
                field="instance", reason=f"the usage of {grown[0].resource} would exceed {grown[0].limit}"
            )
        event = events.UsageUpdated(at=now, before=before, allocation=after)
    return Decision(node=ledger, events=(event,), reply={"tracked": True, "changed": True})


def _report(ledger: NodeLedger, command: commands.ReportInventory, now: int) -> Decision:
    happened: list[events.Event] = []
    if ledger.drift is not None:
        happened.append(events.NodeDrift(at=now, stored=ledger.drift, usage=ledger.usage))
    if command.inventory != ledger.inventory:
        happened.append(events.NodeUpdated(at=now, inventory=command.inventory))
    return Decision(node=ledger, events=tuple(happened))
