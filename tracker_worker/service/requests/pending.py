# SPDX-License-Identifier: Apache-2.0
"""One request on its way through the worker, from its delivery to its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from tracker_worker.bus.base import FANOUT, DeadLetter, Delivery, Outgoing, Reply, Settlement
from tracker_worker.errors import HostNotServed
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.requests.methods import Operation
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.reply import encode_reply, recorded_reason


class Heartbeat(Protocol):
    def cancel(self) -> None: ...


@dataclass(slots=True, kw_only=True, eq=False)
class PendingRequest:
    """A request that is not finished. Either ``operation`` says what it asks for, or ``refusal`` why it is not done.

    ``reply_to`` is None for a cast. ``deadline`` (monotonic clock, seconds) is when the caller stops waiting; a cast waits
    without limit; ``received_at`` is on the same clock; ``span`` is that of
    ``tracing``, if it is on. ``heartbeat`` publishes the caller's heartbeats until it is cancelled.
    ``method`` is the name of the RPC method, ``asked`` says who sent the request. ``instance_uuid``: of a request that is
    refused unread, the instance that it names, if it does. ``dropped``: it is a call whose caller cannot be told anything; it
    is settled instead of parked."""

    delivery: Delivery
    operation: Operation | None = None
    refusal: Exception | None = None
    reply_to: ReplyTo | None = None
    unique_id: str | None = None
    method: str = ""
    asked: Asked = field(default_factory=Asked)
    instance_uuid: str = ""
    received_at: float = 0.0
    span: Any = None
    deadline: float = inf
    heartbeat: Heartbeat | None = None
    dropped: bool = False

    @property
    def is_anothers(self) -> bool:
        """Whether another worker does this request: a fanout reaches every worker, also one that does not serve its host."""
        return self.delivery.source == FANOUT and isinstance(self.refusal, HostNotServed)

    def asked_after(self, now: float) -> bytes:
        """Who sent this request, and how long it has waited for its decision at ``now`` (monotonic clock), for the outbox."""
        self.asked.duration_ms = round((now - self.received_at) * 1000, 1)
        return self.asked.encode()

    def conclusion(self, answer: bytes, reason: str = "") -> Outgoing:
        """What is sent once the outcome holds: ``answer`` to a call; a cast is parked for ``reason``, or settled without
        one."""
        if self.reply_to is not None:
            body = encode_reply(answer, self.reply_to)
            return Reply(delivery=self.delivery, reply_to=self.reply_to, body=body, method=self.method)
        if reason and not self.dropped:
            return DeadLetter(delivery=self.delivery, reason=reason)
        return Settlement(delivery=self.delivery)

    def recorded_conclusion(self, recorded: bytes) -> Outgoing:
        """The same for a copy, from the answer that the inbox kept. A cast that copies a call which failed is parked."""
        reason = recorded_reason(recorded) if self.reply_to is None and recorded else ""
        return self.conclusion(recorded, reason)

    def end_heartbeat(self) -> None:
        """The caller gets no further heartbeat. Harmless when there was none."""
        if self.heartbeat is not None:
            self.heartbeat.cancel()
