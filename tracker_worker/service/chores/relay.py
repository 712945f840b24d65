# SPDX-License-Identifier: Apache-2.0
"""The relay publishes the outbox: every notification at least once, and the notifications of a node in order.

The cursor of a node is the sequence up to which the bus has confirmed every notification. There is one cursor per node, and
not one for the table: two writers may commit rows in another order than the table numbers them, and one cursor for all would
skip a row that becomes visible late.

The engine hands over in memory what it has just committed. After a start, and when the bus is slow, the relay reads rows
from the outbox instead. It reads a limited number at a time, which bounds memory also after a long outage of the broker.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tracker_worker import faults, threads
from tracker_worker.bus.base import Bus, Publication
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import Commit, Conflict, Store

LOG = logging.getLogger(__name__)

WINDOW = 1000
"""The most notifications that are published and not confirmed."""
# The relay writes cursors with the next commit, or in a commit of their own after this time without one. It also reads confirms
# this often, because a confirm usually does not wake the engine.
_FLUSH_SECONDS = 0.2
_LONGEST_DELAY_SECONDS = 2.0
# The one cursor of a node, whatever the topics are.
_TOPIC = "notifications"


@dataclass(slots=True)
class _Track:
    """The progress of one node, as sequences: notifications up to ``sent`` were handed to the bus, all up to ``confirmed`` are
    confirmed, and the outbox is known to reach up to ``known``."""

    node_id: int
    sent: int
    confirmed: int
    known: int
    ahead: set[int] = field(default_factory=set)  # the confirmed sequences above ``confirmed`` + 1


class _Pause:
    """When the store may be asked again after errors in a row, in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.until = 0.0
        self.succeeded()

    def succeeded(self) -> None:
        self._delay = _FLUSH_SECONDS

    def failed(self, now: float) -> None:
        self._delay = min(self._delay * 2, _LONGEST_DELAY_SECONDS)
        self.until = now + self._delay


