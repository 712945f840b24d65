# SPDX-License-Identifier: Apache-2.0
"""Messages that the broker does not take: the store keeps the dead letters, and the nodes of notifications wait."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from tracker_worker.bus.base import Bus, Refusal, RefusedDeadLetter
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import DeadLetterRow, Store

LOG = logging.getLogger(__name__)


class RefusedMessages:
    """Any thread may call ``add``; ``keep`` belongs to the engine's thread."""

    def __init__(
        self, *, store: Store, bus: Bus, relay: Relay, clock: Callable[[], int], count: Callable[[str, int], None]
    ) -> None:
        """``clock`` gives microseconds; ``count`` adds to a counter."""
        self._store = store
        self._bus = bus
        self._relay = relay
        self._clock = clock
        self._count = count
        self._waiting: deque[Refusal] = deque()

    def add(self, refusals: Sequence[Refusal]) -> None:
        """The broker does not take these messages; ``keep`` has to be called."""
        self._waiting.extend(refusals)

    def keep(self) -> None:
        """Have the store keep what waits. Raises StoreUnavailable: what could not be kept waits on."""
        while self._waiting:
            self._keep(self._waiting[0])
            self._waiting.popleft()

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
            self._count("dropped_dead_letters", dropped)
            LOG.error("the store had no room for %d older dead letters: they are dropped", dropped)
        self._bus.receiver.settle([delivery])
