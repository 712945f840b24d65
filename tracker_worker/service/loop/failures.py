# SPDX-License-Identifier: Apache-2.0
"""The ends of items that cannot be done: calls whose time is up, and messages that fail where others do not."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tracker_worker.bus.base import Bus, Settlement
from tracker_worker.counters import Counters
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.loop.backlog import Backlog, Lane
from tracker_worker.service.loop.outage import Outage
from tracker_worker.service.requests.items import Item, Part, host_of, request_of
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.text import described
from tracker_worker.wire.reply import answer, parking_reason, parks

LOG = logging.getLogger(__name__)

# A call gets StoreUnavailable if its answer could come later than this time before its deadline.
_MARGIN_SECONDS = 0.5
# The engine makes this many attempts at a cast whose handling fails unexpectedly; then it parks the cast.
_MOST_ATTEMPTS = 3


class Failures:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        ledgers: Ledgers,
        backlog: Backlog,
        outage: Outage,
        ended: Callable[[PendingRequest, Exception], None],
        counters: Counters,
        clock: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """``ended`` gets each request that ends here with an error. ``clock`` returns microseconds, ``monotonic`` seconds."""
        self._store = store
        self._bus = bus
        self._ledgers = ledgers
        self._backlog = backlog
        self._outage = outage
        self._ended = ended
        self._counters = counters
        self._clock = clock
        self._monotonic = monotonic

    def drop_lost(self) -> None:
        """Drop the requests whose connection is lost: they come again."""
        current = self._bus.receiver.is_current

        def comes_again(item: Item) -> bool:
            request = request_of(item)
            if request is None or current(request.delivery):
                return False
            request.end_heartbeat()
            return True

        self._counters.add("dropped_deliveries", self._backlog.keep(lambda item: not comes_again(item)))

    def end_late_calls(self) -> None:
        """Answer the calls of an outage that cannot wait for the end of another attempt."""
        for lane in self._backlog.lanes():
            error = lane.unavailable or self._outage.error
            if error is not None and lane is not self._backlog.free and lane.items:
                self._end_late_calls_of(lane, error)
        self._backlog.end_empty()

    def _end_late_calls_of(self, lane: Lane, error: StoreUnavailable) -> None:
        now = self._monotonic()
        attempt_seconds = max(lane.attempt_seconds, self._outage.seconds)
        latest = max(now, lane.resume_at) + attempt_seconds + _MARGIN_SECONDS

        def waits(item: Item) -> bool:
            request = request_of(item)
            if isinstance(item, Part) and item.whole.ended:
                return False
            if request is None or request.deadline > latest:
                return True
            if request.deadline <= now:
                request.end_heartbeat()
                self._bus.sender.send([Settlement(delivery=request.delivery)])
            else:
                self._end(request, error)
            if isinstance(item, Part):
                item.whole.ended = True
            return False

        lane.keep(waits)

    def unstorable(self, lane: Lane, items: Sequence[Item], error: Exception) -> None:
        """The store has refused ``items`` of the lane. If the store can write at all, attempt half of them, down to the one
        that it cannot keep. Raises StoreUnavailable: the store cannot write."""
        host = next(
            host for item in items if (host := host_of(item)) is not None
        )  # without a host there is nothing to store
        self._store.probe(self._ledgers.get(host).id, self._clock())
        self._counters.add("halved_batches")
        if len(items) > 1:
            LOG.warning("%d messages cannot be stored together, half of them are tried: %s", len(items), error)
            lane.halve(items)
        else:
            LOG.error("a message cannot be stored: %s", described(error))
            self.fail(lane, items[0], error)

    def fail(self, lane: Lane, item: Item, error: Exception) -> None:
        """Handle an item of the lane whose decision or storage failed unexpectedly. A call gets the error immediately. A
        cast gets several attempts and is then parked; the store counts the attempts, so that a restart does not start the
        count again. Raises StoreUnavailable: the attempts cannot be counted."""
        request = request_of(item)
        if (
            request is not None
            and request.reply_to is None
            and request.unique_id is not None
            and self._store.count_attempt(request.unique_id, self._clock()) < _MOST_ATTEMPTS
        ):
            lane.pause(self._monotonic())
            return
        lane.keep(lambda other: other is not item)
        lane.whole_again()
        if isinstance(item, Part):
            if item.whole.ended:
                return  # because of another host
            item.whole.ended = True
        if request is not None:
            self._end(request, error)
        elif not isinstance(item, PendingRequest | Part) and item.failed is not None:
            item.failed(error)

    def _end(self, request: PendingRequest, error: Exception) -> None:
        request.end_heartbeat()
        reason = parking_reason(error) if parks(error) else ""
        self._bus.sender.send([request.conclusion(answer(request.reply_to, error=error), reason)])
        self._ended(request, error)
