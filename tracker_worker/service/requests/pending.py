# SPDX-License-Identifier: Apache-2.0
"""One message on its way through the worker: decoded and checked on the bus's thread, decided on the engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from oslo_messaging.rpc.dispatcher import NoSuchMethod, UnsupportedVersion

from tracker_worker.bus.base import FANOUT, Bus, Delivery
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import ComputeResourcesUnavailable, HostNotServed, InvalidInput, TrackerError
from tracker_worker.service.requests.methods import Call, Context, resolve
from tracker_worker.wire import envelope
from tracker_worker.wire.envelope import Malformed, ReplyTo


class Timer(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class Work:
    """Either ``call`` says what is asked, or ``refusal`` why it is not done. ``reply_to`` is None for a cast; ``monitor``
    sends the caller's heartbeats until it is cancelled."""

    delivery: Delivery
    call: Call | None = None
    refusal: Exception | None = None
    reply_to: ReplyTo | None = None
    unique_id: str | None = None
    context: Context | None = None
    monitor: Timer | None = None

    @property
    def expired(self) -> bool:
        """Nobody waits for the reply any more."""
        return self.remaining_seconds <= 0

    @property
    def remaining_seconds(self) -> float:
        """How long somebody waits; a cast waits for ever."""
        deadline = self.delivery.deadline
        return float("inf") if deadline is None or self.reply_to is None else deadline - time.monotonic()


class Intake:
    """``received`` runs on the bus's thread: it decodes and checks, and never touches a ledger."""

    def __init__(
        self,
        *,
        bus: Bus,
        served: Sequence[str],
        policy: Callable[[], Policy],
        max_body_bytes: int,
        every: Callable[[float, Callable[[], None]], Timer],
        submit: Callable[[Sequence[Work]], None],
    ) -> None:
        self._bus = bus
        self._served = served
        self._policy = policy
        self._max_body_bytes = max_body_bytes
        self._every = every
        self._submit = submit

    def received(self, deliveries: Sequence[Delivery]) -> None:
        self._submit([self._read(delivery) for delivery in deliveries])

    def _read(self, delivery: Delivery) -> Work:
        try:
            request = envelope.decode_request(
                delivery.body,
                content_type=delivery.content_type,
                compression=delivery.headers.get("compression"),
                max_bytes=self._max_body_bytes,
            )
        except Malformed as error:
            return Work(delivery=delivery, refusal=error, reply_to=error.reply_to)
        work = Work(
            delivery=delivery,
            reply_to=request.reply_to,
            unique_id=request.unique_id,
            context=request.context,
        )
        if request.reply_to is not None and request.monitor_seconds is not None:
            work.monitor = self._monitor(request.reply_to, request.monitor_seconds)
        try:
            work.call = resolve(request, source=delivery.source, served=self._served, policy=self._policy())
        except (TrackerError, NoSuchMethod, UnsupportedVersion) as refusal:
            work.refusal = refusal
        return work

    def _monitor(self, reply_to: ReplyTo, seconds: int) -> Timer:
        return self._every(seconds / 2, lambda: self._bus.beat(reply_to, envelope.encode_heartbeat(reply_to)))


def answer(work: Work, result: Any = None, error: Exception | None = None) -> bytes:
    """What a call is told, and is recorded for its copies; for a cast why it is parked, or nothing: it is done with."""
    if work.reply_to is None and not parks(error):
        return b""
    content_type = work.reply_to.content_type if work.reply_to is not None else envelope.JSON
    return envelope.encode_answer(content_type, result=result, failed=None if error is None else _failed(error))


def parks(error: Exception | None) -> bool:
    """Whether a cast that ends so goes to the dead-letter queue. A refusal for resources has its notification instead."""
    return error is not None and not isinstance(error, ComputeResourcesUnavailable)


def reason(error: Exception) -> str:
    """For the dead-letter queue: code and text."""
    if isinstance(error, Malformed):
        return f"invalid_input: {error}"
    code = getattr(error, "code", None) or type(error).__name__
    return f"{code}: {error}"


def conclude(bus: Bus, work: Work, recorded: bytes) -> None:
    """Tell the caller, park the cast, or let it be done with, as ``answer`` recorded it."""
    if work.monitor is not None:
        work.monitor.cancel()
    if work.reply_to is not None:
        bus.answer(work.delivery, work.reply_to, envelope.encode_reply(recorded, work.reply_to))
    elif recorded and (failed := envelope.failure_reason(recorded)):
        bus.park(work.delivery, failed)
    else:  # also a cast that is the copy of a call which went well
        bus.settle([work.delivery])


def dismiss(bus: Bus, work: Work) -> None:
    """Nobody waits any more."""
    if work.monitor is not None:
        work.monitor.cancel()
    bus.settle([work.delivery])


def ignorable(work: Work) -> bool:
    """A fanout that names a host of another worker is that worker's to do."""
    return work.delivery.source == FANOUT and isinstance(work.refusal, HostNotServed)


def _failed(error: Exception) -> dict[str, Any]:
    match error:
        case TrackerError():
            failed = envelope.failure(error, module="tracker_worker.errors")
        case Malformed():
            invalid = InvalidInput(field="body", reason=str(error))
            failed = envelope.failure(invalid, module="tracker_worker.errors")
        case NoSuchMethod():
            failed = envelope.failure(error, args=(error.method,))
        case UnsupportedVersion():
            failed = envelope.failure(error, args=(error.version, error.method))
        case _:
            # Not its text: that may hold anything. The log has it.
            text = "the worker failed unexpectedly on this request; its log says why"
            failed = envelope.failure(RuntimeError(text), args=(text,))
    failed["reason"] = envelope.sendable(reason(error))
    return failed
