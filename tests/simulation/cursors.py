# SPDX-License-Identifier: Apache-2.0
"""A cursor is never ahead of what billing has heard: everything up to it has come to the queues of its topic."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from tests.invariants.record import Heard
from tests.simulation.watch import Violation
from tracker_worker.store.base import EVERY_TOPIC, Commit, Store

_Track = tuple[str, str, str, str]
"""Ledger_id, topic, host and node."""


class Cursors:
    """Reads the notifications when a commit has cursors, and not before."""

    def __init__(self, store: Callable[[], Store], notifications: Sequence[Heard], topics: Sequence[str]) -> None:
        """``store`` is the database. ``notifications``: those that billing has heard, in order; they become more."""
        self._store = store
        self._notifications = notifications
        self._topics = topics
        self._read = 0
        self._reached: dict[_Track, int] = {}
        self._ahead: dict[_Track, set[int]] = defaultdict(set)
        self._places: dict[int, tuple[str, str]] = {}
        self._went_back = False

    def went_back(self) -> None:
        """The database is as it was before. A history that begins now says with its first notifications where it goes on."""
        self._catch_up()
        self._went_back = True
        self._places.clear()

    def committed(self, commit: Commit) -> None:
        """The store has taken a commit. Raises Violation."""
        self._note_beginnings(commit)
        ledger_id = commit.ledger_id
        if ledger_id is None or not commit.cursors:
            return
        self._catch_up()
        for (stream_id, topic), cursor in commit.cursors.items():
            host, node = self._place(stream_id)
            heard = self._reached.get((ledger_id, topic, host, node), cursor if self._went_back else 0)
            if topic != EVERY_TOPIC and cursor > heard:
                raise Violation(
                    f"the cursor of {host}/{node} for {topic} is {cursor}, and billing has heard all up to {heard}"
                )

    def _note_beginnings(self, commit: Commit) -> None:
        """Of a history that this commit begins, billing has heard nothing."""
        for one in commit.notifications if commit.history is not None else ():
            said = json.loads(one.payload)
            for topic in self._topics:
                self._reached[said["ledger_id"], topic, said["host"], said["node"]] = said["previous_sequence"]

    def _catch_up(self) -> None:
        for one in self._notifications[self._read :]:
            payload: Mapping[str, object] = one.payload
            topic = one.queue.partition(".")[0]
            track = str(payload["ledger_id"]), topic, str(payload["host"]), str(payload["node"])
            ahead = self._ahead[track]
            ahead.add(one.sequence)
            reached = self._reached.get(track, one.sequence - 1 if self._went_back else 0)
            while reached + 1 in ahead:
                reached += 1
                ahead.discard(reached)
            self._reached[track] = reached
        self._read = len(self._notifications)

    def _place(self, stream_id: int) -> tuple[str, str]:
        if stream_id not in self._places:
            store = self._store()
            streams = [stream for name in store.host_names() for stream in store.streams(name)]
            self._places = {each.id: (each.host, each.node) for each in [*streams, *store.left_streams()]}
        return self._places[stream_id]
