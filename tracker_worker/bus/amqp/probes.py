# SPDX-License-Identifier: Apache-2.0
"""Looks whether what clients publish still reaches the queues of hosts, and the shared queue.

A probe is a mandatory cast of a method that does nothing, with an expiration of 0. Measured with RabbitMQ, on queues of both
types: it reaches an active consumer that is idle, leaves nothing behind in a queue that delivers nothing at the moment, and is
returned only where no queue is bound for it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.outgoing import Message
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.base import PING
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.threads import random_bytes
from tracker_worker.wire.message import JSON
from tracker_worker.wire.request import encode_request

LOG = logging.getLogger(__name__)

MOST_A_SECOND = 50
_PROPERTIES = encode_properties(
    {"content_type": JSON, "content_encoding": "utf-8", "delivery_mode": 1, "priority": 0, "expiration": "0"}
)
# For so long no further probe is published for a queue whose last one was not answered; one that was on its way when the
# connection was lost never is.
_PATIENCE_SECONDS = 10.0
# A queue that stays out of reach is named again after this time.
_REMIND_SECONDS = 60.0


class Probes:
    """Any thread may call ``probe``. ``unreachable`` is called, on the publisher's thread, when a probe was returned."""

    def __init__(
        self,
        settings: BrokerSettings,
        *,
        submit: Callable[[Message], None],
        unreachable: Callable[[], None],
        monotonic: Callable[[], float],
        random_bytes: Callable[[int], bytes] = random_bytes,
    ) -> None:
        self._settings = settings
        self._submit = submit
        self._unreachable = unreachable
        self._monotonic = monotonic
        self._random_bytes = random_bytes
        self._lock = threading.Lock()
        self._probed: dict[str, float] = {}  # by queue, when the last probe was published
        self._unanswered: set[str] = set()
        self._warned: dict[str, float] = {}  # by queue that is out of reach
        self._silent_since: float | None = None
        self._second_began = float("-inf")
        self._left = MOST_A_SECOND

    def probe(self, hosts: Sequence[str]) -> None:
        """Publish probes for the queues of these hosts and for the shared queue: at most 50 a second, and first for the queues
        whose last probe is the longest ago. Returns immediately."""
        queues = [topology.shared_queue(self._settings), *(topology.host_queue(self._settings, host) for host in hosts)]
        for queue in self._chosen({queue.name: queue for queue in queues}):
            self._submit(self._message(queue))

    def silent_since(self) -> float | None:
        """When the first probe was published that was not answered since the broker's last answer to one; None: all were
        answered. Any thread."""
        return self._silent_since

    def forget(self) -> None:
        """What was published before concerns nobody: its connection is gone. Any thread."""
        with self._lock:
            self._unanswered.clear()
            self._silent_since = None

    def _chosen(self, queues: dict[str, Queue]) -> list[Queue]:
        now = self._monotonic()
        with self._lock:
            for kept in (self._probed, self._warned):
                for name in kept.keys() - queues.keys():
                    del kept[name]
            self._unanswered &= queues.keys()
            if now >= self._second_began + 1:
                self._second_began, self._left = now, MOST_A_SECOND
            waits_until = {
                name: self._probed.get(name, float("-inf")) + (_PATIENCE_SECONDS if name in self._unanswered else 1.0)
                for name in queues
            }
            due = [name for name in queues if waits_until[name] <= now]
            chosen = sorted(due, key=lambda name: self._probed.get(name, float("-inf")))[: self._left]
            self._left -= len(chosen)
            self._probed.update(dict.fromkeys(chosen, now))
            self._unanswered.update(chosen)
            if chosen and self._silent_since is None:
                self._silent_since = now
            return [queues[name] for name in chosen]

    def _message(self, queue: Queue) -> Message:
        return Message(
            exchange=queue.exchange,
            routing_key=queue.routing_key,
            body=encode_request(PING, {}, context={}, unique_id=self._random_bytes(16).hex()),
            properties=_PROPERTIES,
            done=lambda routed: self._answered(queue, routed),
        )

    def _answered(self, queue: Queue, routed: bool) -> None:
        now = self._monotonic()
        with self._lock:
            self._unanswered.discard(queue.name)
            self._silent_since = now if self._unanswered else None
            if routed:
                self._warned.pop(queue.name, None)
                return
            warn = now >= self._warned.get(queue.name, float("-inf")) + _REMIND_SECONDS
            if warn:
                self._warned[queue.name] = now
        if warn:
            LOG.warning(
                "what is published to the exchange %s with the key %s does not reach the queue %s: it is declared and bound "
                "again",
                queue.exchange,
                queue.routing_key,
                queue.name,
            )
        self._unreachable()
