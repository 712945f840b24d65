# SPDX-License-Identifier: Apache-2.0
"""Decisions on moves: an instance is charged at its destination, handed over, and then confirmed or reverted.

At most one allocation of an instance has the role INSTANCE. What is incoming or on hold is charged as well, so that no order of
messages lets a host be charged for less than it holds. A host decides on what it knows: what the destination answered, which
the caller brings, stands for what the source was not told.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from tracker_worker.domain import allocation as charge
from tracker_worker.domain import claims, commands, events
from tracker_worker.domain import move as states
from tracker_worker.domain.allocation import HOLD, INCOMING, Allocation
from tracker_worker.domain.claims import NewId
from tracker_worker.domain.decision import Decision, decided
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import OWNER
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import UNSUPPORTED
from tracker_worker.domain.move import Move
from tracker_worker.domain.move_steps import MOST_AHEAD, MoveSteps, Told, arriving, conflict, of_hold, of_incoming
from tracker_worker.domain.views import move_view
from tracker_worker.errors import (
    ComputeResourcesUnavailable,
    InvalidInput,
    MoveNotFound,
    NodeNotFound,
    NodeUnavailable,
)


def begin(host: HostLedger, command: commands.BeginMove, now: int, new_id: NewId) -> Decision:
    """Rests on the whole host: no other node has another move of the instance, or word that it was deleted."""
    claim = command.begin
    instance = claim.instance
    known = host.move(command.id)
    if known is not None:
        _check_repeated(*known, command)
        return decided(known[0], reply=move_view(known[1], generation=known[0].generation))
    if instance.is_deleted:
        raise InvalidInput(field="instance.vm_state", reason="an instance that is deleted cannot be moved")
    ledger = host.node_to_claim(claim.node, "instance.node")
    holder = _source(host, ledger, command)
    if ledger.disabled:
        reason = "its driver reports no inventory, and nothing is charged on it"
        raise NodeUnavailable(host=host.name, node=ledger.name, state=UNSUPPORTED, reason=reason)
    claims.check_taking(host, ledger, claim, now)
    found = claims.room(ledger, claim)
    at = ledger.time(now)
    old = None
    if holder is not None:
        held = holder.allocations[instance.uuid]
        old, at = held.resources, max(at, held.begun_at)  # the times of two nodes may differ
        instance = instance.changed({name: getattr(held.instance, name) for name in OWNER})
    allocation_id = new_id(at)
    move = Move(
        id=command.id,
        kind=command.kind,
        instance_uuid=instance.uuid,
        from_host=command.from_host if holder is None else host.name,
        from_node=command.from_node if holder is None else holder.name,
        to_host=host.name,
        to_node=ledger.name,
        resources=found.requested,
        old_resources=old,
        state=states.BEGUN,
        begun_at=at,
        expires_at=at + claim.timeout,
        limit_source=found.limit_source,
        on_expiry=claim.on_expiry,
        arrives=True,
        leaves=holder is not None,
        open=True,
        allocation_id=allocation_id,
        instance=instance,
    )
    if found.shortfalls:
        error = ComputeResourcesUnavailable(shortfalls=[shortfall.to_dict() for shortfall in found.shortfalls])
        refused = events.MoveRejected(at=at, move=move, instance=instance, shortfalls=found.shortfalls)
        return decided(ledger, refused, error=error, whole_host=True)
    incoming = arriving(move, INCOMING, charge.BEGUN)
    event = events.MoveChanged(at=at, move=move, shown=incoming, role=INCOMING, charged=(incoming,))
    return decided(ledger, event, reply=move_view(move, generation=ledger.next_generation), whole_host=True)


def _check_repeated(ledger: NodeLedger, move: Move, command: commands.BeginMove) -> None:
    claim = command.begin
    same = (
        move.arrives
        and (move.instance_uuid, move.kind, move.resources)
        == (claim.instance.uuid, command.kind, claim.instance.resources)
        and claim.node in (None, move.to_node)
    )
    if not same:
        raise conflict(ledger, claim.instance.uuid, f"the move {move.id} is another one")


def _source(host: HostLedger, ledger: NodeLedger, command: commands.BeginMove) -> NodeLedger | None:
    """The node of this host that the instance leaves; None: it is on another host. Raises ClaimConflict."""
    uuid = command.begin.instance.uuid
    if command.moves_to is not None:
        to_host, to_node = command.moves_to
        raise conflict(ledger, uuid, f"a move of it to node {to_node} of host {to_host} has begun")
    for role in (INCOMING, HOLD):
        if (found := host.charge(uuid, role)) is not None:
            raise conflict(found[0], uuid, f"it is {role} on node {found[0].name}, for another move")
    holder = host.holding(uuid)
    if holder is None:
        if (other := host.claimed(uuid)) is not None:
            raise conflict(ledger, uuid, f"the uuid {uuid} names the claim for instance {other[1].uuid}")
        return None
    if command.from_host not in (None, host.name) or command.from_node not in (None, holder.name):
        raise conflict(holder, uuid, f"it is charged to node {holder.name} of host {host.name}")
    return holder


def step(host: HostLedger, command: commands.StepMove, now: int) -> Decision:
    """A step that the move has taken already, or of a move that has ended, changes nothing and is answered with the record."""
    known = host.move(command.id)
    if known is None:
        known = _told(host, command, now)
    ledger, move = known
    if move.ended or (command.step == states.FINISH and move.finished_at):
        return decided(ledger, reply=move_view(move, generation=ledger.generation))
    steps = MoveSteps(host, ledger, move, now)
    steps.take(command)
    return Decision(
        node=ledger,
        events=tuple(steps.happened),
        reply=move_view(steps.move, generation=ledger.next_generation if steps.happened else ledger.generation),
        whole_host=True,
    )


def _told(host: HostLedger, command: commands.StepMove, now: int) -> tuple[NodeLedger, Move]:
    """The move as the caller knows it, and the node of this host, its source, that is to keep the record. Raises MoveNotFound,
    NodeNotFound: the source has no node."""
    told = command.told
    if told is not None and told.begun_at > now + MOST_AHEAD:
        raise InvalidInput(field="move.begun_at", reason="is far ahead of this host's clock")
    is_source = told is not None and told.to_host != host.name and told.from_host in (None, host.name)
    if told is None or not is_source or told.begun_at + command.remembers < now:
        raise MoveNotFound(host=host.name, move_id=command.id)
    holder = host.holding(told.instance_uuid)
    named = host.nodes.get(told.from_node or "")
    ledger = holder or named or next(iter(host), None)
    if ledger is None:
        raise NodeNotFound(host=host.name, node=told.from_node)
    old = None if holder is None else holder.allocations[told.instance_uuid].resources
    record = replace(
        told,
        from_host=host.name,
        state=states.BEGUN,
        finished_at=0,
        ended_at=0,
        old_resources=old or told.old_resources,
    )
    return ledger, replace(record, arrives=False, leaves=True, open=False, allocation_id="", instance=None)


def expire(host: HostLedger, command: commands.ExpireClaims, now: int) -> Iterator[Told]:
    """End the moves to a node that were begun and are overdue, and confirm those whose old charge it holds for too long."""
    ledger = host.any_node(command.node)
    at = ledger.time(now)
    for (uuid, role), held in sorted(ledger.moving.items()):
        if role == INCOMING and held.claim_state == charge.BEGUN and held.expires_at < now:
            found = of_incoming(host, uuid)
            if found is None or found[1].state != states.BEGUN:
                continue
            released = claims.releases(held, command.release)
            expired = replace(held, claim_state=charge.EXPIRED)
            yield (
                ledger,
                events.MoveChanged(
                    at=at,
                    move=replace(found[1], state=states.EXPIRED, open=not released),
                    shown=expired,
                    role="" if released else INCOMING,
                    ended=(held,),
                    charged=() if released else (expired,),
                    released=released,
                ),
            )
        elif role == HOLD and command.confirms_after:
            found = of_hold(host, uuid)
            if found is not None and found[1].finished_at + command.confirms_after < now:
                steps = MoveSteps(host, *found, now)
                steps.confirm()
                yield from steps.happened


def end_with_instance(host: HostLedger, uuid: str, now: int) -> list[Told]:
    """The events of the moves of an instance that is gone, before that of its own charge: what is incoming is aborted, and what
    is handed over is confirmed."""
    happened: list[Told] = []
    ended: set[str] = set()
    for role, record in ((INCOMING, of_incoming), (HOLD, of_hold)):
        charged = host.charge(uuid, role)
        if charged is not None:
            steps = MoveSteps(host, *(record(host, uuid) or _without_record(host, *charged)), now)
            if role == INCOMING:
                steps.abort()
            else:
                steps.confirm()
            happened += steps.happened
            ended.add(steps.move.id)
    for ledger in host:
        for move in list(ledger.moves.values()):
            if move.instance_uuid == uuid and move.arrives and not (move.open or move.finished_at or move.ended):
                # It has expired and was released: no late step charges it again.
                steps = MoveSteps(host, ledger, move, now)
                steps.abort()
                happened += steps.happened
    holder = host.holding(uuid)
    if holder is not None:
        held = holder.allocations[uuid]
        for move in holder.moves.values():
            if move.allocation_id == held.id and not move.ended and move.id not in ended:
                steps = MoveSteps(host, holder, move, now)
                steps.confirm()
                happened += steps.happened
    return happened


def _without_record(host: HostLedger, ledger: NodeLedger, held: Allocation) -> tuple[NodeLedger, Move]:
    """A record for what is incoming or on hold, whose own is on a node that has come to another host."""
    incoming = held.role == INCOMING
    move = Move(
        id=held.id,
        kind=states.RESIZE,
        instance_uuid=held.uuid,
        from_host=None if incoming else host.name,
        from_node=None if incoming else ledger.name,
        to_host=host.name if incoming else "",
        to_node=ledger.name if incoming else "",
        resources=held.resources,
        old_resources=None if incoming else held.resources,
        state=states.BEGUN if incoming else states.FINISHED,
        begun_at=held.begun_at,
        expires_at=held.expires_at,
        limit_source=held.limit_source,
        finished_at=0 if incoming else held.begun_at,
        arrives=incoming,
        leaves=not incoming,
        open=True,
        allocation_id=held.id if incoming else "",
        instance=held.instance if incoming else None,
    )
    return ledger, move


def forget(host: HostLedger, command: commands.ForgetMoves, now: int) -> Decision:
    happened: list[Told] = []
    for ledger in host:
        old = tuple(move.id for move in ledger.moves.values() if not move.open and move.begun_at < command.begun_before)
        if old:
            happened.append((ledger, events.MovesForgotten(at=now, ids=old)))
    return Decision(events=tuple(happened))
