# SPDX-License-Identifier: Apache-2.0
"""A cursor is never ahead of what billing has heard: everything up to it has come to the queues of its topic."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from tests.invariants.record import Heard
from tests.simulation.watch import Violation
from tracker_worker.store.base import EVERY_TOPIC, Commit, Store

_Track = tuple[str, str, str]
"""Topic, host and node."""


class Cursors:
    """Reads the notifications when a commit has cursors, and not before."""

    def __init__(self, store: Callable[[], Store], notifications: Sequence[Heard]) -> None:
        """``store`` is the database. ``notifications``: those that billing has heard, in order; they become more."""
        self._store = store
        self._notifications = notifications
        self._read = 0
        self._reached: dict[_Track, int] = defaultdict(int)
        self._ahead: dict[_Track, set[int]] = defaultdict(set)
        self._places: dict[int, tuple[str, str]] = {}
        self.unknown = False
        """Whether a cursor may be ahead for a good reason."""

    def committed(self, commit: Commit) -> None:
        """The store has taken a commit. Raises Violation."""
        if self.unknown or not commit.cursors:
            return
        self._catch_up()
        for (stream_id, topic), cursor in commit.cursors.items():
            host, node = self._place(stream_id)
            if topic != EVERY_TOPIC and cursor > self._reached[topic, host, node]:
                heard = self._reached[topic, host, node]
                raise Violation(
                    f"the cursor of {host}/{node} for {topic} is {cursor}, and billing has heard all up to {heard}"
                )

    def _catch_up(self) -> None:
        for one in self._notifications[self._read :]:
            payload: Mapping[str, object] = one.payload
            track = one.queue.partition(".")[0], str(payload["host"]), str(payload["node"])
            ahead = self._ahead[track]
            ahead.add(one.sequence)
            while self._reached[track] + 1 in ahead:
                self._reached[track] += 1
                ahead.discard(self._reached[track])
        self._read = len(self._notifications)

    def _place(self, stream_id: int) -> tuple[str, str]:
        if stream_id not in self._places:
            store = self._store()
            streams = [stream for name in store.host_names() for stream in store.streams(name)]
            self._places = {each.id: (each.host, each.node) for each in [*streams, *store.left_streams()]}
        return self._places[stream_id]
