# SPDX-License-Identifier: Apache-2.0
"""The steps of a move on one host, and the events that they cause."""

from __future__ import annotations

from msgspec.structs import replace

from tracker_worker.domain import allocation as charge
from tracker_worker.domain import commands, events
from tracker_worker.domain import move as states
from tracker_worker.domain.allocation import HOLD, INCOMING, INSTANCE, Allocation
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.move import Move
from tracker_worker.domain.resources import ZERO
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ClaimConflict, InvalidInput

_AHEAD = 2 * SECOND
"""A hand-over that is so little ahead of the destination's clock happens now."""
MOST_AHEAD = 3600 * SECOND
"""Clocks of two ledgers are not further apart."""
Told = tuple[NodeLedger, events.Event]


class MoveSteps:
    """``move`` is the record of the move after the steps that were taken; ``home`` is the node that keeps it."""

    def __init__(self, host: HostLedger, home: NodeLedger, move: Move, now: int) -> None:
        self.move = move
        self.happened: list[Told] = []
        self._host = host
        self._home = home
        self._now = now
        # What this host is charged for the instance and this move, as the events so far leave it: role -> node and allocation.
        self._charges = {
            held.role: (ledger, held) for ledger, held in host.charges(move.instance_uuid) if _is_of(move, held)
        }

    def take(self, command: commands.StepMove) -> None:
        """Take the step, and before it those that this host was not told."""
        # What the destination has answered says at the source when it happened.
        told = command.told if not self.move.arrives else None
        handed_over = told.finished_at if told is not None and not self.move.finished_at else 0
        match command.step:
            case states.FINISH:
                self.finish(self._effective(command.effective_at or handed_over))
            case states.CONFIRM:
                if self.move.arrives and not self.move.leaves and self.move.state in (states.BEGUN, states.EXPIRED):
                    raise self._refused("it is not handed over")
                if not self.move.finished_at:
                    self.finish(self._effective(handed_over))
                self.confirm()
            case states.REVERT:
                reverted = told.ended_at if told is not None and told.state == states.REVERTED else 0
                at = self._effective(command.effective_at or reverted)
                if handed_over:
                    self.finish(self._effective(handed_over))
                if self.move.finished_at:
                    self.revert(at)
                else:
                    self.abort()
            case states.ABORT:
                if self.move.finished_at or handed_over:
                    raise self._refused("it is handed over: confirm or revert it")
                self.abort()
            case _:
                if handed_over:
                    self.finish(self._effective(handed_over))
                self.fail()

    def _effective(self, given: int) -> int:
        """The time of a hand-over or of its end; 0: now. Only the destination's clock says what is ahead: the source is told
        what that answered."""
        now = self._time()
        if not given:
            return now
        if given < self.move.begun_at or given < self.move.finished_at:
            raise InvalidInput(field="effective_at", reason="is before the move, or its hand-over")
        if any(given < ledger.periods.kept_from for ledger in self._host):
            raise InvalidInput(field="effective_at", reason="is before what is kept of the host's usage")
        if self.move.arrives and given > now:
            if given > now + _AHEAD:
                raise InvalidInput(field="effective_at", reason="is ahead of the destination's clock")
            return now
        if given > now + MOST_AHEAD:
            raise InvalidInput(field="effective_at", reason="is far ahead of this host's clock")
        return given

    def _time(self) -> int:
        """Now, but not before what is known of the move: the clock may have been stepped back since, and a node that has got
        another name has another time."""
        return max(self._home.time(self._now), self.move.begun_at, self.move.finished_at)

    def _refused(self, reason: str) -> ClaimConflict:
        return conflict(self._home, self.move.instance_uuid, f"the move {self.move.id} cannot do that: {reason}")

    # --- the steps -------------------------------------------------------------------------------------------------------

    def finish(self, at: int) -> None:
        """Hand over. What has expired is charged again: the hand-over is a fact."""
        leaving = self._leaving()
        failed = self.move.state == states.FAILED
        present = self._charges.get(INSTANCE)
        if self.move.arrives and present is not None and present != leaving:
            raise self._refused("the instance has been claimed anew")
        arrived = arriving(self.move, INSTANCE, charge.FINISHED) if self.move.arrives else None
        if arrived is not None and leaving is not None:
            arrived = replace(arrived, instance=_resized(leaving[1].instance, arrived.instance))
        self.move = replace(self.move, state=states.FINISHED, finished_at=at, open=False, instance=None)
        hold = None
        if leaving is not None:
            self.move = replace(self.move, left_claim_id=leaving[1].claim_id)
            if self.move.kind in states.HOLDING:
                self._confirm_other()
                hold = replace(leaving[1], role=HOLD, claim_state=charge.FINISHED)
                self.move = replace(self.move, open=True)
            elif self.move.old_resources is None:
                self.move = replace(self.move, old_resources=leaving[1].resources)
        if arrived is not None:
            incoming = self._charges.pop(INCOMING, None)
            ended: tuple[Allocation, ...] = () if incoming is None else (incoming[1],)
            here = leaving is not None and leaving[0] is self._home
            if leaving is not None and here:
                ended += (leaving[1],)
            elif leaving is not None:
                self._leave(*leaving, hold, at, keeps=False)
            charged = (arrived,) if hold is None or not here else (hold, arrived)
            self._tell(arrived, INSTANCE, ended=ended, charged=charged, at=at)
            self._charges[INSTANCE] = self._home, arrived
        elif leaving is not None:
            self._leave(*leaving, hold, at, keeps=leaving[0] is self._home)
        else:
            if failed and INSTANCE in self._charges:
                # Nothing is told here of the hand-over: the failure stays the last that was.
                self.move = replace(self.move, state=states.FAILED)
            self._tell_ended(at)
        if hold is not None and leaving is not None:
            self._charges[HOLD] = leaving[0], hold

    def _leaving(self) -> tuple[NodeLedger, Allocation] | None:
        """What the source hands over: not what was charged after the move had begun."""
        if not self.move.leaves:
            return None
        found = self._charges.get(INSTANCE)
        if found is None or found[1].begun_at > self.move.begun_at or found[1].id == self.move.allocation_id:
            return None
        return found

    def _leave(self, ledger: NodeLedger, held: Allocation, hold: Allocation | None, at: int, *, keeps: bool) -> None:
        charged = () if hold is None else (hold,)
        self._charges.pop(INSTANCE, None)
        self._tell(
            hold or held, "" if hold is None else HOLD, ledger, ended=(held,), charged=charged, at=at, keeps=keeps
        )
        if not keeps and not self.move.arrives:
            self._note()

    def _confirm_other(self) -> None:
        """What an earlier move has left on hold here is confirmed: the instance moves on."""
        other = of_hold(self._host, self.move.instance_uuid)
        if other is not None:
            earlier = MoveSteps(self._host, *other, self._now)
            earlier.confirm()
            self.happened += earlier.happened

    def confirm(self) -> None:
        """What is on hold ends. A host that is the destination only notes that the move has ended."""
        found = self._charges.pop(HOLD, None) if self.move.leaves else None
        self.move = replace(self.move, state=states.CONFIRMED, ended_at=self._time(), open=False)
        if found is None:
            self._note()
            return
        ledger, held = found
        staying = self._charges.get(INSTANCE)
        if staying is not None and staying[0] is ledger:
            self._tell(staying[1], INSTANCE, ledger, ended=(held,), keeps=ledger is self._home)
        else:
            self._tell(held, "", ledger, ended=(held,), keeps=ledger is self._home)
        if ledger is not self._home:
            self._note()

    def revert(self, at: int) -> None:
        """The charge at the destination ends, and what is on hold becomes the instance again, whatever else the node is
        charged."""
        if self.move.kind not in states.HOLDING:
            raise self._refused(f"after the hand-over of a {self.move.kind} the source holds nothing")
        new = self._charges.get(INSTANCE)
        if self.move.arrives:
            if new is None or new[1].id != self.move.allocation_id:
                raise self._refused("the instance has moved on")
            self._charges.pop(INSTANCE)
        held = self._charges.pop(HOLD, None) if self.move.leaves else None
        self.move = replace(self.move, state=states.REVERTED, ended_at=at, open=False)
        back = None if held is None else replace(held[1], role=INSTANCE)
        if back is not None and self.move.arrives and new is not None:
            back = replace(back, instance=_resized(new[1].instance, back.instance))
        here = held is not None and held[0] is self._home
        if self.move.arrives:
            assert new is not None
            if back is not None and held is not None and here:
                self._tell(back, INSTANCE, ended=(new[1], held[1]), charged=(back,), at=at)
                return
            self._tell(new[1], "", ended=(new[1],), at=at)
        if back is not None and held is not None:
            self._tell(back, INSTANCE, held[0], ended=(held[1],), charged=(back,), at=at, keeps=here)
            if not here and not self.move.arrives:
                self._note()
        elif not self.move.arrives:
            self._tell_ended(at)

    def abort(self) -> None:
        """What is incoming ends. A host that is the source only notes it."""
        self.move = replace(self.move, state=states.ABORTED, ended_at=self._time(), open=False)
        if not self.move.arrives:
            self._note()
            return
        found = self._charges.pop(INCOMING, None)
        shown = arriving(self.move, INCOMING, charge.ABORTED)
        self.move = replace(self.move, instance=None)
        self._tell(shown, "", ended=() if found is None else (found[1],))

    def fail(self) -> None:
        """Both sides stay charged, until the move is aborted or confirmed."""
        if self.move.state == states.FAILED:
            return
        self.move = replace(self.move, state=states.FAILED)
        role = INCOMING if self.move.arrives and not self.move.finished_at else INSTANCE
        if self.move.leaves and not self.move.arrives and self.move.finished_at:
            role = HOLD
        found = self._charges.get(role)
        shown = self._shown() if found is None else found[1]
        self._tell(shown, "" if found is None else role, keeps=True)

    # --- what is told ----------------------------------------------------------------------------------------------------

    def _tell_ended(self, at: int) -> None:
        """The source is charged nothing from ``at`` on. It only notes the step if it was charged anew since, also if that has
        ended by now: to bill that is right."""
        if INSTANCE in self._charges or self._was_moved_since(at):
            self._note()
        else:
            self._tell(self._shown(), "", at=at)

    def _was_moved_since(self, at: int) -> bool:
        """Whether the instance was handed over to this host, or by it, after ``at``."""
        others = (each for ledger in self._host for each in ledger.moves.values() if each.id != self.move.id)
        return any(each.instance_uuid == self.move.instance_uuid and each.finished_at > at for each in others)

    def _shown(self) -> Allocation:
        """What an event is about that finds no allocation: the instance in the vector that the move knows."""
        move = self.move
        vector = (move.old_resources or ZERO) if move.leaves else move.resources
        instance = Instance(
            uuid=move.instance_uuid,
            vcpus=vector["VCPU"],
            memory_mb=vector["MEMORY_MB"],
            root_gb=vector["DISK_GB"],
            ephemeral_gb=0,
            custom=vector.custom,
        )
        return Allocation(
            id="",
            claim_id="",
            instance=instance,
            resources=vector,
            begun_at=move.begun_at,
            expires_at=move.expires_at,
            limit_source=move.limit_source,
            claim_state=charge.FINISHED,
        )

    def _tell(
        self,
        shown: Allocation,
        role: str,
        ledger: NodeLedger | None = None,
        *,
        ended: tuple[Allocation, ...] = (),
        charged: tuple[Allocation, ...] = (),
        at: int = 0,
        keeps: bool = True,
    ) -> None:
        node = ledger or self._home
        # What happened by a clock that is ahead of this one is over for this node too: nothing comes before it any more.
        self._now = max(self._now, at)
        event = events.MoveChanged(
            at=node.time(self._now),
            move=self.move,
            shown=shown,
            role=role,
            ended=ended,
            charged=charged,
            effective_at=at,
            keeps=keeps,
        )
        self.happened.append((node, event))

    def _note(self) -> None:
        self.happened.append((self._home, events.MoveNoted(at=self._now, move=self.move)))


