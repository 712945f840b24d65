# SPDX-License-Identifier: Apache-2.0
"""Answers whose reply queue is missing or full: they wait in one place, with one limit over all reply queues."""

from __future__ import annotations

import logging
from collections import OrderedDict

from tracker_worker.bus.amqp.outgoing import Message

LOG = logging.getLogger(__name__)

MOST_ANSWERS = 4096
MOST_BYTES = 16 * 1024 * 1024
_REPORT_SECONDS = 60.0


class Unclaimed:
    """Counts these answers and their bytes, and drops the oldest over the limit. What was dropped is reported once a minute.

    An answer here is also in a queue of its destination, or on the wire as the destination's probe. It is used under the write
    turn."""

    def __init__(self) -> None:
        self._answers: OrderedDict[int, Message] = OrderedDict()
        self.bytes = 0
        self._dropped = 0
        self.dropped_in_all = 0
        self._report_at = 0.0

    def __len__(self) -> int:
        return len(self._answers)

    def add(self, message: Message) -> list[Message]:
        """Keep ``message``. Returns the oldest ones that are over the limit: the caller forgets them."""
        if message.number in self._answers:
            return []
        self._answers[message.number] = message
        self.bytes += message.size
        over = []
        while len(self._answers) > MOST_ANSWERS or self.bytes > MOST_BYTES:
            oldest = next(iter(self._answers.values()))
            self.discard(oldest)
            over.append(oldest)
        self._dropped += len(over)
        self.dropped_in_all += len(over)
        return over

    def discard(self, message: Message) -> None:
        """The message has been published, or is forgotten. Does nothing for one that is not here."""
        if self._answers.pop(message.number, None) is not None:
            self.bytes -= message.size

    def expired(self) -> None:
        """Count one answer that waited for its queue for as long as a client may need."""
        self._dropped += 1
        self.dropped_in_all += 1

    def report(self, now: float) -> None:
        """Log how many answers were dropped, at most once a minute. ``now``: monotonic clock, seconds."""
        if self._dropped and now >= self._report_at:
            LOG.warning(
                "%d answers were dropped because their reply queues do not take them; %d answers (%d bytes) wait",
                self._dropped,
                len(self._answers),
                self.bytes,
            )
            self._dropped = 0
            self._report_at = now + _REPORT_SECONDS