class Relay:
    """``confirmed`` may be called from any thread; everything else belongs to the engine's thread. A host is relayed from
    ``take`` to ``drop``."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        topics: Sequence[str],
        wake: Callable[[], None],
        monotonic: Callable[[], float] = threads.monotonic,
    ) -> None:
        """Each of ``topics`` gets every notification. ``wake`` causes the engine's next step soon. ``monotonic``
        gives seconds."""
        self._store = store
        self._bus = bus
        self._topics = topics
        # (node id, sequence) -> the topics that have not confirmed a notification yet, if several have to.
        self._missing: dict[tuple[int, int], set[str]] = {}
        self._wake = wake
        self._monotonic = monotonic
        self._confirms: deque[Any] = deque()
        self._confirms_wanted = False
        self._tracks: dict[int, _Track] = {}
        self._lagging: dict[int, _Track] = {}  # those with sent < known
        self._in_flight = 0
        # (node id, topic) -> cursor, of the cursors that have moved since ``written``.
        self.moved: dict[tuple[int, str], int] = {}
        self._flush_at: float | None = None
        self._reads = _Pause()
        self._writes = _Pause()
        # The error of the last step, if the store was unavailable, and the seconds that it took.
        self.outage: tuple[StoreUnavailable, float] | None = None

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has confirmed these notifications; a key is (node id, sequence, topic)."""
        self._confirms.extend(keys)
        if self._confirms_wanted:
            self._wake()

    def take(self, host: HostLedger) -> None:
        """Relay this host's nodes from their cursors on. For a node that is relayed already, include the notifications that
        another worker may have added. Raises StoreUnavailable."""
        new = any(ledger.id not in self._tracks for ledger in host)
        cursors = self._store.open_cursors(host.id, [_TOPIC]) if new else {}
        for ledger in host:
            track = self._tracks.get(ledger.id)
            if track is None:
                cursor = cursors.get((ledger.id, _TOPIC), 0)
                track = _Track(ledger.id, sent=cursor, confirmed=cursor, known=ledger.sequence)
                self._tracks[ledger.id] = track
            else:
                track.known = max(track.known, ledger.sequence)
            self._note(track)

    def drop(self, host: HostLedger) -> None:
        """Stop relaying this host: another worker relays it."""
        for ledger in host:
            track = self._tracks.pop(ledger.id, None)
            if track is not None:
                self._in_flight -= track.sent - track.confirmed - len(track.ahead)
            self.moved.pop((ledger.id, _TOPIC), None)
            self._lagging.pop(ledger.id, None)

    def offer(self, notifications: Iterable[Notification]) -> list[Publication]:
        """Take over notifications that were committed. Returns those that the caller publishes now; the relay reads the others
        from the outbox later."""
        ready: list[Publication] = []
        for notification in notifications:
            track = self._tracks.get(notification.node_id)
            if track is None:
                continue
            track.known = max(track.known, notification.sequence)
            if notification.sequence == track.sent + 1 and self._in_flight < WINDOW:
                ready += self._publications(track, notification)
            else:
                self._note(track)
        return ready

    def step(self, now: float) -> float | None:
        """Take the confirms, read what was not handed over, and write the cursors if that is due. ``now`` is in seconds on the
        monotonic clock.

        Returns the seconds until the next step is due; None: every notification is confirmed and every cursor written. If the
        store is unavailable, the step logs a warning, and a later step tries again.
        """
        self._take_confirms()
        self.outage = None
        flush_is_due = self._flush_is_due(now)
        if self._lagging and self._in_flight < WINDOW // 2 and now >= self._reads.until:
            self._access(self._reads, self._catch_up)
        if flush_is_due and self.outage is None:
            self._access(self._writes, self.flush)
            waits = self._in_flight > 0 or self._lagging or self.moved
            self._flush_at = max(now + _FLUSH_SECONDS, self._writes.until) if waits else None
        self._confirms_wanted = bool(self._lagging)
        return None if self._flush_at is None else max(0.0, self._flush_at - now)

    def _access(self, pause: _Pause, access: Callable[[], None]) -> None:
        began = self._monotonic()
        try:
            access()
        except (StoreUnavailable, Conflict) as error:
            LOG.warning("the relay is put off: %s", error)
            ended = self._monotonic()
            pause.failed(ended)
            if isinstance(error, StoreUnavailable):
                self.outage = error, ended - began
        else:
            pause.succeeded()

    def _flush_is_due(self, now: float) -> bool:
        if not self.moved and self._in_flight <= 0 and not self._lagging:
            self._flush_at = None
        elif self._flush_at is None:
            self._flush_at = now + _FLUSH_SECONDS
        return self._flush_at is not None and now >= self._flush_at

    def flush(self) -> None:
        """Write the cursors that have moved, in a commit of their own. Raises StoreUnavailable, Conflict."""
        self._take_confirms()
        if cursors := dict(self.moved):
            if faults.hook is not None:
                faults.hook("before_cursor")
            self._store.commit(Commit(cursors=cursors))
            self.written(cursors)

    def written(self, cursors: dict[tuple[int, str], int]) -> None:
        """Note that the store has these cursors."""
        for place, cursor in cursors.items():
            if self.moved.get(place) == cursor:
                del self.moved[place]
        if cursors:
            self._flush_at = None

    def _take_confirms(self) -> None:
        confirms = self._confirms
        while confirms:
            node_id, sequence, topic = confirms.popleft()
            missing = self._missing.get((node_id, sequence))
            if missing is not None:
                missing.discard(topic)
                if missing:
                    continue
                del self._missing[node_id, sequence]
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
            self.moved[track.node_id, _TOPIC] = track.confirmed

    def _note(self, track: _Track) -> None:
        if track.sent < track.known:
            self._lagging[track.node_id] = track
        else:
            self._lagging.pop(track.node_id, None)

    def _catch_up(self) -> None:
        """Read notifications from the outbox that were not handed over, as many as the window admits. Raises
        StoreUnavailable."""
        for track in list(self._lagging.values()):
            room = WINDOW - self._in_flight
            if room <= 0:
                return
            found = self._store.outbox(track.node_id, after=track.sent, limit=room)
            ready: list[Publication] = []
            for notification in found:
                self._skip(track, notification.sequence - 1)
                ready += self._publications(track, notification)
            if not found:
                self._skip(track, track.known)
            self._lagging.pop(track.node_id)
            self._note(track)  # if more is left, the node goes behind the other nodes
            if ready:
                self._bus.sender.send(ready)

    def _skip(self, track: _Track, sequence: int) -> None:
        """Count the missing notifications up to ``sequence`` as confirmed. The outbox does not have them because
        notifications were switched off when their events happened."""
        if track.sent >= sequence:
            return
        track.ahead.update(range(track.sent + 1, sequence + 1))
        track.sent = sequence
        self._advance(track)

    def _publications(self, track: _Track, notification: Notification) -> list[Publication]:
        """One publication for each topic."""
        track.sent = notification.sequence
        self._in_flight += 1
        if len(self._topics) > 1:
            self._missing[notification.node_id, notification.sequence] = set(self._topics)
        return [
            Publication(
                key=(notification.node_id, notification.sequence, topic),
                topic=topic,
                priority=notification.priority,
                body=notification.encode(),
            )
            for topic in self._topics
        ]