def _is_of(move: Move, held: Allocation) -> bool:
    """Whether a charge for the instance of ``move`` concerns it: not what is incoming or on hold for another move."""
    match held.role:
        case charge.INCOMING:
            return held.id == move.allocation_id
        case charge.HOLD:
            return move.open and bool(move.finished_at)
        case _:
            return True


def conflict(ledger: NodeLedger, uuid: str, reason: str) -> ClaimConflict:
    return ClaimConflict(instance_uuid=uuid, node=ledger.name, reason=reason)


def arriving(move: Move, role: str, claim_state: str) -> Allocation:
    """What the destination is charged."""
    assert move.instance is not None
    return Allocation(
        id=move.allocation_id,
        claim_id=move.allocation_id,
        instance=move.instance,
        resources=move.resources,
        begun_at=move.begun_at,
        expires_at=move.expires_at,
        limit_source=move.limit_source,
        claim_state=claim_state,
        role=role,
        on_expiry=move.on_expiry,
        built=role == INSTANCE,
    )


def of_incoming(host: HostLedger, uuid: str) -> tuple[NodeLedger, Move] | None:
    """The move for which the instance is incoming on the host."""
    return _open_move(host, uuid, handed_over=False)


def of_hold(host: HostLedger, uuid: str) -> tuple[NodeLedger, Move] | None:
    """The move for which the host holds what the instance was charged."""
    return _open_move(host, uuid, handed_over=True)


def _open_move(host: HostLedger, uuid: str, *, handed_over: bool) -> tuple[NodeLedger, Move] | None:
    for ledger in host:
        for move in ledger.moves.values():
            if move.open and move.instance_uuid == uuid and bool(move.finished_at) is handed_over:
                return ledger, move
    return None


_SIZED = ("vcpus", "memory_mb", "root_gb", "ephemeral_gb", "swap", "custom", "instance_type", "instance_flavor_id")


def _resized(instance: Instance, sizes: Instance) -> Instance:
    """The instance as it is known now, with its owner and its states, in the sizes and of the type of the other one."""
    return replace(instance, **{name: getattr(sizes, name) for name in _SIZED})
