# SPDX-License-Identifier: Apache-2.0
"""The broker's alarm: memory or disk is short, and it reads nothing more from connections that publish.

The broker says so with connection.blocked, on a connection that declared the capability and has published since the alarm began
(RabbitMQ's documentation, "Blocked Connection Notifications"). While it does not read, bytes that were sent stay
unacknowledged, however well the network works: TCP's own time limit must not end the connection.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from typing import Any

from tracker_worker.bus.base import Blocked

LOG = logging.getLogger(__name__)

_REASON_CHARACTERS = 200


class Alarm:
    """The alarm as one publishing connection knows it. ``state`` may be read by any thread; the methods belong to the
    connection's thread."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self.state: Blocked | None = None
        """None: the broker takes messages, as far as the connection knows."""
        self._sock: Any = None
        self._tcp_milliseconds = 0

    def watch(self, sock: Any) -> None:
        """A new connection is open on the socket."""
        self.state = None
        self._sock = sock
        self._tcp_milliseconds = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    def forget(self) -> None:
        """The connection has ended: the next one learns of an alarm when it publishes."""
        self.state = None
        self._sock = None

    def began(self, reason: str) -> None:
        if self.state is None:
            reason = ascii(reason[:_REASON_CHARACTERS])[1:-1]
            self.state = Blocked(reason=reason, since=self._monotonic())
            self._limit(0)
            LOG.warning("the broker has blocked publishing (alarm): %s", reason)

    def ended(self) -> None:
        if self.state is not None:
            seconds = self._monotonic() - self.state.since
            self.state = None
            self._limit(self._tcp_milliseconds)
            LOG.warning("the broker takes messages again after %.0f s", seconds)

    def _limit(self, milliseconds: int) -> None:
        """Set for how long sent bytes may stay unacknowledged; 0: the system's default, minutes to hours."""
        if self._sock is not None:
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
