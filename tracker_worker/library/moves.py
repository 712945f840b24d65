# SPDX-License-Identifier: Apache-2.0
"""Resizes and other moves of a tracker's node: an instance is charged a second time, in its new size or at its new place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

from tracker_worker import threads
from tracker_worker.domain import commands
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import owned, read_instance
from tracker_worker.domain.move import ABORT, CONFIRM, FINISH, KINDS, RESIZE, REVERT, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import read_choice, read_id, read_optional_text, read_time, read_timeout
from tracker_worker.errors import InvalidInput, TrackerError
from tracker_worker.ids import canonical
from tracker_worker.library.context import Context, facts_of
from tracker_worker.library.reading import TrackedNode
from tracker_worker.text import printable

LOG = logging.getLogger(__name__)

_FEW = 10
"""The most hosts of a ledger that keep a record of one move are its two."""


@dataclass(frozen=True, slots=True)
class MoveClaim:
    """What the destination of a move is charged; zeros, and no record, where the tracker was disabled. Memory in MB, disk in
    GB.

    As a context manager: an exception in the block aborts the move, and leaving it ends nothing."""

    move_id: str
    memory_mb: int
    disk_gb: int
    vcpus: int
    aborted: Callable[[], object] = field(repr=False, compare=False)

    def abort(self) -> None:
        """Release what is incoming. Raises ClaimConflict: the instance is handed over."""
        self.aborted()

    def __enter__(self) -> MoveClaim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Literal[False]:
        if kind is not None:
            try:
                self.abort()
            except TrackerError as failure:
                # Best effort: the exception that leaves the block must not be hidden.
                LOG.warning("move %s is not aborted, it will expire: %s", printable(self.move_id), failure)
        return False


class MovingNode(TrackedNode):
    """The moves of a tracker's node. Every method raises StoreUnavailable; nothing has changed then."""

    def _policy(self) -> Policy:
        raise NotImplementedError

    @property
    def tracked_moves(self) -> dict[str, MoveClaim]:
        """The moves for which the node is charged for what is incoming or on hold, by instance uuid."""
        with self._lock:
            ledger = self._ledger_locked()
            moves = [] if ledger is None else ledger.moves.values()
            return {move.instance_uuid: self._claim_of(move) for move in moves if move.open}

    def resize_claim(
        self,
        context: Context,
        instance: Mapping[str, Any],
        sizes: Mapping[str, Any],
        limits: Mapping[str, float | None] | None = None,
        *,
        move_id: str | None = None,
        kind: str = RESIZE,
        from_host: str | None = None,
        from_node: str | None = None,
        timeout: float | None = None,
    ) -> MoveClaim:
        """Charge this node for the instance in its new ``sizes`` (memory_mb, root_gb, ephemeral_gb and vcpus), beside what it
        is charged already. ``from_host`` and ``from_node`` name its present place; None: wherever it is. The instance is not
        changed. A disabled tracker gives a MoveClaim of zeros.

        Raises ComputeResourcesUnavailable with every shortfall, ClaimConflict, InvalidInput, NodeUnavailable, NodeDraining."""
        policy = self._policy()
        wanted = read_instance({**instance, **sizes}, policy.max_field_bytes)
        chosen = read_choice("kind", kind, KINDS)
        if chosen is None:
            raise InvalidInput(field="kind", reason="is missing")
        wanted = owned(wanted, facts_of(context), required=policy.owner_required)
        moved = str(threads.new_uuid()) if move_id is None else read_id("move_id", move_id)
        host, node = read_optional_text("from_host", from_host), read_optional_text("from_node", from_node)
        within = read_limits(limits)
        lasting = read_timeout("timeout", timeout) or policy.claim_timeout
        with self._lock:
            ledger = self._ledger_locked()
            if ledger is None:
                return MoveClaim(moved, 0, 0, 0, lambda: None)
            begin = commands.BeginClaim(
                instance=wanted,
                limits=within,
                timeout=lasting,
                node=ledger.name,
                capacity_limits=policy.capacity_limits,
                stale_after=policy.stale_after,
                remembers_deletions=policy.deletion_memory,
            )
            elsewhere = self._store.incoming([wanted.uuid]).get(wanted.uuid)
            command = commands.BeginMove(
                begin=begin,
                id=moved,
                kind=chosen,
                from_host=host,
                from_node=node,
                moves_to=None if elsewhere is None or elsewhere[0] == self.host else elsewhere,
            )
            [decision] = self._decisions.commit(command)
            if decision.error is not None:
                raise decision.error
            assert decision.node is not None
            return self._claim_of(decision.node.moves[moved])

    def finish_resize(self, context: Context, move: MoveClaim | str, effective_at: str | None = None) -> None:
        """Hand the instance over: what was incoming is the instance, and what it was charged is on hold. ``effective_at``: ISO
        8601; None: when the destination did, or now. At the source of a move between two hosts of the ledger, call it after
        the destination. Raises MoveNotFound, InvalidInput."""
        self._step(move, FINISH, read_time("effective_at", effective_at))

    def confirm_resize(self, context: Context, move: MoveClaim | str) -> None:
        """Release what is on hold. Raises MoveNotFound."""
        self._step(move, CONFIRM)

    def revert_resize(self, context: Context, move: MoveClaim | str, effective_at: str | None = None) -> None:
        """Take the hand-over back: what is on hold is the instance again, whatever else the node is charged. Raises
        MoveNotFound, ClaimConflict, InvalidInput."""
        self._step(move, REVERT, read_time("effective_at", effective_at))

    def abort_resize(self, context: Context, move: MoveClaim | str) -> None:
        """Release what is incoming. Raises MoveNotFound; ClaimConflict: the instance is handed over."""
        self._step(move, ABORT)

    def _step(self, move: MoveClaim | str, step: str, effective_at: int | None = None) -> None:
        named = canonical(move.move_id if isinstance(move, MoveClaim) else move)
        with self._lock:
            if self._ledger_locked() is None:
                return
            command = commands.StepMove(
                id=named,
                step=step,
                effective_at=effective_at,
                told=self._told_locked(named),
                remembers=self._policy().move_memory,
            )
            [decision] = self._decisions.commit(command)
            if decision.error is not None:
                raise decision.error

    def _told_locked(self, move_id: str) -> Move | None:
        """What the destination, another host of the ledger, has recorded."""
        found = self._store.moves(move_id=move_id, limit=_FEW)
        return next((move for _, move in found if move.arrives and not move.leaves), None)

    def _claim_of(self, move: Move) -> MoveClaim:
        vector = move.resources
        return MoveClaim(
            move_id=move.id,
            memory_mb=vector["MEMORY_MB"],
            disk_gb=vector["DISK_GB"],
            vcpus=vector["VCPU"],
            aborted=lambda: self.abort_resize(None, move.id),
        )
