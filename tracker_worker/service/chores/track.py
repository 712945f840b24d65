# SPDX-License-Identifier: Apache-2.0
"""How far each node's notifications have got on one topic, and how many may be on their way."""

from __future__ import annotations

from dataclasses import dataclass, field

from tracker_worker.bus.base import Publication
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.notification import Notification

WINDOW = 1000
"""The most notifications on one topic that are published and not confirmed. What counts is the row of the outbox, whatever
number of messages it is in the topic's dialect."""
SHARE = 500
"""The most that one node may have between its first unconfirmed notification and its last published one."""
_WINDOW_BYTES = 32 << 20
"""The most bytes on one topic that are published and not confirmed."""


@dataclass(slots=True)
class Track:
    """The progress of one node, as sequences: notifications up to ``sent`` were handed to the bus, all up to ``confirmed``
    are confirmed, and the outbox is known to reach up to ``known``. One that the topic's dialect has no message for counts as
    confirmed. ``in_flight``: sequence -> bytes of those that are published and not confirmed. ``ahead``: the confirmed ones
    above ``confirmed`` + 1. ``stuck_at``: the sequence that cannot go out; 0: none."""

    stream_id: int
    host: str
    node: str
    confirmed: int
    sent: int = 0
    known: int = 0
    in_flight: dict[int, int] = field(default_factory=dict)
    ahead: set[int] = field(default_factory=set)
    stuck_at: int = 0

    def __post_init__(self) -> None:
        self.sent = self.known = self.confirmed


class Topic:
    """The nodes' progress on one topic. Belongs to the engine's thread."""

    def __init__(self, name: str, dialect: Dialect) -> None:
        self.name = name
        self.dialect = dialect
        self.tracks: dict[int, Track] = {}  # by stream id
        self.lagging: dict[int, Track] = {}  # those with sent < known that are not stuck
        self.in_flight = 0
        self._bytes = 0

    def has_room(self, track: Track) -> bool:
        """Whether one more notification of the node may be published."""
        return (
            self.in_flight < WINDOW
            and self._bytes < _WINDOW_BYTES
            and track.sent - track.confirmed < SHARE
            and not track.stuck_at
        )

    def room(self, track: Track) -> tuple[int, int]:
        """How many notifications of the node may be read and published now, and how many bytes of them. Nothing is read for
        less than half of a window, as every read costs the same."""
        room = min(WINDOW - self.in_flight, SHARE - (track.sent - track.confirmed))
        wanted = min(SHARE // 2, track.known - track.sent)
        if track.stuck_at or room < wanted or self._bytes > _WINDOW_BYTES // 2:
            return 0, 0
        return room, _WINDOW_BYTES - self._bytes

    def publication(self, track: Track, notification: Notification) -> Publication | None:
        """The notification that is published next for the node; None: there is nothing to publish of it. Raises Unwritable:
        nothing has changed."""
        bodies = self.dialect.bodies(notification)
        sequence = track.sent = notification.sequence
        if not bodies:
            track.ahead.add(sequence)
            self._advance(track)
            return None
        size = sum(map(len, bodies))
        track.in_flight[sequence] = size
        self.in_flight += 1
        self._bytes += size
        return Publication(
            key=(notification.stream_id, sequence, self.name),
            topic=self.name,
            priority=self.dialect.queues[notification.priority],
            bodies=bodies,
            content_type=self.dialect.content_type,
        )

    def confirmed(self, track: Track, sequence: int) -> bool:
        """The bus has confirmed a notification. Returns whether the node's cursor has moved."""
        size = track.in_flight.pop(sequence, None)
        if size is None:
            return False
        self.in_flight -= 1
        self._bytes -= size
        track.ahead.add(sequence)
        return self._advance(track)

    def _advance(self, track: Track) -> bool:
        before = track.confirmed
        while track.confirmed + 1 in track.ahead:
            track.confirmed += 1
            track.ahead.discard(track.confirmed)
        return track.confirmed > before

    def pass_over(self, track: Track, sequence: int) -> None:
        """There is nothing to publish up to ``sequence``. Everything that was published before is confirmed."""
        track.confirmed = track.sent = sequence

    def refused(self, track: Track, sequence: int) -> None:
        """A notification, which may be in flight, cannot go out: the node waits."""
        size = track.in_flight.pop(sequence, None)
        if size is not None:
            self._bytes -= size
            self.in_flight -= 1
        track.stuck_at = min(sequence, track.stuck_at or sequence)
        self.note(track)

    def is_stuck(self, stream_ids: set[int]) -> bool:
        """Whether one of these nodes waits because a notification cannot go out."""
        return any(track.stuck_at for stream_id in stream_ids if (track := self.tracks.get(stream_id)) is not None)

    def set_aside(self, track: Track) -> None:
        """An operator has set aside what cannot go out: what follows it is published, again where it was refused too."""
        self._forget_flight(track)
        track.confirmed = max(track.confirmed, track.stuck_at)
        track.sent = track.confirmed
        track.ahead.clear()
        track.stuck_at = 0

    def drop(self, stream_id: int) -> None:
        """The node is not relayed any more."""
        track = self.tracks.pop(stream_id, None)
        self.lagging.pop(stream_id, None)
        if track is not None:
            self._forget_flight(track)

    def _forget_flight(self, track: Track) -> None:
        self.in_flight -= len(track.in_flight)
        self._bytes -= sum(track.in_flight.values())
        track.in_flight.clear()

    def note(self, track: Track) -> None:
        """Note whether notifications of the node are left to be read."""
        if track.sent < track.known and not track.stuck_at:
            self.lagging[track.stream_id] = track
        else:
            self.lagging.pop(track.stream_id, None)

    def note_last(self, track: Track) -> None:
        """The same, behind the other nodes."""
        self.lagging.pop(track.stream_id, None)
        self.note(track)
