# SPDX-License-Identifier: Apache-2.0
"""The events of a node's ledger; ``at`` is the time of the event in microseconds.

Each event becomes one notification, except those of UNPUBLISHED: facts that later decisions rest on and nobody else hears of.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.fit import OverCapacity, Shortfall
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.life import Life
from tracker_worker.domain.move import Move
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import Resources
from tracker_worker.domain.segments import Adjustment, Segment


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The instances that a node is charged for beside those that run there; uuids, sorted. ``building``: those whose
    claim is begun and that were never reported built, whether they run or not."""

    charged_not_running: tuple[str, ...]
    running_not_charged: tuple[str, ...]
    building: tuple[str, ...]


class ClaimBegun(msgspec.Struct, frozen=True, kw_only=True):
    at: int
    allocation: Allocation


class ClaimRejected(msgspec.Struct, frozen=True, kw_only=True):
    """A claim was refused because resources were insufficient. Nothing was charged."""

    at: int
    instance: Instance
    shortfalls: tuple[Shortfall, ...]
    limit_source: str


class ClaimUntracked(msgspec.Struct, frozen=True, kw_only=True):
    """A claim on a node without inventory was granted. Nothing was charged."""

    at: int
    instance: Instance


class ClaimFinished(msgspec.Struct, frozen=True, kw_only=True):
    at: int
    allocation: Allocation


class ClaimRenewed(msgspec.Struct, frozen=True, kw_only=True):
    """A claim expires later than before."""

    at: int
    allocation: Allocation


class ClaimAborted(msgspec.Struct, frozen=True, kw_only=True):
    """A claim was aborted. ``before`` is the allocation that was released, ``allocation`` has the claim's new state."""

    at: int
    before: Allocation
    allocation: Allocation


class ClaimExpired(msgspec.Struct, frozen=True, kw_only=True):
    """A claim expired. ``allocation``, with the claim's new state, was ``released``, or it stays."""

    at: int
    allocation: Allocation
    released: bool


class MoveRejected(msgspec.Struct, frozen=True, kw_only=True):
    """A move was refused because resources were insufficient. Nothing was charged."""

    at: int
    move: Move
    instance: Instance
    shortfalls: tuple[Shortfall, ...]


class MoveChanged(msgspec.Struct, frozen=True, kw_only=True):
    """A move has got the state of ``move``: at this node ``ended`` is charged no more, and ``charged`` is. ``shown`` is the
    allocation that the event is about, as it is now or, without a ``role``, as it was; ``role`` is '' if it has ended.
    ``effective_at`` 0: none applies. ``released``: of an expiry. The node of the destination keeps the record, or that of the
    source where the host is no destination; ``keeps``: this is that node."""

    at: int
    move: Move
    shown: Allocation
    role: str
    ended: tuple[Allocation, ...] = ()
    charged: tuple[Allocation, ...] = ()
    effective_at: int = 0
    released: bool | None = None
    keeps: bool = True


class MoveNoted(msgspec.Struct, frozen=True, kw_only=True):
    """Something is known of a move that changes no charge."""

    at: int
    move: Move


class MovesForgotten(msgspec.Struct, frozen=True, kw_only=True):
    """Moves were remembered for long enough."""

    at: int
    ids: tuple[str, ...]


class UsageUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """A tracked instance changed its states, its size, its owner or a fact that billing reads. ``over_capacity``: the classes
    that grew and of which more is used now than the node has."""

    at: int
    before: Allocation
    allocation: Allocation
    over_capacity: tuple[OverCapacity, ...] = ()


class UsageAdopted(msgspec.Struct, frozen=True, kw_only=True):
    """An instance that ran already is charged, whatever the limits. ``over_capacity``: the classes that it has and of which
    more is used now than the node has."""

    at: int
    allocation: Allocation
    over_capacity: tuple[OverCapacity, ...] = ()


class UsageReleased(msgspec.Struct, frozen=True, kw_only=True):
    """An instance released its resources. ``before`` is the allocation that was charged, and exactly its resources are
    released; ``allocation`` has the instance's last states. ``released_by``: the operator who released it for ``reason``;
    both are '' if the instance's own change did."""

    at: int
    before: Allocation
    allocation: Allocation
    released_by: str = ""
    reason: str = ""


class NodeUpdated(msgspec.Struct, frozen=True, kw_only=True):
    """The inventory or the state of a node changed, its stream of events moved to or from another name, or its ledger went on
    in a new history. ``more``: the keys that tell the latter two."""

    at: int
    inventory: Inventory | None
    life: Life
    more: Mapping[str, str | int] = msgspec.field(default_factory=dict)


class UsageDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The stored usage of a node differs from the sum over its allocations. The ledger uses the sum."""

    at: int
    stored: Resources
    usage: Resources


class InstancesDrift(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on a node differs from what it is charged for. Nothing is repaired."""

    at: int
    comparison: Comparison


class BuiltNoted(msgspec.Struct, frozen=True, kw_only=True):
    """An instance was reported in a state that only a built instance has, and is in it already."""

    at: int
    allocation: Allocation


class DeletionNoted(msgspec.Struct, frozen=True, kw_only=True):
    """The deletion of an instance that was not charged was reported."""

    at: int
    uuid: str


class DeletionsForgotten(msgspec.Struct, frozen=True, kw_only=True):
    """Deletions were remembered for long enough, or are too many."""

    at: int
    uuids: tuple[str, ...]


class LifeNoted(msgspec.Struct, frozen=True, kw_only=True):
    """Something is known of a node that does not change its state."""

    at: int
    life: Life


class UsageExists(msgspec.Struct, frozen=True, kw_only=True):
    """What a project was charged for an instance in the period from ``beginning`` to ``ending``, in part ``part`` of ``parts``.
    ``shown`` is the allocation, as it is now or was last. ``adjustments``: of periods that were closed before: beginning,
    ending, seconds and resource-seconds of each. ``seconds`` and ``resource_seconds``: the sums of this part."""

    at: int
    beginning: int
    ending: int
    shown: Allocation
    segments: tuple[Segment, ...]
    adjustments: tuple[Adjustment, ...]
    seconds: int
    resource_seconds: Mapping[str, int]
    part: int
    parts: int


class PeriodClosed(msgspec.Struct, frozen=True, kw_only=True):
    """All usage of a node in a period is told. ``periods``: how far that had got, with the sums of the notifications."""

    at: int
    periods: Periods


class PeriodsNoted(msgspec.Struct, frozen=True, kw_only=True):
    """The closing of the node's periods has got further."""

    at: int
    periods: Periods


UNPUBLISHED = (BuiltNoted, DeletionNoted, DeletionsForgotten, LifeNoted, MoveNoted, MovesForgotten, PeriodsNoted)

Event = (
    ClaimBegun
    | ClaimRejected
    | ClaimUntracked
    | ClaimFinished
    | ClaimRenewed
    | ClaimAborted
    | ClaimExpired
    | MoveRejected
    | MoveChanged
    | MoveNoted
    | MovesForgotten
    | UsageUpdated
    | UsageAdopted
    | UsageReleased
    | NodeUpdated
    | UsageDrift
    | InstancesDrift
    | BuiltNoted
    | DeletionNoted
    | DeletionsForgotten
    | LifeNoted
    | UsageExists
    | PeriodClosed
    | PeriodsNoted
)
