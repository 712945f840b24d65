# SPDX-License-Identifier: Apache-2.0
"""Decisions on instances that run already and were never claimed: they are charged as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_worker.domain import commands, events, life
from tracker_worker.domain.allocation import FINISHED, UNLIMITED, Allocation
from tracker_worker.domain.claims import NewId
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.fit import over_capacity, too_much
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import Instance, owned, read_instance, read_node
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.states import RELEASING
from tracker_worker.domain.values import read_id
from tracker_worker.domain.views import iso
from tracker_worker.errors import ClaimConflict, InvalidInput, NodeUnavailable, TrackerError

MOST_ADOPTED = 1000
"""The most instances of one command."""


def read_adoption(instances: Any, context: Mapping[str, Any], policy: Policy) -> commands.AdoptInstances:
    """The instances of a caller. What is wrong with one of them is its refusal. The owner is the instance's, else that of the
    context.

    Raises InvalidInput: they are not a list, or too many; one of them is no object or has no uuid that could be answered; the
    context says something that is no text."""
    if not isinstance(instances, list | tuple) or len(instances) > MOST_ADOPTED:
        raise InvalidInput(field="instances", reason=f"must be a list of at most {MOST_ADOPTED} instances")
    return commands.AdoptInstances(
        entries=tuple(
            _read_entry(f"instances.{index}", fields, context, policy) for index, fields in enumerate(instances)
        ),
        remembers_deletions=policy.deletion_memory,
    )


def _read_entry(path: str, fields: Any, context: Mapping[str, Any], policy: Policy) -> commands.AdoptInstance:
    if not isinstance(fields, Mapping):
        raise InvalidInput(field=path, reason="must be an object")
    if "uuid" not in fields:
        raise InvalidInput(field=f"{path}.uuid", reason="is missing")
    uuid = read_id(f"{path}.uuid", fields["uuid"])
    try:
        instance = owned(read_instance(fields, policy.max_field_bytes), context, required=policy.owner_required)
        return commands.AdoptInstance(uuid=uuid, instance=instance, node=read_node(fields))
    except InvalidInput as error:
        field, reason = error.kwargs["field"], error.kwargs["reason"]
        if field.startswith("context."):
            raise
        named = f"{path}.{field.removeprefix('instance.')}"
        return commands.AdoptInstance(uuid=uuid, instance=InvalidInput(field=named, reason=reason))


def adopt(host: HostLedger, command: commands.AdoptInstances, now: int, new_id: NewId) -> Decision:
    """Each instance by itself, in order: one that is refused does not hinder the others. Rests on the whole host, as a begin
    does."""
    adopting = _Adopting(host, command, now, new_id)
    adopted: list[str] = []
    already: list[str] = []
    refused: list[dict[str, str]] = []
    for entry in command.entries:
        try:
            (adopted if adopting.adopt(entry) else already).append(entry.uuid)
        except TrackerError as error:
            refused.append({"instance_uuid": entry.uuid, "code": error.code, "message": str(error)})
    reply = {"adopted": adopted, "already": already, "refused": refused}
    return Decision(events=tuple(adopting.happened), reply=reply, whole_host=True)


class _Adopting:
    """The adoptions of one command. ``happened``: their events, none of which is applied yet."""

    def __init__(self, host: HostLedger, command: commands.AdoptInstances, now: int, new_id: NewId) -> None:
        self._host = host
        self._remembers_deletions = command.remembers_deletions
        self._now = now
        self._new_id = new_id
        self._new: dict[str, tuple[NodeLedger, Allocation]] = {}
        self._charged: dict[int, Resources] = {}  # node id -> the sum of the new allocations
        self.happened: list[tuple[NodeLedger, events.Event]] = []

    def adopt(self, entry: commands.AdoptInstance) -> bool:
        """Charge an instance; False: it is charged already, exactly so. Raises the refusal."""
        if isinstance(entry.instance, TrackerError):
            raise entry.instance
        found = self._found(entry.uuid)
        ledger = found[0] if found is not None and entry.node is None else self._host.node_to_claim(entry.node, "node")
        if found is not None:
            _check_same(*found, ledger, entry.instance)
            return False
        self._check(ledger, entry.instance)
        self._charge(ledger, entry.instance)
        return True

    def _found(self, uuid: str) -> tuple[NodeLedger, Allocation] | None:
        """What the instance is charged, by this command too, and where."""
        holder = self._host.holding(uuid)
        return self._new.get(uuid) if holder is None else (holder, holder.allocations[uuid])

    def _check(self, ledger: NodeLedger, instance: Instance) -> None:
        uuid, state = instance.uuid, ledger.life
        if instance.vm_state in RELEASING:
            raise InvalidInput(field="vm_state", reason=f"an instance that is {instance.vm_state} holds nothing")
        if ledger.inventory is None or state.state in (life.UNKNOWN, life.UNSUPPORTED):
            reason = state.reason or "its driver has not answered yet"
            raise NodeUnavailable(host=ledger.host, node=ledger.name, state=state.state, reason=reason)
        deleted_at = self._host.deleted_at(uuid)
        if deleted_at is not None and deleted_at + self._remembers_deletions >= self._now and self._remembers_deletions:
            raise _conflict(ledger, uuid, f"it was reported deleted at {iso(deleted_at)}")
        for node, held in self._host.moving(uuid):
            raise _conflict(node, uuid, f"it is {held.role} on node {node.name}, for a move")
        if (other := self._host.claimed(uuid)) is not None:
            raise _conflict(ledger, uuid, f"its uuid names the claim for instance {other[1].uuid}")
        used = ledger.usage + self._charged.get(ledger.id, ZERO)
        if (excess := too_much(instance.resources, used)) is not None:
            raise InvalidInput(field="instance", reason=excess)

    def _charge(self, ledger: NodeLedger, instance: Instance) -> None:
        at = ledger.time(self._now)
        allocation_id = self._new_id(at)
        allocation = Allocation(
            id=allocation_id,
            claim_id=allocation_id,
            instance=instance,
            resources=instance.resources,
            begun_at=at,
            expires_at=at,
            limit_source=UNLIMITED,
            claim_state=FINISHED,
            built=True,
        )
        self._new[instance.uuid] = ledger, allocation
        used = ledger.usage + self._charged.get(ledger.id, ZERO) + allocation.resources
        self._charged[ledger.id] = self._charged.get(ledger.id, ZERO) + allocation.resources
        over = over_capacity(ZERO, allocation.resources, used, ledger.inventory)
        self.happened.append((ledger, events.UsageAdopted(at=at, allocation=allocation, over_capacity=over)))


def _check_same(holder: NodeLedger, held: Allocation, asked: NodeLedger, instance: Instance) -> None:
    if holder is not asked:
        raise _conflict(holder, held.uuid, f"it is charged to node {holder.name}, not to {asked.name}")
    if held.resources != instance.resources:
        charged, wanted = held.resources.to_dict(), instance.resources.to_dict()
        raise _conflict(holder, held.uuid, f"it is charged {charged}, not {wanted}")


def _conflict(ledger: NodeLedger, uuid: str, reason: str) -> ClaimConflict:
    return ClaimConflict(instance_uuid=uuid, node=ledger.name, reason=reason)
