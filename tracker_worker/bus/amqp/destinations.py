# SPDX-License-Identifier: Apache-2.0
"""What waits for each queue. A queue that refuses messages, or that does not exist, holds up only its own messages.

                       returned, or refused
    open: many messages -------------------> held: nothing is sent until ``retry_at``
     on the wire  ^                            |                     ^
                  | confirmed                  v                     | returned, or refused: the delay doubles
                  +-------------------------- one probe, the first message in order

After a probe that was taken the window grows with each confirm, so that a queue with room for a few messages gets a few.
"""

from __future__ import annotations

import heapq
import itertools
import logging
from collections import deque
from collections.abc import Iterable, Sequence

from tracker_worker.bus.amqp.outgoing import FOREVER, RETRY_SECONDS, WINDOW, WINDOW_BYTES, Destination, Message
from tracker_worker.bus.amqp.renewal import Renewal
from tracker_worker.bus.amqp.unclaimed import Unclaimed

LOG = logging.getLogger(__name__)

LONGEST_DELAY_SECONDS = 5.0
# A client that reconnects declares its reply queue again within about a second.
_LONGEST_REPLY_DELAY_SECONDS = 1.0
# With more missing reply queues than this the delay grows, so that probes are not all that the publisher does.
_PROBES_PER_SECOND = 200
_SWEEP_ABOVE = 1024


