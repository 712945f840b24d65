# SPDX-License-Identifier: Apache-2.0
"""The ledger of a node. Every change to a ledger that others hear of is an event, which ``NodeLedger.apply`` applies.

Usage is defined as the reserve plus the sum over the allocations. The running totals here are a cache of that sum: a
release subtracts exactly the vector that was charged.

Not thread-safe: the engine loop, or the thread that holds a tracker's lock, owns the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from tracker_worker.domain import events
from tracker_worker.domain.allocation import BEGUN, INCOMING, INSTANCE, Allocation
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.life import UNSUPPORTED, Life
from tracker_worker.domain.move import Move, when_left
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.segments import SegmentLog
from tracker_worker.domain.stats import Stats


@dataclass(slots=True)
class ProjectUsage:
    """The usage of one project on one node."""

    instances: int = 0
    resources: Resources = ZERO


class NodeLedger:
    """The ledger of one node.

    ``stored_generation`` is the generation at which this ledger was read or last committed. The first event after that
    makes ``generation`` the next number, and all events of one commit share it.

    ``ledger_id`` names the history that the ledger was read from. ``stream_id`` is the stream of the node's events, whose last
    one has the number ``sequence`` and the time ``last_at`` (microseconds).

    ``allocations`` by the uuid of the instance; ``claims``: claim_id -> uuid of the instance, of every allocation; ``begun``:
    the uuids of those whose claim is begun. ``moving`` has the allocations of other roles than INSTANCE, by uuid and role;
    ``moves``, by id, the moves whose record the node keeps; ``left``: uuid -> the last of them by which the instance has left
    the host. ``deletions``: uuid -> when the deletion of an instance that was
    not charged was reported, in the order in which they were reported. What the next commit writes beside the node:
    ``touched``, allocation id -> the allocation, or None where it ended; ``noted``, the uuids whose entry in ``deletions`` is
    new or gone; ``recorded``, the ids whose entry in ``moves`` is new or gone; ``segments``; and ``closed``, the periods that
    are closed, as pairs of their beginning and their ending. ``periods`` says how far that has got.
    """

    __slots__ = (
        "allocations",
        "begun",
        "charged",
        "claims",
        "closed",
        "deletions",
        "drift",
        "generation",
        "host",
        "host_id",
        "id",
        "inventory",
        "last_at",
        "ledger_id",
        "left",
        "life",
        "moves",
        "moving",
        "name",
        "noted",
        "periods",
        "projects",
        "recorded",
        "segments",
        "sequence",
        "stats",
        "stored_generation",
        "stream_id",
        "touched",
    )

    def __init__(
        self,
        *,
        id: int,
        host: str,
        name: str,
        host_id: int = 0,
        stream_id: int = 0,
        ledger_id: str = "",
        generation: int = 0,
        sequence: int = 0,
        last_at: int = 0,
    ) -> None:
        self.id = id
        self.stream_id = stream_id
        self.ledger_id = ledger_id
        self.host_id = host_id
        self.host = host
        self.name = name
        self.inventory: Inventory | None = None
        self.life = Life()
        self.allocations: dict[str, Allocation] = {}
        self.claims: dict[str, str] = {}
        self.begun: set[str] = set()
        self.moving: dict[tuple[str, str], Allocation] = {}
        self.moves: dict[str, Move] = {}
        self.left: dict[str, str] = {}
        self.deletions: dict[str, int] = {}
        self.charged = ZERO
        self.projects: dict[str | None, ProjectUsage] = {}
        self.stats = Stats()
        self.generation = generation
        self.stored_generation = generation
        self.sequence = sequence
        self.last_at = last_at
        self.touched: dict[str, Allocation | None] = {}
        self.noted: set[str] = set()
        self.recorded: set[str] = set()
        self.periods = Periods()
        self.segments = SegmentLog()
        self.closed: list[tuple[int, int]] = []
        self.drift: Resources | None = None

    @property
    def disabled(self) -> bool:
        """Whether claims on the node are not tracked, because its driver reports no inventory and never did."""
        return self.life.state == UNSUPPORTED

    @property
    def usage(self) -> Resources:
        """The reserve plus the sum over the allocations."""
        return self.charged if self.inventory is None else self.inventory.reserved + self.charged

    @property
    def instances(self) -> list[str]:
        """The uuids of all instances for which the node is charged in any role, sorted."""
        return sorted({*self.allocations, *(uuid for uuid, _ in self.moving)})

    @property
    def next_generation(self) -> int:
        """The generation that the next commit gives to the node."""
        return self.stored_generation + 1

    @property
    def dirty(self) -> bool:
        """Whether the ledger has changes to commit."""
        return self.generation != self.stored_generation

    def time(self, now: int) -> int:
        """The time of an event that is decided at ``now``: never before the node's last event, nor in a period that is closed
        or being closed."""
        return max(now, self.last_at, self.periods.closed)

    def restore(self, allocation: Allocation) -> None:
        """Put back an allocation that was read from a store."""
        self._put(allocation)
        del self.touched[allocation.id]

    def restore_move(self, move: Move) -> None:
        """Put back the record of a move that was read from a store."""
        self.moves[move.id] = move
        if move.has_left:
            other = self.moves.get(self.left.get(move.instance_uuid, ""), move)
            self.left[move.instance_uuid] = max(move, other, key=when_left).id

    def apply(self, event: events.Event) -> None:
        """Apply ``event``, which was decided on exactly this ledger. An event that is published takes the next sequence
        number."""
        at = event.at
        match event:
            case events.ClaimBegun(allocation=new) | events.UsageAdopted(allocation=new):
                self._charge(new, at, at)
                self._forget_deletion(new.uuid)
            case (
                events.ClaimFinished(allocation=new)
                | events.ClaimRenewed(allocation=new)
                | events.UsageUpdated(allocation=new)
                | events.BuiltNoted(allocation=new)
            ):
                self._change(new, at)
            case events.ClaimAborted(before=old) | events.UsageReleased(before=old):
                self._release(old.uuid, at, at)
            case events.ClaimExpired(allocation=old, released=released):
                if released:
                    self._release(old.uuid, at, at)
                else:
                    self._change(old, at)
            case events.MoveChanged():
                self._moved(event)
            case events.MoveNoted(move=move):
                self._record(move)
            case events.MovesForgotten(ids=ids):
                for move_id in ids:
                    self._forget_left(self.moves.pop(move_id))
                    self.recorded.add(move_id)
            case events.NodeUpdated(inventory=inventory, life=life):
                self.inventory, self.life = inventory, life
            case events.LifeNoted(life=life):
                self.life = life
            case events.DeletionNoted(uuid=uuid, at=at):
                self.deletions.pop(uuid, None)  # the last one that was reported becomes the last one
                self.deletions[uuid] = at
                self.noted.add(uuid)
            case events.DeletionsForgotten(uuids=uuids):
                for uuid in uuids:
                    self._forget_deletion(uuid)
            case events.UsageDrift():
                self.drift = None
            case events.PeriodsNoted(periods=periods):
                self.periods = periods
            case events.PeriodClosed(periods=periods):
                self.closed.append((periods.until, periods.ending))
            case events.UsageExists():
                pass
            case events.ClaimRejected() | events.ClaimUntracked() | events.MoveRejected() | events.InstancesDrift():
                pass
        if not isinstance(event, events.UNPUBLISHED):
            self.sequence += 1
            self.last_at = at
            if not self.periods.until:
                self.periods = replace(self.periods, until=at)
        self.generation = self.next_generation

    def committed(self) -> None:
        """Note that the store has committed all changes up to now."""
        self.stored_generation = self.generation
        self.touched.clear()
        self.noted.clear()
        self.recorded.clear()
        self.segments.clear()
        self.closed.clear()

    def _moved(self, event: events.MoveChanged) -> None:
        noted_at, at = event.at, event.effective_at or event.at
        if at != noted_at and event.move.instance_uuid not in self.allocations:
            self._learn(at, noted_at)
            self.segments.cut(event.move.instance_uuid, at, self.periods, noted_at)
        for old in event.ended:
            if old.role == INSTANCE:
                self._release(old.uuid, at, noted_at)
            else:
                del self.moving[old.uuid, old.role]
                self.charged -= old.resources
                self.touched[old.id] = None
        for new in event.charged:
            self._charge(new, at, noted_at)
            if new.role == INCOMING:
                self._forget_deletion(new.uuid)
        if event.keeps:
            self._record(event.move)

    def _record(self, move: Move) -> None:
        self.restore_move(move)
        self.recorded.add(move.id)
        if not move.has_left:
            self._forget_left(move)

    def _forget_left(self, move: Move) -> None:
        uuid = move.instance_uuid
        if self.left.get(uuid) == move.id:
            others = [each for each in self.moves.values() if each.instance_uuid == uuid and each.has_left]
            del self.left[uuid]
            if others:
                self.left[uuid] = max(others, key=when_left).id

    def _learn(self, at: int, noted_at: int) -> None:
        """It is learned at ``noted_at`` what is charged from ``at`` on. If that is in a period which is closed, or the node has
        retired, another period has to follow that tells it."""
        if at < self.periods.closed or self.life.retired is not None:
            self.periods = replace(self.periods, learned_at=max(noted_at, self.periods.closed))

    def _charge(self, new: Allocation, at: int, noted_at: int) -> None:
        """Charge an allocation from ``at`` on, which is decided at ``noted_at``."""
        if new.role == INSTANCE:
            self._learn(at, noted_at)
            new = replace(new, since=self.segments.begin(new, at, self.periods, noted_at))
        self._put(new)

    def _change(self, new: Allocation, at: int) -> None:
        """The allocation of an instance is another one from ``at`` on."""
        old = self._take(new.uuid)
        if new.is_billed_like(old):
            self._put(new)
        else:
            self.segments.end(old, at, self.periods, at)
            self._charge(new, at, at)

    def _release(self, uuid: str, at: int, noted_at: int) -> None:
        """The allocation of an instance ends at ``at``, which is decided at ``noted_at``."""
        self._learn(at, noted_at)
        self.segments.end(self._take(uuid), at, self.periods, noted_at)

    def _put(self, new: Allocation) -> None:
        uuid = new.instance.uuid
        self.charged += new.resources
        self.touched[new.id] = new
        if new.role != INSTANCE:
            self.moving[uuid, new.role] = new
            return
        self.allocations[uuid] = new
        self.claims[new.claim_id] = uuid
        if new.claim_state == BEGUN:
            self.begun.add(uuid)
        project = self.projects.setdefault(new.instance.project_id, ProjectUsage())
        project.instances += 1
        project.resources += new.resources
        self.stats.add(new.instance)

    def _take(self, uuid: str) -> Allocation:
        old = self.allocations.pop(uuid)
        del self.claims[old.claim_id]
        self.begun.discard(uuid)
        self.charged -= old.resources
        project = self.projects[old.instance.project_id]
        project.instances -= 1
        project.resources -= old.resources
        if not project.instances:
            del self.projects[old.instance.project_id]
        self.stats.remove(old.instance)
        self.touched[old.id] = None
        return old

    def _forget_deletion(self, uuid: str) -> None:
        if self.deletions.pop(uuid, None) is not None:
            self.noted.add(uuid)
