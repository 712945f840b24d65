# SPDX-License-Identifier: Apache-2.0
"""The calls that wait for an audit, outside of the bus: their limits, their ends, and their answers.

A call is settled when it begins to wait, so that it holds no place in the prefetch of its host. It may be lost with the
worker, because an audit may be called again. Only what its reply needs is kept of it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from tracker_worker.agenda import Agenda, Entry
from tracker_worker.bus.base import Delivery, Outgoing, Reply, Settlement
from tracker_worker.errors import InventoryUnavailable
from tracker_worker.service.requests.pending import Heartbeat, PendingRequest
from tracker_worker.wire.message import ReplyTo
from tracker_worker.wire.reply import MAX_ANSWER_BYTES, answer, encode_reply

LOG = logging.getLogger(__name__)

# So many calls wait for the audits of one host, or so many bytes of them.
_MOST_CALLS = 1000
_MOST_BYTES = 4_000_000
# What is kept of a call beside the name of its reply queue and its id (measured: 0.8 to 1.6 KB, with and without heartbeats).
_CALL_BYTES = 1500
# A call without a deadline gets an error after so many seconds.
_LONGEST_SECONDS = 600.0
# One warning in so many seconds says that a host's calls are dropped.
_WARNING_SECONDS = 60.0
# So many bytes of answers go out at a time, with a pause after them: a thousand calls share one answer, but each of them gets
# its own bytes of it.
_ANSWER_BYTES = 4_000_000
_ANSWER_PAUSE_SECONDS = 0.05

Views = list[dict[str, Any]]


@dataclass(slots=True, eq=False)
class AuditCall:
    """A call that waits for the audits of ``hosts``. ``parts`` are the views of the hosts that are done, ``left`` is the number
    of the others. ``own_deadline``: whether the caller stops waiting at ``deadline`` (monotonic clock, seconds). ``looks`` are
    the calls of each look that this one waits for: it leaves them when it ends."""

    hosts: tuple[str, ...]
    delivery: Delivery
    reply_to: ReplyTo
    heartbeat: Heartbeat | None
    deadline: float
    own_deadline: bool
    size: int
    left: int
    parts: list[Views] = field(default_factory=list)
    error: Exception | None = None
    entry: Entry[AuditCall] | None = None
    looks: list[dict[AuditCall, None]] = field(default_factory=list)
    ended: bool = False


@dataclass(slots=True)
class _Held:
    """The calls of one host that wait, and those that were dropped since the last warning."""

    calls: int = 0
    size: int = 0
    dropped: int = 0
    warned_at: float = -inf


class AuditCalls:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        send: Callable[[Sequence[Outgoing]], None],
        monotonic: Callable[[], float],
        count: Callable[[str], None],
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """``count`` gets ``audits_dropped`` for each call that is dropped."""
        self._send = send
        self._monotonic = monotonic
        self._count = count
        self._max_answer_bytes = max_answer_bytes
        self._held: dict[str, _Held] = {}
        self._ends: Agenda[AuditCall] = Agenda()
        self._waiting: dict[AuditCall, None] = {}
        self._answers: deque[tuple[AuditCall, bytes]] = deque()
        self._answers_at = -inf

    def admit(self, request: PendingRequest) -> AuditCall | None:
        """Settle the request, and keep what its answer needs. None: one of its hosts has too many calls already, and the
        request is dropped."""
        assert request.operation is not None
        assert request.reply_to is not None
        reply_to, hosts = request.reply_to, request.operation.hosts
        self._send([Settlement(delivery=request.delivery)])
        size = _CALL_BYTES + len(reply_to.queue) + len(reply_to.msg_id)
        for host in hosts:
            held = self._held.setdefault(host, _Held())
            if held.calls >= _MOST_CALLS or held.size + size > _MOST_BYTES:
                self._drop(host, held, request)
                return None
        delivery = request.delivery
        call = AuditCall(
            hosts=hosts,
            # Nothing of the message itself: thousands of calls may wait, and each message may have a megabyte.
            delivery=Delivery(body=b"", source=delivery.source, deadline=delivery.deadline, token=delivery.token),
            reply_to=reply_to,
            heartbeat=request.heartbeat,
            deadline=request.deadline if request.deadline < inf else self._monotonic() + _LONGEST_SECONDS,
            own_deadline=request.deadline < inf,
            size=size,
            left=len(hosts),
        )
        for host in hosts:
            self._held[host].calls += 1
            self._held[host].size += size
        call.entry = self._ends.add(call.deadline, call)
        self._waiting[call] = None
        return call

    def _drop(self, host: str, held: _Held, request: PendingRequest) -> None:
        request.end_heartbeat()
        self._count("audits_dropped")
        held.dropped += 1
        now = self._monotonic()
        if now - held.warned_at >= _WARNING_SECONDS:
            LOG.warning(
                "host %s: %d calls wait for an audit; %d further ones were dropped", host, held.calls, held.dropped
            )
            held.warned_at, held.dropped = now, 0

    def host_done(self, calls: Iterable[AuditCall], views: Views, error: Exception | None) -> None:
        """One host of these calls is finished, with the views of its nodes or with ``error``. A call whose last host this was
        is answered in the next steps."""
        shared: dict[tuple[Any, ...], bytes] = {}
        for call in calls:
            call.parts.append(views)
            call.error = call.error or error
            call.left -= 1
            if call.left:
                continue
            key = (call.reply_to.content_type, id(call.error), *map(id, call.parts))
            if key not in shared:
                found = None if call.error else [view for part in call.parts for view in part]
                shared[key] = answer(
                    call.reply_to,
                    found,
                    call.error,
                    limit=self._max_answer_bytes,
                    method="update_available_resource",
                )
            self._answers.append((call, shared[key]))

    def step(self, now: float) -> float | None:
        """Answer the calls that are finished and end those whose time is up. Returns the seconds until the next step is due;
        None: no call waits."""
        while (call := self._ends.take(now)) is not None:
            self._expire(call)
        if now >= self._answers_at:
            self._answer(now)
        due = self._ends.next_due()
        if self._answers:
            due = self._answers_at if due is None else min(due, self._answers_at)
        return None if due is None else max(0.0, due - now)

    def _answer(self, now: float) -> None:
        """Send some of the answers. A call whose time is up by now is not among them."""
        size = 0
        replies: list[Outgoing] = []
        while self._answers and size < _ANSWER_BYTES:
            call, answered = self._answers.popleft()
            if not call.ended:
                size += len(answered)
                replies.append(self._end(call, answered))
        if self._answers:
            self._answers_at = now + _ANSWER_PAUSE_SECONDS
        if replies:
            self._send(replies)

    def _expire(self, call: AuditCall) -> None:
        """The caller is gone, or has set no deadline and gets an error."""
        if call.own_deadline:
            self._forget(call)
        else:
            self._fail(call, f"no answer within {_LONGEST_SECONDS:g} s")

    def _fail(self, call: AuditCall, reason: str) -> None:
        error = InventoryUnavailable(host=", ".join(call.hosts[:10]), reason=reason)
        self._send([self._end(call, answer(call.reply_to, error=error))])

    def stop(self) -> None:
        """Tell the callers that wait to ask the next worker."""
        for call in list(self._waiting):
            if call.deadline > self._monotonic():
                self._fail(call, "the worker stops")
            else:
                self._forget(call)

    def _end(self, call: AuditCall, answered: bytes) -> Outgoing:
        self._forget(call)
        return Reply(delivery=call.delivery, reply_to=call.reply_to, body=encode_reply(answered, call.reply_to))

    def _forget(self, call: AuditCall) -> None:
        """Nothing is kept of the call."""
        call.ended = True
        for look in call.looks:
            look.pop(call, None)
        if call.heartbeat is not None:
            call.heartbeat.cancel()
        if call.entry is not None:
            self._ends.remove(call.entry)
        self._waiting.pop(call, None)
        for host in call.hosts:
            self._held[host].calls -= 1
            self._held[host].size -= call.size
