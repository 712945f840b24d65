# SPDX-License-Identifier: Apache-2.0
"""Deliveries -> pending requests, on the bus's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any

from tracker_worker import threads
from tracker_worker.bus.base import FANOUT, SHARED, Bus, Delivery
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import TrackerError
from tracker_worker.notifications.asked import read_asked
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.service.requests.methods import resolve
from tracker_worker.service.requests.pending import Heartbeat, PendingRequest
from tracker_worker.service.requests.permissions import Permissions
from tracker_worker.text import described, printable
from tracker_worker.wire.message import Malformed, ReplyTo
from tracker_worker.wire.reply import encode_heartbeat
from tracker_worker.wire.reply_queues import ANY_QUEUE, ReplyQueues
from tracker_worker.wire.request import Request, decode_request

LOG = logging.getLogger(__name__)

_MOST_NAME_CHARACTERS = 255


class RequestReader:
    """Decodes and checks requests; it never touches a ledger. ``received`` runs on the bus's thread and never raises."""

    def __init__(
        self,
        *,
        bus: Bus,
        served: Sequence[str],
        policy: Callable[[], Policy],
        max_body_bytes: int,
        every: Callable[[float, Callable[[], None], float], Heartbeat],
        submit: Callable[[Sequence[PendingRequest]], None],
        submit_later: Callable[[Sequence[PendingRequest]], None] | None = None,
        owned: Callable[[], Sequence[str]] | None = None,
        reply_queues: ReplyQueues = ANY_QUEUE,
        permissions: Permissions | None = None,
        worker: str = "",
        monotonic: Callable[[], float] = threads.monotonic,
        trace: Callable[[PendingRequest, Mapping[str, Any]], None] | None = None,
    ) -> None:
        """``every(seconds, action, until)`` starts a timer that ends at ``until`` on the monotonic clock; ``submit`` gets
        the requests that arrived together, in order, and ``submit_later``, which returns immediately, those of ``waited``;
        None: ``submit`` does. ``owned`` returns those of ``served`` that this worker may serve now; None: all. ``worker`` is
        this worker's name. A call that wants its reply in none of ``reply_queues`` is not done.
        ``permissions`` None: everybody may call every method. ``monotonic`` gives seconds. ``trace`` gets each request that
        could be decoded, with its context; None: tracing is off."""
        self._bus = bus
        self._owned = owned or (lambda: served)
        self._policy = policy
        self._max_body_bytes = max_body_bytes
        self._every = every
        self._submit = submit
        self._submit_later = submit_later or submit
        self._reply_queues = reply_queues
        self._permissions = permissions
        self._worker = worker
        self._monotonic = monotonic
        self._trace = trace

    def received(self, deliveries: Sequence[Delivery]) -> None:
        now = self._monotonic()
        self._submit([self._read(delivery, now) for delivery in deliveries])

    def waited(self, deliveries: Sequence[Delivery]) -> None:
        """The same for deliveries that somebody has kept: returns immediately."""
        now = self._monotonic()
        self._submit_later([self._read(delivery, now) for delivery in deliveries])

    def _read(self, delivery: Delivery, now: float) -> PendingRequest:
        pending = PendingRequest(delivery=delivery, received_at=now)
        request: Request | None = None
        try:
            request = decode_request(
                delivery.body,
                content_type=delivery.content_type,
                compression=delivery.headers.get("compression"),
                max_bytes=self._max_body_bytes,
                reply_queues=self._reply_queues,
            )
            pending.reply_to = reply_to = request.reply_to
            pending.unique_id = request.unique_id
            pending.method = request.method
            pending.asked = read_asked(self._worker, method=request.method, context=request.context)
            if self._trace is not None:
                self._trace(pending, request.context)
            if reply_to is not None:
                pending.deadline = _deadline(delivery)
                if request.monitor_seconds is not None:
                    pending.heartbeat = self._heartbeat(reply_to, request.monitor_seconds, pending.deadline)
            pending.operation = resolve(
                request,
                source=delivery.source,
                served=self._owned(),
                policy=self._policy(),
                permit=None if self._permissions is None else self._permissions.permit,
            )
        except Malformed as error:
            pending.refusal = error
            pending.reply_to = error.reply_to
            if error.reply_to is not None:
                pending.deadline = _deadline(delivery)
            pending.dropped = _is_dropped(delivery, error)
        except (TrackerError, NoSuchMethod, UnsupportedVersion) as refusal:
            pending.refusal = refusal
            pending.instance_uuid = "" if request is None else _instance(request.args)
        except Exception as error:  # noqa: BLE001 one message fails, also by RecursionError or MemoryError; the others go on
            LOG.error("a message for %s cannot be read: %s", _receiver(delivery), described(error))
            pending.refusal = error
        return pending

    def _heartbeat(self, reply_to: ReplyTo, seconds: int, deadline: float) -> Heartbeat:
        return self._every(
            seconds / 2, lambda: self._bus.sender.heartbeat(reply_to, encode_heartbeat(reply_to)), deadline
        )


def _deadline(delivery: Delivery) -> float:
    """Of a call: a cast waits without limit."""
    return inf if delivery.deadline is None else delivery.deadline


def _is_dropped(delivery: Delivery, error: Malformed) -> bool:
    """Whether nothing is kept of a message that is too large: it says no address for an answer, but it expires, as calls do and
    casts do not."""
    if not error.too_large or error.reply_to is not None or delivery.deadline is None:
        return False
    LOG.warning(
        "a call for %s is dropped, because it does not say where its answer goes: %s", _receiver(delivery), error
    )
    return True


def _receiver(delivery: Delivery) -> str:
    return {SHARED: "any worker", FANOUT: "every worker"}.get(delivery.source, delivery.source)


def _instance(args: Mapping[str, Any]) -> str:
    """The instance that unread arguments name, or ''."""
    instance = args.get("instance")
    uuid = instance.get("uuid") if isinstance(instance, Mapping) else args.get("instance_uuid")
    return printable(uuid, _MOST_NAME_CHARACTERS) if isinstance(uuid, str) else ""
