# SPDX-License-Identifier: Apache-2.0
"""Decisions on claims: begin, alone or in a group; finish, abort, renew, expire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from tracker_worker.domain import commands, events, life
from tracker_worker.domain.allocation import (
    ABORTED,
    BEGUN,
    CALLER,
    CAPACITY,
    EXPIRED,
    FINISHED,
    RELEASE,
    UNLIMITED,
    Allocation,
)
from tracker_worker.domain.decision import NOTHING, Decision, decided
from tracker_worker.domain.fit import Shortfall, fits
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.views import claim_view, iso
from tracker_worker.errors import (
    ClaimConflict,
    ComputeResourcesUnavailable,
    InvalidInput,
    NodeDraining,
    NodeUnavailable,
)

NewId = Callable[[int], str]
"""Makes an id at a time in microseconds."""


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """How a claim of ``requested`` stands on its node. ``held``: the instance is charged already, exactly so. ``tracked``
    False: the node charges nothing. Otherwise the claim fits if there are no ``shortfalls``."""

    ledger: NodeLedger
    requested: Resources = ZERO
    tracked: bool = True
    held: Allocation | None = None
    shortfalls: tuple[Shortfall, ...] = ()
    limit_source: str = UNLIMITED


def fit(
    host: HostLedger, command: commands.BeginClaim, now: int, charged: Mapping[int, Resources] | None = None
) -> Fit:
    """How the claim stands if the nodes are charged this (by node id) beside what they are charged.

    Raises NodeNotFound, NodeUnavailable, NodeDraining, ClaimConflict, and InvalidInput where a node must be named or the
    instance is deleted."""
    instance = command.instance
    holder = host.holding(instance.uuid)
    # A repetition that names no node means the node that the first one found, whatever the host's nodes are by now.
    repeated = holder if command.node is None else None
    ledger = repeated or host.node_to_claim(command.node, "instance.node")
    if instance.is_deleted:
        raise InvalidInput(field="instance.vm_state", reason="an instance that is deleted cannot be claimed")
    requested = instance.resources
    if holder is not None:
        held = holder.allocations[instance.uuid]
        if holder is not ledger:
            raise _conflict(holder, held.uuid, f"it is charged to node {holder.name}, not to {ledger.name}")
        if held.resources != requested:
            raise _conflict(holder, held.uuid, f"it is charged {held.resources.to_dict()}, not {requested.to_dict()}")
        return Fit(ledger=ledger, held=held, limit_source=held.limit_source)
    for node, charge in host.moving(instance.uuid):
        raise _conflict(node, charge.uuid, f"it is {charge.role} on node {node.name}, for a move")
    _check_not_left(host, ledger, command, now)
    if ledger.disabled:
        return Fit(ledger=ledger, tracked=False)
    check_taking(host, ledger, command, now)
    # An end names a claim by its id or by the uuid of its instance: neither may name another claim.
    if command.claim_id is not None and (other := host.named(command.claim_id)) is not None:
        raise _taken(ledger, command, command.claim_id, other[1].uuid)
    if (other := host.claimed(instance.uuid)) is not None:
        raise _taken(ledger, command, instance.uuid, other[1].uuid)
    return room(ledger, command, charged)


def room(ledger: NodeLedger, command: commands.BeginClaim, charged: Mapping[int, Resources] | None = None) -> Fit:
    """How what a claim asks for stands against its limits, on a node that takes claims."""
    requested, inventory, limits = command.instance.resources, ledger.inventory, command.limits
    assert inventory is not None
    source = CALLER if limits.given else UNLIMITED
    if command.capacity_limits:
        source = CALLER if limits.given else CAPACITY
        limits = limits.completed(inventory.ceilings)
    used = ledger.usage + charged.get(ledger.id, ZERO) if charged else ledger.usage
    shortfalls = fits(requested, used, limits, inventory)
    return Fit(ledger=ledger, requested=requested, shortfalls=shortfalls, limit_source=source)


def check_taking(host: HostLedger, ledger: NodeLedger, command: commands.BeginClaim, now: int) -> None:
    """Raises NodeDraining, NodeUnavailable: the node takes nothing now. Raises ClaimConflict: the instance was reported deleted
    not long ago."""
    state, stale_after = ledger.life, command.stale_after
    if state.state == life.DRAINING:
        raise NodeDraining(host=ledger.host, node=ledger.name, reason=state.reason)
    stale = state.state == life.STALE and state.silent_since is not None and state.silent_since + stale_after < now
    if stale or state.state in (life.MISSING, life.UNKNOWN) or ledger.inventory is None:
        reason = state.reason or "its driver has not answered yet"
        raise NodeUnavailable(host=ledger.host, node=ledger.name, state=state.state, reason=reason)
    deleted_at = host.deleted_at(command.instance.uuid)
    if deleted_at is not None and command.remembers_deletions and deleted_at + command.remembers_deletions >= now:
        raise _conflict(ledger, command.instance.uuid, f"it was reported deleted at {iso(deleted_at)}")


def _check_not_left(host: HostLedger, ledger: NodeLedger, command: commands.BeginClaim, now: int) -> None:
    """Raises ClaimConflict: this is the claim that a move has handed over to another host, or may be. A message that is late
    must not charge an instance once more; its caller may have been answered long ago."""
    uuid = command.instance.uuid
    for node in host:
        if uuid not in node.left:
            continue
        move = node.moves[node.left[uuid]]
        recently = move.finished_at + command.remembers_deletions >= now and command.remembers_deletions > 0
        if move.left_claim_id == command.claim_id or (command.claim_id is None and recently):
            where = f"node {move.to_node} of host {move.to_host} by the move {move.id}"
            raise _conflict(ledger, uuid, f"it was handed over at {iso(move.finished_at)} to {where}")


def _conflict(ledger: NodeLedger, uuid: str, reason: str) -> ClaimConflict:
    return ClaimConflict(instance_uuid=uuid, node=ledger.name, reason=reason)


def _taken(ledger: NodeLedger, command: commands.BeginClaim, name: str, other: str) -> ClaimConflict:
    what = "claim_id" if name == command.claim_id else "uuid"
    reason = f"the {what} {name} names the claim for instance {other}"
    return _conflict(ledger, command.instance.uuid, reason)


def begin(host: HostLedger, command: commands.BeginClaim, now: int, new_id: NewId) -> Decision:
    """Rests on the whole host: no other node has the instance, a claim of this id, or word that the instance was deleted."""
    found = fit(host, command, now)
    ledger = found.ledger
    at = ledger.time(now)
    if not found.tracked:
        return decided(ledger, events.ClaimUntracked(at=at, instance=command.instance), whole_host=True)
    if found.held is not None:
        return decided(ledger, reply=claim_view(ledger, found.held, generation=ledger.generation))
    if found.shortfalls:
        error = ComputeResourcesUnavailable(shortfalls=[shortfall.to_dict() for shortfall in found.shortfalls])
        return decided(ledger, _rejected(command, found, at), error=error, whole_host=True)
    allocation = _charged(command, found, at, new_id)
    reply = claim_view(ledger, allocation, generation=ledger.next_generation)
    return decided(ledger, events.ClaimBegun(at=at, allocation=allocation), reply=reply, whole_host=True)


def begin_all(host: HostLedger, command: commands.BeginClaims, now: int, new_id: NewId) -> Decision:
    """All claims or none. A claim that does not fit charges nothing that the claims after it would see."""
    charged: dict[int, Resources] = {}
    granted: list[tuple[NodeLedger, events.Event]] = []
    lacking: list[tuple[NodeLedger, events.Event]] = []
    shortfalls: list[dict[str, Any]] = []
    held: list[tuple[NodeLedger, Allocation | None]] = []
    named: dict[str, str] = {}  # the uuid of the instance by its claim_id, and by itself
    uuids: set[str] = set()
    for index, one in enumerate(command.claims):
        uuid = one.instance.uuid
        if uuid in uuids:
            raise InvalidInput(field=f"claims.{index}.instance.uuid", reason="is that of another claim of the group")
        uuids.add(uuid)
        found = _fit_in_group(host, one, now, charged, index)
        ledger = found.ledger
        at = ledger.time(now)
        allocation = found.held
        if not found.tracked:
            granted.append((ledger, events.ClaimUntracked(at=at, instance=one.instance)))
        elif found.shortfalls:
            lacking.append((ledger, _rejected(one, found, at)))
            named = {"instance_uuid": uuid, "node": ledger.name}
            shortfalls += [{**shortfall.to_dict(), **named} for shortfall in found.shortfalls]
        elif allocation is None:
            for name in (one.claim_id, uuid):
                if name is not None and name in named:
                    raise _taken(ledger, one, name, named[name])
            allocation = _charged(one, found, at, new_id)
            named[allocation.claim_id] = named[uuid] = uuid
            charged[ledger.id] = charged.get(ledger.id, ZERO) + allocation.resources
            granted.append((ledger, events.ClaimBegun(at=at, allocation=allocation)))
        held.append((ledger, allocation))
    if lacking:
        error = ComputeResourcesUnavailable(shortfalls=shortfalls)
        return Decision(events=tuple(lacking), error=error, whole_host=True)
    changed = {ledger.id for ledger, _ in granted}
    replies = [
        None if allocation is None else claim_view(ledger, allocation, generation=_after(ledger, ledger.id in changed))
        for ledger, allocation in held
    ]
    return Decision(events=tuple(granted), reply=replies, whole_host=True)


def _fit_in_group(
    host: HostLedger, command: commands.BeginClaim, now: int, charged: Mapping[int, Resources], index: int
) -> Fit:
    try:
        return fit(host, command, now, charged)
    except InvalidInput as error:
        path = f"claims.{index}.{error.kwargs['field']}"
        raise InvalidInput(field=path, reason=error.kwargs["reason"]) from None


def _after(ledger: NodeLedger, changed: bool) -> int:
    """The generation of a node after a decision that has changed it, or has not."""
    return ledger.next_generation if changed else ledger.generation


def _rejected(command: commands.BeginClaim, found: Fit, at: int) -> events.ClaimRejected:
    return events.ClaimRejected(
        at=at, instance=command.instance, shortfalls=found.shortfalls, limit_source=found.limit_source
    )


def _charged(command: commands.BeginClaim, found: Fit, at: int, new_id: NewId) -> Allocation:
    allocation_id = new_id(at)
    return Allocation(
        id=allocation_id,
        claim_id=command.claim_id or allocation_id,
        instance=command.instance,
        resources=found.requested,
        begun_at=at,
        expires_at=at + command.timeout,
        limit_source=found.limit_source,
        on_expiry=command.on_expiry,
    )


def finish(host: HostLedger, claim_id: str, now: int) -> Decision:
    found = host.named(claim_id)
    if found is None or found[1].claim_state != BEGUN:
        return NOTHING
    ledger, held = found
    finished = replace(held, claim_state=FINISHED)
    reply = claim_view(ledger, finished, generation=ledger.next_generation)
    return decided(ledger, events.ClaimFinished(at=ledger.time(now), allocation=finished), reply=reply)


def abort(host: HostLedger, claim_id: str, now: int) -> Decision:
    found = host.named(claim_id)
    if found is None or not (found[1].claim_state == BEGUN or found[1].is_assumed_built):
        return NOTHING
    ledger, held = found
    aborted = replace(held, claim_state=ABORTED)
    reply = claim_view(ledger, aborted, generation=ledger.next_generation)
    return decided(ledger, events.ClaimAborted(at=ledger.time(now), before=held, allocation=aborted), reply=reply)


def renew(host: HostLedger, command: commands.RenewClaim, now: int) -> Decision:
    found = host.named(command.claim_id)
    if found is None or found[1].claim_state != BEGUN:
        return NOTHING
    ledger, held = found
    at = ledger.time(now)
    expires_at = max(held.expires_at, at + command.timeout)
    if expires_at == held.expires_at:
        return decided(ledger, reply=claim_view(ledger, held, generation=ledger.generation))
    renewed = replace(held, expires_at=expires_at)
    reply = claim_view(ledger, renewed, generation=ledger.next_generation)
    return decided(ledger, events.ClaimRenewed(at=at, allocation=renewed), reply=reply)


def expire(ledger: NodeLedger, release: bool, now: int) -> Decision:
    due = [held for uuid in ledger.begun if (held := ledger.allocations[uuid]).expires_at < now]
    due.sort(key=lambda held: (held.expires_at, held.uuid))
    at = ledger.time(now)
    return decided(
        ledger,
        *(
            events.ClaimExpired(at=at, allocation=replace(held, claim_state=EXPIRED), released=releases(held, release))
            for held in due
        ),
    )


def releases(held: Allocation, release: bool) -> bool:
    """Whether the allocation is released when its claim expires. What was reported built runs, whatever the option says."""
    wanted = release if held.on_expiry is None else held.on_expiry == RELEASE
    return wanted and not held.built
