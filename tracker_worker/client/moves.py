# SPDX-License-Identifier: Apache-2.0
"""Moves: the RPC methods of their steps as calls, and a whole move as a context manager. ``TrackerAPI`` has them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any, Literal

from tracker_worker import errors, threads
from tracker_worker.client.arguments import given
from tracker_worker.client.transport import Transport
from tracker_worker.client.types import Context, InstanceLike, LimitsLike, Move, MoveBeginning
from tracker_worker.ids import uuid7
from tracker_worker.oslo import oslo_messaging

LOG = logging.getLogger(__name__)

Kind = Literal["resize", "migration", "live_migration", "evacuation"]
_RANDOM_BYTES = 8
_MOST_ATTEMPTS = 3
"""So many calls for the hand-over at the destination, which repeats nothing."""


class Moves:
    """What a host has no record of, it must be told: ``move`` is what the destination has answered. Each step may be sent
    again; it has its effect once. Raises MoveNotFound: the host knows no such move, or it is too old."""

    _transport: Transport

    def begin_move_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        move: MoveBeginning | Mapping[str, Any],
        limits: LimitsLike | None = None,
        timeout: float | None = None,
        *,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> Move:
        """Charge the destination ``host`` for the instance, which has its new sizes and the destination's node, as incoming.
        ``move`` has an id of the caller's choice and a kind, and may have from_host and from_node.

        Raises what ``begin_resource_claim`` raises. ClaimConflict also: another move of the instance is under way."""
        args = begin_arguments(instance, move, limits, timeout, on_expiry)
        begun: Move = self._transport.call(context, host, "begin_move_claim", args)
        return begun

    def finish_move(
        self,
        context: Context,
        host: str,
        move_id: str,
        effective_at: str | None = None,
        move: Mapping[str, Any] | None = None,
    ) -> Move:
        """Hand the instance over: first at the destination, then at the source with the ``finished_at`` that the destination
        has answered as ``effective_at``. What was incoming is the instance; the source holds what it was charged (resize,
        migration), or releases it. Raises InvalidInput: ``effective_at`` is before the move, or ahead of the destination."""
        return self._step("finish_move", context, host, move_id, effective_at=effective_at, move=move)

    def confirm_move(self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None) -> Move:
        """Release what the source holds."""
        return self._step("confirm_move", context, host, move_id, move=move)

    def revert_move(
        self,
        context: Context,
        host: str,
        move_id: str,
        effective_at: str | None = None,
        move: Mapping[str, Any] | None = None,
    ) -> Move:
        """Take the hand-over back: first at the destination, then at the source with the ``ended_at`` that the destination has
        answered as ``effective_at``. What the source holds is the instance again; it is never refused for want of room. Before
        the hand-over it is an abort. Raises ClaimConflict: the source of this kind of move holds nothing."""
        return self._step("revert_move", context, host, move_id, effective_at=effective_at, move=move)

    def abort_move(self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None) -> Move:
        """Before the hand-over, release what is incoming at the destination. Raises ClaimConflict: it is handed over."""
        return self._step("abort_move", context, host, move_id, move=move)

    def fail_move(self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None) -> Move:
        """Note that the move has failed: both hosts stay charged until it is aborted or confirmed, and it never expires."""
        return self._step("fail_move", context, host, move_id, move=move)

    def _step(self, method: str, context: Context, host: str, move_id: str, **args: Any) -> Move:
        done: Move = self._transport.call(context, host, method, step_arguments(move_id, **args))
        return done

    # --- as casts --------------------------------------------------------------------------------------------------------

    def cast_begin_move_claim(
        self,
        context: Context,
        host: str,
        instance: InstanceLike,
        move: MoveBeginning | Mapping[str, Any],
        limits: LimitsLike | None = None,
        timeout: float | None = None,
        *,
        on_expiry: Literal["keep", "release"] | None = None,
    ) -> None:
        """Send ``begin_move_claim`` without waiting for an answer."""
        args = begin_arguments(instance, move, limits, timeout, on_expiry)
        self._transport.cast(context, host, "begin_move_claim", args)

    def cast_finish_move(
        self,
        context: Context,
        host: str,
        move_id: str,
        effective_at: str | None = None,
        move: Mapping[str, Any] | None = None,
    ) -> None:
        """Send ``finish_move`` without waiting for an answer."""
        self._cast_step("finish_move", context, host, move_id, effective_at=effective_at, move=move)

    def cast_confirm_move(
        self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None
    ) -> None:
        """Send ``confirm_move`` without waiting for an answer."""
        self._cast_step("confirm_move", context, host, move_id, move=move)

    def cast_revert_move(
        self,
        context: Context,
        host: str,
        move_id: str,
        effective_at: str | None = None,
        move: Mapping[str, Any] | None = None,
    ) -> None:
        """Send ``revert_move`` without waiting for an answer."""
        self._cast_step("revert_move", context, host, move_id, effective_at=effective_at, move=move)

    def cast_abort_move(self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None) -> None:
        """Send ``abort_move`` without waiting for an answer."""
        self._cast_step("abort_move", context, host, move_id, move=move)

    def cast_fail_move(self, context: Context, host: str, move_id: str, move: Mapping[str, Any] | None = None) -> None:
        """Send ``fail_move`` without waiting for an answer."""
        self._cast_step("fail_move", context, host, move_id, move=move)

    def _cast_step(self, method: str, context: Context, host: str, move_id: str, **args: Any) -> None:
        self._transport.cast(context, host, method, step_arguments(move_id, **args))

    # --- a whole move ----------------------------------------------------------------------------------------------------

    @contextmanager
    def move_claim(
        self,
        context: Context,
        instance: InstanceLike,
        from_host: str,
        to_host: str,
        kind: Kind,
        *,
        from_node: str | None = None,
        limits: LimitsLike | None = None,
        timeout: float | None = None,
        move_id: str | None = None,
    ) -> Iterator[Move]:
        """Begin a move on entry, and hand over at both hosts, with one effective time, on exit; ``confirm_move`` and
        ``revert_move`` are the caller's. ``instance`` has the new sizes and the destination's node; its host and node are set
        if it can be changed. What is yielded is the move, which is brought up to date on exit. An exception in the block aborts
        the move and propagates.

        If the begin gets no answer, a cast aborts the move, whose id this method knows. The hand-over at the destination is
        asked for again if it gets no answer, and then raises MessagingTimeout: the instance has moved, and ``finish_move`` is
        to be sent until it is answered, with what it answers to the source. The source is told by a cast where it does not
        answer, and of an evacuation in any case: its queue keeps the cast.
        """
        chosen = move_id or uuid7(threads.now_microseconds(), int.from_bytes(threads.random_bytes(_RANDOM_BYTES)))
        beginning = {"id": chosen, "kind": kind, "from_host": from_host, "from_node": from_node}
        try:
            move = self.begin_move_claim(context, to_host, instance, beginning, limits, timeout)
        except errors.TrackerError as answer:
            if isinstance(answer, errors.StoreUnavailable):
                self._try_abort_move(context, to_host, chosen)
            raise
        except BaseException:
            self._try_abort_move(context, to_host, chosen)
            raise
        try:
            yield move
        except BaseException:
            self._try_abort_move(context, to_host, chosen)
            raise
        move.update(self._handed_over(context, to_host, chosen))
        if from_host != to_host:
            self._tell_source(context, from_host, move)
        if isinstance(instance, MutableMapping):
            instance.update(host=to_host, node=move["to_node"])

    def _handed_over(self, context: Context, host: str, move_id: str) -> Move:
        for _ in range(_MOST_ATTEMPTS - 1):
            try:
                return self.finish_move(context, host, move_id)
            except oslo_messaging.MessagingTimeout:
                LOG.warning("no answer to the hand-over of move %s on %s; asked again", move_id, host)
        return self.finish_move(context, host, move_id)

    def _tell_source(self, context: Context, host: str, move: Move) -> None:
        if move["kind"] != "evacuation":
            try:
                self.finish_move(context, host, move["id"], move["finished_at"], move)
                return
            except oslo_messaging.MessagingTimeout:
                LOG.warning("no answer to the end of move %s on %s; sent again without waiting", move["id"], host)
        self.cast_finish_move(context, host, move["id"], move["finished_at"], move)

    def _try_abort_move(self, context: Context, host: str, move_id: str) -> None:
        """Best effort: a failure is logged, never raised, so that it does not hide the exception that caused the abort."""
        try:
            self.cast_abort_move(context, host, move_id)
        except oslo_messaging.MessagingException as failure:
            LOG.warning("move %s on %s is not aborted, it will expire: %s", move_id, host, failure)


def begin_arguments(
    instance: InstanceLike,
    move: Mapping[str, Any],
    limits: LimitsLike | None,
    timeout: float | None,
    on_expiry: str | None,
) -> dict[str, Any]:
    """The arguments of ``begin_move_claim``."""
    within = None if limits is None else dict(limits)
    return {
        "instance": dict(instance),
        "move": dict(move),
        **given(limits=within, timeout=timeout, on_expiry=on_expiry),
    }


def step_arguments(move_id: str, *, move: Mapping[str, Any] | None, effective_at: str | None = None) -> dict[str, Any]:
    """The arguments of a step."""
    told = None if move is None else dict(move)
    return {"move_id": move_id, **given(move=told, effective_at=effective_at)}
