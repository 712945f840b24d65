# SPDX-License-Identifier: Apache-2.0
"""The commands that change a host's ledgers. ``node`` None stands for the host's only node. Durations are in microseconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.fit import Limits
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.move import Move
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.errors import InvalidInput


class BeginClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Charge ``instance`` to the node if it fits within ``limits``.

    With ``capacity_limits`` a resource without a limit is limited by the node's capacity. ``claim_id`` None: a new one is made.
    ``on_expiry`` None: as the option says. ``stale_after``: how long a node takes claims whose driver is silent.
    ``remembers_deletions``: how long the deletion of an instance that is not charged stands against its claim."""

    instance: Instance
    limits: Limits
    timeout: int
    node: str | None = None
    capacity_limits: bool = False
    claim_id: str | None = None
    on_expiry: str | None = None
    stale_after: int = 0
    remembers_deletions: int = 0


class BeginClaims(msgspec.Struct, frozen=True, kw_only=True):
    """Charge all instances or none; each claim sees those before it."""

    claims: tuple[BeginClaim, ...]


class BeginMove(msgspec.Struct, frozen=True, kw_only=True):
    """Charge the instance of ``begin``, in its new size, as what is incoming for the move ``id``, if it fits. ``from_host`` and
    ``from_node`` None: whichever has it. ``moves_to``: the host and node for which another move of the instance has begun in
    this ledger."""

    begin: BeginClaim
    id: str
    kind: str
    from_host: str | None = None
    from_node: str | None = None
    moves_to: tuple[str, str] | None = None


class StepMove(msgspec.Struct, frozen=True, kw_only=True):
    """One of STEPS of a move. ``effective_at``: when it happened; None: now. ``told``: what the caller knows of the move, for a
    host that does not know it. ``remembers``: for how long a move is known."""

    id: str
    step: str
    effective_at: int | None = None
    told: Move | None = None
    remembers: int


class ForgetMoves(msgspec.Struct, frozen=True, kw_only=True):
    """Forget the moves of which nothing is charged and that begun before ``begun_before`` (microseconds since the epoch)."""

    begun_before: int


class AdoptInstance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance to adopt, or why its fields cannot be read."""

    uuid: str
    instance: Instance | InvalidInput
    node: str | None = None


class AdoptInstances(msgspec.Struct, frozen=True, kw_only=True):
    """Charge instances that run already, without a limit; each by itself, in order. ``remembers_deletions`` as for a claim."""

    entries: tuple[AdoptInstance, ...]
    remembers_deletions: int = 0


class FinishClaim(msgspec.Struct, frozen=True, kw_only=True):
    """End a claim after the build is done; the allocation stays. ``claim_id`` may be the uuid of an instance with a claim that
    is begun."""

    claim_id: str


class AbortClaim(msgspec.Struct, frozen=True, kw_only=True):
    """End a claim after the build failed, and release its allocation; also of a claim that expired and whose instance was never
    reported built. ``claim_id`` may be the uuid of the instance."""

    claim_id: str


class RenewClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Let a claim that is begun expire ``timeout`` from now, but never earlier than it would have."""

    claim_id: str
    timeout: int


class ExpireClaims(msgspec.Struct, frozen=True, kw_only=True):
    """End the claims and the moves of a node that are overdue. With ``release`` the allocations of those that do not say
    otherwise are released too. What is on hold for ``confirms_after`` is released; 0: never."""

    node: str
    release: bool = False
    confirms_after: int = 0


class ForgetDeletions(msgspec.Struct, frozen=True, kw_only=True):
    """Forget the deletions of instances that were not charged which were reported before ``reported_before`` (microseconds
    since the epoch), and the oldest ones over ``most`` of a host."""

    reported_before: int
    most: int


class UpdateUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Change the facts of a tracked instance. ``changes`` holds the checked fields that the caller sent. With
    ``notes_deletions`` the deletion of an instance that is not charged is remembered."""

    uuid: str
    changes: Mapping[str, Any]
    node: str | None = None
    notes_deletions: bool = False


class ReleaseAllocation(msgspec.Struct, frozen=True, kw_only=True):
    """Release what an instance is charged, because the operator ``released_by`` says so for ``reason``."""

    uuid: str
    reason: str
    released_by: str


class CompareInstances(msgspec.Struct, frozen=True, kw_only=True):
    """Compare what a node is charged for with the instances that really run there. Nothing is repaired."""

    node: str | None
    uuids: frozenset[str]


class ReportNode(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a node brought: its ``inventory``; None if the driver answered nothing, or failed with the text
    ``failure``. With ``keeps_inventory`` a node that has an inventory keeps it then."""

    node: str
    inventory: Inventory | None
    failure: str | None = None
    keeps_inventory: bool = True


class ReportList(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that a host's driver lists. The host's other nodes are missing. With a ``failure`` the driver could not list
    its nodes, which is a failed look at each node that it has listed before."""

    nodes: frozenset[str]
    failure: str | None = None


class NoteElsewhere(msgspec.Struct, frozen=True, kw_only=True):
    """Which other host has a charged node of this node's name that its driver does not list; None: none."""

    node: str
    host: str | None


class DrainNode(msgspec.Struct, frozen=True, kw_only=True):
    """Let a node take no further claims, for ``reason``."""

    node: str
    reason: str


class UndrainNode(msgspec.Struct, frozen=True, kw_only=True):
    """Take back that a node is drained or retired."""

    node: str


class RetireNode(msgspec.Struct, frozen=True, kw_only=True):
    """Take a node out of service for good. It must be empty."""

    node: str
    reason: str


class BeginPeriod(msgspec.Struct, frozen=True, kw_only=True):
    """Begin to close the period of a node from ``beginning`` to ``ending`` (microseconds since the epoch), if it is over and
    the next one. ``known``: until when the periods were closed when this was asked for. ``node_id``: the node must be this
    one; another one may have got the name since."""

    node: str
    node_id: int
    known: int
    beginning: int
    ending: int


class TellUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tell the usage of the next instances in the period that ends at ``ending`` and is being closed: those behind ``after``,
    by uuid. ``closed``: the earlier periods that adjustments concern, as pairs of beginning and ending. ``last``: there are no
    further ones, and the period is closed. ``node_id`` as in BeginPeriod."""

    node: str
    node_id: int
    ending: int
    after: str
    usages: tuple[InstanceUsage, ...]
    closed: tuple[tuple[int, int], ...]
    last: bool


class ForgetUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Keep no segment and no period that ended before ``ended_before`` (microseconds since the epoch) and is closed.
    ``node_id`` as in BeginPeriod."""

    node: str
    node_id: int
    ended_before: int


Command = (
    BeginClaim
    | BeginClaims
    | BeginMove
    | StepMove
    | ForgetMoves
    | FinishClaim
    | AbortClaim
    | RenewClaim
    | ExpireClaims
    | ForgetDeletions
    | UpdateUsage
    | AdoptInstances
    | ReleaseAllocation
    | CompareInstances
    | ReportNode
    | ReportList
    | NoteElsewhere
    | DrainNode
    | UndrainNode
    | RetireNode
    | BeginPeriod
    | TellUsage
    | ForgetUsage
)
