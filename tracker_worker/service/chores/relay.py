# SPDX-License-Identifier: Apache-2.0
"""Outbox -> bus: every notification at least once, in order per node.

The cursor of a node is the last sequence up to which the bus has confirmed everything. It is per node and on ``sequence``,
never on an order of the table's own: two writers may commit in another order than they numbered, and a row that becomes
visible late would be skipped for good.

What has just been committed is handed over in memory. When the bus is behind, or after a start, rows are read from the
outbox instead, a limited number at a time, so that memory is bounded however long the broker was away.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tracker_worker.bus.base import Bus, Outgoing
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.store.base import Notification, Store
from tracker_worker.wire.envelope import encode_notification

WINDOW = 1000
"""Most notifications between the relay and the bus's confirm."""


@dataclass(slots=True)
class _Track:
    """One node: ``sent`` up to here, ``confirmed`` up to here without a gap, ``known`` to be in the outbox up to here."""

    node_id: int
    sent: int
    confirmed: int
    known: int
    ahead: set[int] = field(default_factory=set)  # confirmed behind a gap


class Relay:
    """Belongs to the engine's thread. A host is relayed from ``take`` to ``drop``."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus
        self._tracks: dict[int, _Track] = {}
        self._behind: dict[int, _Track] = {}  # those with sent < known
        self._in_flight = 0
        self._moved: dict[int, int] = {}

    def take(self, host: HostLedger) -> None:
        """Relay this host's nodes, from their cursors on. A node that is relayed already goes on, with what another worker
        may have added to it."""
        new = any(ledger.id not in self._tracks for ledger in host)
        cursors = self._store.cursors(host.id) if new else {}
        for ledger in host:
            track = self._tracks.get(ledger.id)
            if track is None:
                cursor = cursors.get(ledger.id, 0)
                self._tracks[ledger.id] = _Track(ledger.id, sent=cursor, confirmed=cursor, known=ledger.sequence)
            else:
                track.known = max(track.known, ledger.sequence)
            self._note(self._tracks[ledger.id])

    def _note(self, track: _Track) -> None:
        if track.sent < track.known:
            self._behind[track.node_id] = track
        else:
            self._behind.pop(track.node_id, None)

    def drop(self, host: HostLedger) -> None:
        """Somebody else relays this host."""
        for ledger in host:
            track = self._tracks.pop(ledger.id, None)
            if track is not None:
                self._in_flight -= track.sent - track.confirmed - len(track.ahead)
            self._moved.pop(ledger.id, None)
            self._behind.pop(ledger.id, None)

    def offer(self, notifications: Iterable[Notification]) -> None:
        """They have been committed."""
        ready = []
        for notification in notifications:
            track = self._tracks.get(notification.node_id)
            if track is None:
                continue
            track.known = max(track.known, notification.sequence)
            if notification.sequence == track.sent + 1 and self._in_flight < WINDOW:
                ready.append(self._send(track, notification))
            else:
                self._note(track)
        if ready:
            self._bus.notify(ready)

    def confirmed(self, key: tuple[int, int]) -> None:
        """The bus has this (node id, sequence)."""
        node_id, sequence = key
        track = self._tracks.get(node_id)
        if track is None or not track.confirmed < sequence <= track.sent or sequence in track.ahead:
            return
        self._in_flight -= 1
        track.ahead.add(sequence)
        self._advance(track)

    def _advance(self, track: _Track) -> None:
        while track.confirmed + 1 in track.ahead:
            track.confirmed += 1
            track.ahead.discard(track.confirmed)
            self._moved[track.node_id] = track.confirmed

    def moved(self) -> dict[int, int]:
        """Node id -> cursor, of those that moved since ``written``."""
        return dict(self._moved)

    def written(self, cursors: dict[int, int]) -> None:
        """The store has these cursors."""
        for node_id, cursor in cursors.items():
            if self._moved.get(node_id) == cursor:
                del self._moved[node_id]

    def waits(self) -> bool:
        """Whether confirms are to come, or have moved cursors that are not ``written``."""
        return self._in_flight > 0 or bool(self._moved)

    def behind(self) -> bool:
        """Whether there is something to ``catch_up`` with, and room for it."""
        return self.waits_for_room() and self._in_flight < WINDOW // 2

    def waits_for_room(self) -> bool:
        """Whether there is something to ``catch_up`` with, as soon as confirms have made room for it."""
        return bool(self._behind)

    def catch_up(self) -> None:
        """Read from the outbox what was not handed over. Raises StoreUnavailable."""
        for track in list(self._behind.values()):
            room = WINDOW - self._in_flight
            if room <= 0:
                return
            found = self._store.outbox(track.node_id, after=track.sent, limit=room)
            ready = []
            for notification in found:
                self._skip(track, notification.sequence - 1)
                ready.append(self._send(track, notification))
            if not found:
                self._skip(track, track.known)
            self._behind.pop(track.node_id)  # and to the end, where there is more: the others have their turn first
            self._note(track)
            if ready:
                self._bus.notify(ready)

    def _skip(self, track: _Track, sequence: int) -> None:
        """The outbox holds nothing more up to here: it was not asked to, when it was switched off."""
        if track.sent >= sequence:
            return
        track.ahead.update(range(track.sent + 1, sequence + 1))
        track.sent = sequence
        self._advance(track)

    def _send(self, track: _Track, notification: Notification) -> Outgoing:
        track.sent = notification.sequence
        self._in_flight += 1
        return Outgoing(
            key=(notification.node_id, notification.sequence),
            priority=notification.priority,
            body=encode_notification(
                message_id=notification.message_id,
                publisher_id=f"tracker.{notification.host}",
                event_type=notification.event_type,
                priority=notification.priority,
                payload=notification.payload,
                occurred_at=notification.occurred_at,
            ),
        )
