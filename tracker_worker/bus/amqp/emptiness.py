# SPDX-License-Identifier: Apache-2.0
"""Finds out whether the queues of hosts have been empty, on the consuming connection.

A passive declaration tells how many messages of a queue are ready. It has a channel of its own, because the broker closes the
channel on which a queue is looked for that does not exist. Its answer may overtake deliveries that the queue has sent to the
consuming channel before; the answer to something that is asked on that channel afterwards cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import BrokerSettings

# So many queues are looked at, one after the other, before the connection's thread does something else.
_MOST_LOOKS = 50
# A queue that is not empty is not looked at more often.
_PAUSE_SECONDS = 0.5


class Emptiness:
    """Belongs to the thread of the consuming connection; ``want`` may be called on any thread."""

    def __init__(self, settings: BrokerSettings, emptied: Callable[[str], None]) -> None:
        self._settings = settings
        self._emptied = emptied
        self._wanted: tuple[str, ...] = ()
        self._left: list[str] = []  # of those, the ones to look at before the pause
        self._empty: list[str] = []  # those that are reported when the broker has answered on the consuming channel
        self._connection: Any = None
        self._answered = False
        self._not_before = 0.0

    def want(self, hosts: Sequence[str]) -> None:
        """Report each of these hosts once its queue was empty; none of the hosts that were wanted before."""
        self._wanted = tuple(hosts)

    def opened(self, connection: Any) -> None:
        """There is a new connection, and its queues are consumed."""
        self._connection = connection

    def due(self, now: float) -> bool:
        """Whether ``look`` has something to do at ``now`` (seconds on the monotonic clock)."""
        if self._empty or self._connection is None or now < self._not_before:
            return False
        return bool(self._wanted)

    def look(self, now: float) -> bool:
        """Look at some queues. Waits for the broker's answers. Returns whether some are empty: then ask the broker something on
        the consuming channel, and call ``answered`` when its answer has arrived."""
        if not self._left:
            self._left = list(self._wanted)
        looked, self._left = self._left[:_MOST_LOOKS], self._left[_MOST_LOOKS:]
        wanted = set(self._wanted)
        queues = [topology.host_queue(self._settings, host) for host in looked if host in wanted]
        self._empty = [queue.source for queue in topology.empty(self._connection, queues)]
        if not self._left:
            self._not_before = now + _PAUSE_SECONDS
        return bool(self._empty)

    def answered(self) -> None:
        """Everything has arrived that the queues which were empty had delivered."""
        self._answered = True

    def report(self) -> None:
        """Report those queues, if there are any. Call it when everything is handed over that has arrived."""
        if not self._answered:
            return
        self._answered = False
        empty, self._empty = self._empty, []
        self._wanted = tuple(host for host in self._wanted if host not in empty)
        for host in empty:
            self._emptied(host)

    def forget(self) -> None:
        """The connection is lost."""
        self._connection, self._answered = None, False
        self._empty, self._left = [], []
