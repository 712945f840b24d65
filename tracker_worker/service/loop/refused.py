# SPDX-License-Identifier: Apache-2.0
"""What becomes of messages that the broker does not take."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from tracker_worker.bus.base import Bus, Refusal, RefusedDeadLetter
from tracker_worker.counters import Counters
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import DeadLetterRow, Store

LOG = logging.getLogger(__name__)


class Refused:
    """The store keeps the dead letters, and the nodes of notifications wait. ``add`` may be called on any thread, ``keep`` only
    on the engine's thread."""

    def __init__(self, *, store: Store, bus: Bus, relay: Relay, counters: Counters, clock: Callable[[], int]) -> None:
        self._store = store
        self._bus = bus
        self._relay = relay
        self._counters = counters
        self._clock = clock
        self._refusals: deque[Refusal] = deque()

    def add(self, refusals: Sequence[Refusal]) -> None:
        """The broker does not take these messages."""
        self._refusals.extend(refusals)

    def bodies(self) -> list[bytes]:
        """The bodies of the dead letters that wait for the store. Any thread."""
        return [each.delivery.body for each in list(self._refusals) if isinstance(each, RefusedDeadLetter)]

    def keep(self) -> None:
        """Keep what was added. Raises StoreUnavailable; then what is not kept yet waits for the next call."""
        while self._refusals:
            self._keep(self._refusals[0])
            self._refusals.popleft()

    def _keep(self, refusal: Refusal) -> None:
        if not isinstance(refusal, RefusedDeadLetter):
            self._relay.refused(refusal.key, refusal.reason)
            return
        delivery = refusal.delivery
        row = DeadLetterRow(
            host=delivery.source,
            parked_at=self._clock(),
            reason=refusal.reason,
            exchange=delivery.exchange,
            routing_key=delivery.routing_key,
            properties=refusal.properties,
            headers=refusal.headers,
            body=delivery.body,
        )
        dropped = self._store.keep_dead_letters([row])
        LOG.error("the broker does not take a dead letter (%s): the store keeps it", refusal.broker_error)
        if dropped:
            self._counters.add("dropped_dead_letters", dropped)
            LOG.error("the store had no room for %d older dead letters: they are dropped", dropped)
        self._bus.receiver.settle([delivery])
