# SPDX-License-Identifier: Apache-2.0
"""When the publisher's channel is replaced because a queue refuses messages that it could take.

RabbitMQ 3.10 keeps, for each channel and quorum queue, the queue's leader as it was at the channel's first message. If that
node is down, the channel refuses this message and every later one, although the queue has a new leader (the function
``enqueue/3`` of rabbit_fifo_client.erl; observed with 3.10.8). A new channel knows the new leader.

A full queue answers in the same way, so a new channel is worth a try only from time to time."""

from __future__ import annotations

_SECONDS_BETWEEN = 1.0
_PATIENCE_SECONDS = 1.0


class Renewal:
    """Times are seconds on the monotonic clock."""

    def __init__(self) -> None:
        self._wanted = False
        self._not_before = 0.0
        self._give_up_at: float | None = None

    def want(self, refusals: int) -> None:
        """A queue has refused so many messages in a row. Every power of two asks for a new channel, so that a queue that is
        full for hours asks ever more rarely."""
        self._wanted = self._wanted or (refusals > 1 and refusals & (refusals - 1) == 0)

    def is_wanted(self, now: float) -> bool:
        """Whether nothing more is to be written to the present channel."""
        return self._wanted and now >= self._not_before

    def is_due(self, now: float, unconfirmed: int) -> bool:
        """Whether to replace the channel now: the broker has answered everything, or has had time to. Only while it is
        wanted."""
        if self._give_up_at is None:
            self._give_up_at = now + _PATIENCE_SECONDS
        if unconfirmed and now < self._give_up_at:
            return False
        self._not_before = now + _SECONDS_BETWEEN
        return True

    def done(self) -> None:
        """There is a new channel."""
        self._wanted = False
        self._give_up_at = None