class Destinations:
    """The destinations by routing key. Used under the write turn; ``now`` is in seconds on the monotonic clock.

    ``released`` are the messages that the publisher has to write next, in this order. ``bytes`` counts the bodies of every
    message that has entered and not left. ``own`` are the queues that the publisher declares itself: the first try after one of
    them was missing does not wait."""

    def __init__(self, own: Iterable[str]) -> None:
        self._own = frozenset(own)
        self.by_key: dict[str, Destination] = {}
        self.released: deque[Message] = deque()
        self.unclaimed = Unclaimed()
        self.renewal = Renewal()
        self.bytes = 0
        self._retries: list[tuple[float, int, Destination]] = []
        self._order = itertools.count()
        self._sweep_above = _SWEEP_ABOVE
        self._missing_replies = 0

    def add(self, key: str) -> Destination:
        """A destination that has no messages yet."""
        if len(self.by_key) >= self._sweep_above:
            for name in [name for name, kept in self.by_key.items() if kept.is_idle()]:
                del self.by_key[name]
            self._sweep_above = max(_SWEEP_ABOVE, 2 * len(self.by_key))
        return self.by_key.setdefault(key, Destination(key))

    def kept(self) -> int:
        """The number of messages that are here and not on the wire. Any thread."""
        waiting = sum(len(each.waiting) + len(each.returning) for each in list(self.by_key.values()))
        return waiting + len(self.released)

    # --- messages that come ------------------------------------------------------------------------------------------

    def hold(self, message: Message, now: float) -> None:
        """Take a message, which has entered, for a destination that is closed."""
        if message.is_late(now):
            self._drop(message)
        elif message.retry_before is None:
            self.leave(message)  # a heartbeat or a probe, which would be out of date
        else:
            message.destination.waiting.append(message)
            if message.destination.held:
                self._settle(message)

    def _settle(self, message: Message) -> None:
        """The destination of this message does not take it for now: nothing else waits for an answer meanwhile."""
        if message.retry_before == FOREVER:
            return
        message.notify_unrouted()
        message.attempts = max(1, message.attempts)
        for dropped in self.unclaimed.add(message):
            if dropped in dropped.destination.waiting:
                dropped.destination.waiting.remove(dropped)  # it is the first one
            elif dropped in dropped.destination.returning:
                dropped.destination.returning.remove(dropped)
            else:
                dropped.retry_before = 0.0  # on the wire, as a probe: not again
                continue
            self.leave(dropped)

    def leave(self, message: Message) -> None:
        """The message is done with."""
        self.bytes -= message.size
        self.unclaimed.discard(message)

    def _drop(self, message: Message) -> None:
        if message.done is None and message.retry_before is not None:
            self.unclaimed.expired()
        message.notify_unrouted()
        self.leave(message)

    # --- answers of the broker -----------------------------------------------------------------------------------------

    def answered(self, message: Message) -> None:
        """The message is not on the wire any more."""
        destination = message.destination
        destination.out -= 1
        destination.out_bytes -= message.size

    def confirmed(self, destination: Destination, now: float) -> None:
        """A closed destination has taken a message."""
        if destination.held and destination.probing:
            destination.held = destination.probing = False
            destination.refusals = 0
            destination.delay = RETRY_SECONDS
            if destination.name not in self._own:
                self._missing_replies -= 1
            if destination.warned:
                destination.warned = False
                LOG.info(
                    "%s takes messages again; %d messages (%d bytes) waited", destination.name, *destination.waits()
                )
        if not destination.held:
            destination.window = min(WINDOW, destination.window + 1)
        self.fill(destination, now)

    def refused(self, message: Message, now: float, *, missing: bool) -> None:
        """The message, which is not on the wire any more, was returned (``missing``) or refused."""
        if message.retry_before is None:
            if message.done is not None:
                message.done(not missing)  # a queue that refuses is there
            self.given_up(message, now)
            return
        late = message.is_late(now)
        if late:
            self._drop(message)
        else:
            message.destination.returning.append(message)
        self.close(message.destination, now, missing=missing)
        if not late:
            self._settle(message)

    def given_up(self, message: Message, now: float) -> None:
        """The message, which is not on the wire any more, is not sent again."""
        destination = message.destination
        self.leave(message)
        if destination.probing:
            destination.probing = False
            self.postpone(destination, now)
        elif destination.closed:
            self.fill(destination, now)

    def close(self, destination: Destination, now: float, *, missing: bool, reason: str = "") -> None:
        """Hold the messages of this destination back: it takes none."""
        own = destination.name in self._own
        destination.missing = missing
        if not destination.held:
            destination.held = destination.closed = True
            destination.window = 1
            if not own:
                self._missing_replies += 1
            destination.delay = RETRY_SECONDS
            # Our own queue most likely exists as soon as it is declared.
            destination.retry_at = now if missing and own and not reason else now + destination.delay
            if missing:
                self._warn(destination, reason)
            for message in list(destination.waiting):
                self._settle(message)
        elif destination.probing:
            destination.probing = False
            longest = LONGEST_DELAY_SECONDS
            if not own:
                longest = max(_LONGEST_REPLY_DELAY_SECONDS, self._missing_replies / _PROBES_PER_SECOND)
            destination.delay = min(destination.delay * 2, longest)
            destination.retry_at = now + destination.delay
            self._warn(destination, reason)
        else:
            return
        destination.refusals = 0 if missing else destination.refusals + 1
        self.renewal.want(destination.refusals)
        heapq.heappush(self._retries, (destination.retry_at, next(self._order), destination))

    def lack_an_exchange(self, unconfirmed: Iterable[Message], reason: str, now: float) -> bool:
        """The broker has closed the channel because an exchange of these messages is missing or forbidden. False: none of them
        can be the reason, because all go through the default exchange, which cannot be missing."""
        suspected = [message for message in unconfirmed if message.exchange]
        for destination in dict.fromkeys(message.destination for message in suspected):
            self.close(destination, now, missing=True, reason=reason)
        for message in suspected:
            if message.retry_before is None:
                message.notify_unrouted()  # it is not tried again, and its exchange may be the one that is missing
        return bool(suspected)

    def _warn(self, destination: Destination, reason: str) -> None:
        if not destination.warned:
            destination.warned = True
            if reason:
                why = f"{destination.name} takes no message ({reason})"
            elif destination.missing:
                why = f"no queue for {destination.name}"
            else:
                why = f"{destination.name} refuses messages: it is full, or has failed"
            # A client that is gone is nothing to be woken for; what is dropped for it is a warning of its own.
            level = logging.WARNING if destination.name in self._own else logging.INFO
            LOG.log(level, "%s; %d messages (%d bytes) wait", why, *destination.waits())

    # --- messages that go ----------------------------------------------------------------------------------------------

    def fill(self, destination: Destination, now: float) -> None:
        """Release as many messages as the destination's window has room for."""
        waiting = destination.waiting
        if not destination.held and not destination.suspected:
            if destination.returning and not destination.out:
                destination.put_returning_in_front()
            while (
                waiting
                and not destination.returning
                and destination.out < destination.window
                and destination.out_bytes < WINDOW_BYTES
            ):
                message = waiting.popleft()
                if message.is_late(now):
                    self._drop(message)
                else:
                    self.release(message)
        destination.closed = (
            destination.held
            or destination.suspected
            or bool(waiting or destination.returning)
            or destination.out >= destination.window
            or destination.out_bytes >= WINDOW_BYTES
        )

    def release(self, message: Message) -> None:
        """Have the publisher write this message next."""
        self.count(message)
        self.released.append(message)

    def count(self, message: Message) -> None:
        """The message is written next."""
        message.destination.out += 1
        message.destination.out_bytes += message.size

    def due_at(self) -> float:
        """When the next destination is to be tried again."""
        return self._retries[0][0] if self._retries else FOREVER

    def due(self, now: float) -> list[Destination]:
        """The destinations that are to be tried again now. The caller declares those that are its own and ``missing``, and
        calls ``probe``."""
        found = []
        while self._retries and self._retries[0][0] <= now:
            at, _, destination = heapq.heappop(self._retries)
            if not destination.held or destination.retry_at != at or destination.probing:
                continue
            if destination.out or destination.suspected:
                self.postpone(destination, now + RETRY_SECONDS)  # the broker has not answered for earlier messages
            else:
                found.append(destination)
        return found

    def postpone(self, destination: Destination, until: float) -> None:
        destination.retry_at = until
        heapq.heappush(self._retries, (until, next(self._order), destination))

    def probe(self, destination: Destination, now: float) -> None:
        """Release the first message that waits."""
        destination.put_returning_in_front()
        waiting = destination.waiting
        while waiting:
            message = waiting.popleft()
            if message.is_late(now):
                self._drop(message)
                continue
            destination.probing = True
            self.release(message)
            return
        destination.held = destination.warned = False
        if destination.name not in self._own:
            self._missing_replies -= 1
        self.fill(destination, now)

    # --- the connection --------------------------------------------------------------------------------------------------

    def lost(self, unconfirmed: Sequence[Message], accused: set[Message]) -> None:
        """Nothing is on the wire any more. These messages wait again, but for the ``accused`` ones, which the caller keeps."""
        for message in (*unconfirmed, *self.released):
            message.returned = False
            if message in accused:
                continue
            if message.retry_before is None:
                self.leave(message)
            else:
                message.destination.returning.append(message)
        self.released.clear()
        for destination in self.by_key.values():
            destination.out = destination.out_bytes = 0
            destination.probing = False
            if destination.returning:
                destination.put_returning_in_front()
                destination.closed = True

    def resume(self, now: float, *, connected: bool) -> None:
        """There is a new channel. On a new connection (``connected``) every destination is tried again immediately."""
        self._retries.clear()
        for destination in self.by_key.values():
            if destination.held:
                self.postpone(destination, now if connected else destination.retry_at)
            else:
                self.fill(destination, now)

    def suspect(self, messages: Iterable[Message], now: float) -> None:
        """These messages, and no others, are to be tried alone: later ones for the same destinations wait for them."""
        suspected = {message.destination for message in messages}
        for destination in list(self.by_key.values()):
            if destination.suspected is not (destination in suspected):
                destination.suspected = destination in suspected
                self.fill(destination, now)

    def waits(self) -> bool:
        """Whether a message waits for something else than for its queue."""
        return any((d.waiting or d.returning) and not d.held for d in self.by_key.values())
