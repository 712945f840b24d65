# SPDX-License-Identifier: Apache-2.0
"""Outbox -> bus: every notification at least once, in order per node.

The cursor of a node is the last sequence up to which the bus has confirmed everything. It is per node and on ``sequence``,
never on an order of the table's own: two writers may commit in another order than they numbered, and a row that becomes
visible late would be skipped for good.

Notifications that were just committed are handed over in memory. When the bus is slow, or after a start, rows are read from the
outbox instead, a limited number at a time, so that memory is bounded however long the broker was away.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_worker import faults
from tracker_worker.bus.base import Bus, Publication
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, Conflict, Store

LOG = logging.getLogger(__name__)

WINDOW = 1000
"""Most notifications between the relay and the bus's confirms."""
# Cursors are written with the next commit, or by themselves after so long without one. Confirms are looked at as often, since
# nobody wakes the engine for them.
_FLUSH_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 2.0


@dataclass(slots=True)
class _Track:
    """One node: ``sent`` up to this sequence, ``confirmed`` up to this one without a gap, and ``known`` to be in the outbox
    up to this one."""

    node_id: int
    sent: int
    confirmed: int
    known: int
    ahead: set[int] = field(default_factory=set)  # confirmed after a gap


class Relay:
    """``confirmed`` may be called from any thread; everything else belongs to the engine's thread. A host is relayed from
    ``take`` to ``drop``."""

    def __init__(self, store: Store, bus: Bus, *, wake: Callable[[], None]) -> None:
        """``wake`` has the engine's next step done soon."""
        self._store = store
        self._bus = bus
        self._wake = wake
        self._confirms: deque[Any] = deque()
        self._confirms_wanted = False
        self._tracks: dict[int, _Track] = {}
        self._lagging: dict[int, _Track] = {}  # those with sent < known
        self._in_flight = 0
        # Node id -> cursor, of the cursors that have moved since ``written``.
        self.moved: dict[int, int] = {}
        self._flush_at: float | None = None
        self._delay = _FLUSH_SECONDS

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has these notifications, by (node id, sequence)."""
        self._confirms.extend(keys)
        if self._confirms_wanted:
            self._wake()

    def take(self, host: HostLedger) -> None:
        """Relay this host's nodes, from their cursors on. A node that is relayed already goes on, with the notifications that
        another worker may have added. Raises StoreUnavailable."""
        new = any(ledger.id not in self._tracks for ledger in host)
        cursors = self._store.cursors(host.id) if new else {}
        for ledger in host:
            track = self._tracks.get(ledger.id)
            if track is None:
                cursor = cursors.get(ledger.id, 0)
                track = _Track(ledger.id, sent=cursor, confirmed=cursor, known=ledger.sequence)
                self._tracks[ledger.id] = track
            else:
                track.known = max(track.known, ledger.sequence)
            self._note(track)

    def drop(self, host: HostLedger) -> None:
        """Another worker relays this host."""
        for ledger in host:
            track = self._tracks.pop(ledger.id, None)
            if track is not None:
                self._in_flight -= track.sent - track.confirmed - len(track.ahead)
            self.moved.pop(ledger.id, None)
            self._lagging.pop(ledger.id, None)

    def offer(self, notifications: Iterable[Notification]) -> list[Publication]:
        """These notifications have been committed. Returns those that are to be published now; the relay reads the others from
        the outbox later."""
        ready = []
        for notification in notifications:
            track = self._tracks.get(notification.node_id)
            if track is None:
                continue
            track.known = max(track.known, notification.sequence)
            if notification.sequence == track.sent + 1 and self._in_flight < WINDOW:
                ready.append(self._publication(track, notification))
            else:
                self._note(track)
        return ready

    def step(self, now: float) -> float | None:
        """Take the confirms, read what lags, and write the cursors when it is time. ``now`` in seconds on the monotonic clock.

        Returns the seconds until the next step is due; None: nothing is on its way. An unavailable store puts the work off.
        """
        self._take_confirms()
        try:
            if self._lagging and self._in_flight < WINDOW // 2:
                self._catch_up()
            self._flush_when_due(now)
        except (StoreUnavailable, Conflict) as error:
            LOG.warning("the relay is put off: %s", error)
            self._delay = min(self._delay * 2, _LONGEST_DELAY_SECONDS)
            self._flush_at = now + self._delay
        self._confirms_wanted = bool(self._lagging)
        return None if self._flush_at is None else max(0.0, self._flush_at - now)

    def _flush_when_due(self, now: float) -> None:
        if not self.moved and self._in_flight <= 0 and not self._lagging:
            self._flush_at = None
        elif self._flush_at is None:
            self._flush_at = now + self._delay
        elif now >= self._flush_at:
            self.flush()
            self._delay = _FLUSH_SECONDS
            self._flush_at = now + self._delay if self._in_flight > 0 or self._lagging else None

    def flush(self) -> None:
        """Write the cursors that have moved, in a commit of their own. Raises StoreUnavailable, Conflict."""
        self._take_confirms()
        if cursors := dict(self.moved):
            if faults.hook is not None:
                faults.hook("before_cursor")
            self._store.commit(Commit(cursors=cursors))
            self.written(cursors)

    def written(self, cursors: dict[int, int]) -> None:
        """The store has these cursors."""
        for node_id, cursor in cursors.items():
            if self.moved.get(node_id) == cursor:
                del self.moved[node_id]
        if cursors:
            self._flush_at = None

    def _take_confirms(self) -> None:
        confirms = self._confirms
        while confirms:
            node_id, sequence = confirms.popleft()
            track = self._tracks.get(node_id)
            if track is None or not track.confirmed < sequence <= track.sent or sequence in track.ahead:
                continue
            self._in_flight -= 1
            track.ahead.add(sequence)
            self._advance(track)

    def _advance(self, track: _Track) -> None:
        while track.confirmed + 1 in track.ahead:
            track.confirmed += 1
            track.ahead.discard(track.confirmed)
            self.moved[track.node_id] = track.confirmed

    def _note(self, track: _Track) -> None:
        if track.sent < track.known:
            self._lagging[track.node_id] = track
        else:
            self._lagging.pop(track.node_id, None)

    def _catch_up(self) -> None:
        """Read from the outbox what was not handed over, as far as the window has room. Raises StoreUnavailable."""
        for track in list(self._lagging.values()):
            room = WINDOW - self._in_flight
            if room <= 0:
                return
            found = self._store.outbox(track.node_id, after=track.sent, limit=room)
            ready = []
            for notification in found:
                self._skip(track, notification.sequence - 1)
                ready.append(self._publication(track, notification))
            if not found:
                self._skip(track, track.known)
            self._lagging.pop(track.node_id)  # and to the end where more is left: the other nodes have their turn first
            self._note(track)
            if ready:
                self._bus.sender.send(ready)

    def _skip(self, track: _Track, sequence: int) -> None:
        """The outbox has no rows up to this sequence: notifications were switched off when these were issued."""
        if track.sent >= sequence:
            return
        track.ahead.update(range(track.sent + 1, sequence + 1))
        track.sent = sequence
        self._advance(track)

    def _publication(self, track: _Track, notification: Notification) -> Publication:
        track.sent = notification.sequence
        self._in_flight += 1
        return Publication(
            key=(notification.node_id, notification.sequence),
            priority=notification.priority,
            body=notification.encode(),
        )
