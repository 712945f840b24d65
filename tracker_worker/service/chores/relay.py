# SPDX-License-Identifier: Apache-2.0
"""The relay publishes the outbox to every topic: each notification at least once, and the notifications of a node in order.

A cursor is the sequence up to which the bus has confirmed every notification of one node on one topic. There is one for each
node, and not one for the table: two writers may commit rows in another order than the table numbers them, and one cursor for
all would skip a row that becomes visible late. There is one for each topic, so that a topic whose queue is full or missing
holds up only itself.

The engine hands over in memory what it has just committed. After a start, and when the bus is slow, the relay reads rows
from the outbox instead. It reads a limited number at a time, which bounds memory also after a long outage of the broker.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from tracker_worker import faults, threads
from tracker_worker.bus.base import Bus, Publication
from tracker_worker.domain.host import HostLedger
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.dialects.dialect import Dialect, Unwritable
from tracker_worker.notifications.notification import Notification
from tracker_worker.service.chores.pause import Pause
from tracker_worker.service.chores.track import Topic, Track
from tracker_worker.store.base import Commit, Conflict, Store, Stream
from tracker_worker.store.ledgers import TOGETHER

LOG = logging.getLogger(__name__)

# The relay writes cursors with the next commit, or in a commit of their own after this time without one. It also reads confirms
# this often, because a confirm usually does not wake the engine.
_FLUSH_SECONDS = 0.2
# So many times a step reads the outbox for a topic, before requests have their turn again.
_MOST_READS = 32


def _log_hole(host: str, node: str, first: int, last: int) -> None:
    LOG.error("the outbox lacks the events %d to %d of node %s/%s: they are lost", first, last, host, node)


class Relay:
    """Any thread may call ``confirmed``; all else is the engine's. A host is relayed from ``take`` to ``drop``."""

    def __init__(
        self,
        store: Store,
        bus: Bus,
        *,
        topics: Mapping[str, Dialect],
        wake: Callable[[], None],
        hole: Callable[[str, str, int, int], None] = _log_hole,
        confirm_history: Callable[[], object] = lambda: None,
        ledger_id: Callable[[], str | None] = lambda: None,
        monotonic: Callable[[], float] = threads.monotonic,
    ) -> None:
        """``topics`` may be empty: then notifications are kept and not published. ``wake`` causes the engine's next step soon.
        ``hole`` is called with a host name, a node name, and the first and the last number of events that were never published
        and that the outbox lacks, when the relay has passed over them; it may raise StoreUnavailable and Conflict, and is then
        called again. ``confirm_history`` is called before the outbox is read and cursors are written; it raises AnotherHistory
        if the store has gone back. ``ledger_id`` gives the history in which events were published: in another one, the cursors
        mean other events. ``monotonic`` gives seconds."""
        self._store = store
        self._bus = bus
        self._wake = wake
        self._report = hole
        self._confirm_history = confirm_history
        self._ledger_id = ledger_id
        self._monotonic = monotonic
        self._topics = {name: Topic(name, dialect) for name, dialect in topics.items()}
        self._relayed: dict[str, set[int]] = {}  # host -> its streams
        # Host -> those of its nodes, unless its streams are to be read again.
        self._nodes: dict[str, frozenset[int]] = {}
        self._noted: frozenset[int] = frozenset()
        self._confirms: deque[Any] = deque()
        # What was in flight when the history ended, and how often: its confirms mean nothing.
        self._outdated: Counter[Any] = Counter()
        self._confirms_wanted = False
        self._goes_on = False  # more is to be read, and no confirm will tell when
        # (stream id, topic) -> cursor, of the cursors that have moved since ``written``.
        self.moved: dict[tuple[int, str], int] = {}
        self._hole: tuple[str, str, int, int] | None = None  # that has yet to be reported
        self._reported: dict[int, int] = {}  # stream id -> the last number of its last hole, which each topic comes to
        self._flush_at: float | None = None
        self._reads = Pause()
        self._writes = Pause()
        # The error of the last step, if the store was unavailable, and the seconds that it took.
        self.outage: tuple[StoreUnavailable, float] | None = None

    def confirmed(self, keys: Sequence[Any]) -> None:
        """The bus has confirmed these notifications; a key is (stream id, sequence, topic)."""
        self._confirms.extend(keys)
        if self._confirms_wanted:
            self._wake()

    def refused(self, key: tuple[int, int, str], reason: str) -> None:
        """The broker does not take this notification: its node waits on its topic until an operator has set it aside. Raises
        StoreUnavailable."""
        stream_id, sequence, name = key
        topic = self._topics[name]
        track = topic.tracks.get(stream_id)
        if self._is_outdated(key) or track is None or sequence not in track.in_flight:
            return
        self._hold(topic, track, sequence, reason, "the broker does not take notification")

    def _hold(self, topic: Topic, track: Track, sequence: int, reason: str, what: str) -> None:
        """Keep that a notification cannot go out. Raises StoreUnavailable."""
        if not track.stuck_at or sequence < track.stuck_at:  # the first one is to be set aside
            self._store.mark_refused(track.stream_id, topic.name, sequence, reason)
        topic.refused(track, sequence)
        where = sequence, track.node, topic.name, reason
        LOG.error(
            "%s %d of node %s for topic %s (%s): the node's notifications wait; see 'tracker-worker outbox status' and 'outbox "
            "skip'",
            what,
            *where,
        )

    def note(self, sequences: Mapping[int, int]) -> None:
        """The store has so many events of these streams, by id. A node may have had another name for so short a time that the
        next ``take`` sees the old one again: this finds the events under the other name."""
        for topic in self._topics.values():
            for stream_id, track in topic.tracks.items():
                if sequences.get(stream_id, 0) > track.known:
                    track.known = sequences[stream_id]
                    topic.note(track)
        if not sequences.keys() <= self._noted:
            self._noted = self._noted.union(sequences)
            self._nodes.clear()

    def opened(self, hosts: Iterable[str]) -> dict[str, list[Stream]]:
        """Make the cursors of those hosts that are not relayed yet; return their streams, for ``take``. Raises
        StoreUnavailable."""
        new = sorted(host for host in hosts if host not in self._relayed)  # as others do, who wait for the rows
        found = {}
        for first in range(0, len(new), TOGETHER):
            with self._store.together():
                for host in new[first : first + TOGETHER]:
                    found[host] = self._store.open_cursors(host, list(self._topics))
        return found

    def take(self, host: HostLedger, opened: Sequence[Stream] | None = None) -> None:
        """Relay this host's nodes from their cursors on. For a node that is relayed already, include the notifications that
        another worker may have added, and go on behind a refused one that an operator has set aside. Raises
        StoreUnavailable."""
        self.take_streams(host.name, {ledger.stream_id: ledger.sequence for ledger in host}, opened)

    def take_streams(self, host: str, known: Mapping[int, int], opened: Sequence[Stream] | None = None) -> None:
        """The same for the streams of a host name, of which those of its nodes have these ids and sequences."""
        relayed = self._relayed.get(host)
        stuck = relayed is not None and any(topic.is_stuck(relayed) for topic in self._topics.values())
        # A stream that a node has left has had its last event meanwhile.
        if relayed is None or stuck or self._nodes.get(host) != known.keys():
            # Also without topics: the cursors of topics that are configured no more are removed.
            streams = self._store.open_cursors(host, list(self._topics)) if opened is None else opened
            self._relayed[host] = {stream.id for stream in streams}
            self._nodes[host] = frozenset(known)
            for stream in streams:
                self._take_stream(stream)
        for stream_id, sequence in known.items():
            for topic in self._topics.values():
                track = topic.tracks[stream_id]
                track.known = max(track.known, sequence)
                topic.note(track)

    def _take_stream(self, stream: Stream) -> None:
        for topic in self._topics.values():
            track = topic.tracks.get(stream.id)
            cursor = stream.cursors.get(topic.name, 0)
            if track is None:
                track = topic.tracks[stream.id] = Track(stream.id, stream.host, stream.node, cursor)
            elif track.stuck_at and cursor >= track.stuck_at:
                topic.set_aside(track)
            track.known = max(track.known, stream.sequence)
            topic.note(track)

    def drop(self, host: str) -> None:
        """Stop relaying this host: another worker relays it."""
        for stream_id in self._relayed.pop(host, ()):
            for topic in self._topics.values():
                topic.drop(stream_id)
                self.moved.pop((stream_id, topic.name), None)

    def restart(self, *, with_holes: bool) -> None:
        """Relay nothing until the hosts are taken again, from the cursors of the store: its history is another one.
        ``with_holes``: the holes that were reported are in it too."""
        for topic in self._topics.values():
            for track in topic.tracks.values():
                self._outdated.update((track.stream_id, sequence, topic.name) for sequence in track.in_flight)
        self._topics = {name: Topic(name, topic.dialect) for name, topic in self._topics.items()}
        self._relayed.clear()
        if not with_holes:
            self._reported.clear()
        self._hole = None
        self.moved.clear()

    def reached(self) -> Iterator[tuple[int, str, int, int]]:
        """Stream id, topic, number of the last published notification, and the cursor that the store has (0: not known)."""
        for topic in self._topics.values():
            for track in topic.tracks.values():
                cursor = 0 if (track.stream_id, topic.name) in self.moved else track.confirmed
                yield track.stream_id, topic.name, track.sent, cursor

    def offer(self, notifications: Iterable[Notification]) -> list[Publication]:
        """Take over notifications that were committed. Returns those that the caller publishes now; the relay reads the others
        from the outbox later."""
        ready: list[Publication] = []
        for notification in notifications:
            for topic in self._topics.values():
                track = topic.tracks.get(notification.stream_id)
                if track is None:
                    continue
                if notification.sequence > track.known:
                    track.known = notification.sequence
                if notification.sequence != track.sent + 1 or not topic.has_room(track):
                    topic.note(track)
                    continue
                try:
                    publication = topic.publication(track, notification)
                except Unwritable:
                    topic.note(track)  # ``_catch_up`` comes to it
                    continue
                if publication is None:
                    self._passed(topic, track)
                else:
                    ready.append(publication)
        return ready

    def _passed(self, topic: Topic, track: Track) -> None:
        """There was nothing to publish of a notification: the cursor passes it, unless it waits for earlier ones."""
        if track.confirmed == track.sent:
            self.moved[track.stream_id, topic.name] = track.confirmed

    def step(self, now: float) -> float | None:
        """Take the confirms, read what was not handed over, and write the cursors if that is due. ``now`` is in seconds on the
        monotonic clock.

        Returns the seconds until the next step is due; None: every notification is confirmed and every cursor written. If the
        store is unavailable, the step logs a warning, and a later step tries again.
        """
        self._take_confirms()
        self.outage = None
        self._goes_on = False
        busy = any(topic.in_flight for topic in self._topics.values())
        lagging = any(topic.lagging for topic in self._topics.values())
        flush_is_due = self._flush_is_due(now, waits=busy or lagging)
        if lagging and self._hole is None and now >= self._reads.until:
            self._access(self._reads, self._catch_up)
        if self._hole is not None and now >= self._reads.until:
            self._access(self._reads, self._report_hole)
        if flush_is_due and self.outage is None:
            self._access(self._writes, self.flush)
            self._flush_at = max(now + _FLUSH_SECONDS, self._writes.until) if busy or lagging or self.moved else None
        self._confirms_wanted = lagging
        if self._goes_on and self.outage is None:
            return 0.0
        return None if self._flush_at is None else max(0.0, self._flush_at - now)

    def has_to_access(self, now: float) -> bool:
        """Whether a step at ``now`` would access the store."""
        if self._hole is not None or any(topic.lagging for topic in self._topics.values()):
            return True
        return self._flush_at is not None and now >= self._flush_at

    def _access(self, pause: Pause, access: Callable[[], None]) -> None:
        began = self._monotonic()
        try:
            self._confirm_history()
            access()
        except (StoreUnavailable, Conflict) as error:
            # An outage is said by the engine.
            level = logging.INFO if isinstance(error, StoreUnavailable) else logging.WARNING
            LOG.log(level, "the relay is put off: %s", error)
            ended = self._monotonic()
            pause.failed(ended)
            if isinstance(error, StoreUnavailable):
                self.outage = error, ended - began
        else:
            pause.succeeded()

    def _flush_is_due(self, now: float, *, waits: bool) -> bool:
        if not self.moved and not waits:
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
            self._store.commit(Commit(cursors=cursors, ledger_id=self._ledger_id()))
            self.written(cursors)

    def written(self, cursors: Mapping[tuple[int, str], int]) -> None:
        """Note that the store has these cursors."""
        for key, cursor in cursors.items():
            if self.moved.get(key) == cursor:
                del self.moved[key]
        if cursors:
            self._flush_at = None

    def _take_confirms(self) -> None:
        confirms = self._confirms
        while confirms:
            key = confirms.popleft()
            if self._is_outdated(key):
                continue
            stream_id, sequence, name = key
            topic = self._topics[name]
            track = topic.tracks.get(stream_id)
            if track is not None and topic.confirmed(track, sequence):
                self.moved[stream_id, name] = track.confirmed

    def _is_outdated(self, key: Any) -> bool:
        """Whether a publication of the history that has ended is meant; each is meant once."""
        times = self._outdated.pop(key, 0)
        if times > 1:
            self._outdated[key] = times - 1
        return times > 0

    def _catch_up(self) -> None:
        """Read from the outbox what was not handed over, of some nodes, within the windows. Raises StoreUnavailable."""
        for topic in self._topics.values():
            left, moved = _MOST_READS, False
            for track in list(topic.lagging.values()):
                count, size = topic.room(track)
                if not count:
                    continue
                if not left:
                    self._goes_on = self._goes_on or moved  # otherwise a confirm or the next flush goes on
                    break
                left -= 1
                before, known = track.sent, track.known
                found = self._store.outbox(track.stream_id, after=before, limit=count, max_bytes=size)
                if not self._send(topic, track, found) and before < track.sent < track.known:
                    self._goes_on = True
                if not found:
                    self._reaches(topic, track, track.known)
                moved = moved or (track.sent, track.known) != (before, known)
                topic.note_last(track)  # if more is left, the node goes behind the other nodes
                if self._hole is not None:
                    return

    def _send(self, topic: Topic, track: Track, found: Sequence[Notification]) -> int:
        """Publish what follows on what was published of the node. Returns how many notifications. Raises StoreUnavailable."""
        ready: list[Publication] = []
        try:
            for notification in found:
                if not self._reaches(topic, track, notification.sequence - 1) or not topic.has_room(track):
                    break
                publication = topic.publication(track, notification)
                if publication is None:
                    self._passed(topic, track)
                else:
                    ready.append(publication)
        except Unwritable as error:
            self._hold(topic, track, track.sent + 1, str(error), "the worker cannot write notification")
        finally:
            if ready:
                self._bus.sender.send(ready)
        return len(ready)

    def _reaches(self, topic: Topic, track: Track, last: int) -> bool:
        """Whether what comes after ``last`` is published next. The outbox has nothing between what was published and that.

        Numbers that are missing were published already, by another worker, or were taken while notifications were switched
        off; then the store's cursor is behind them. If it is not, what is missing is lost, and what follows waits until that is
        reported. Raises StoreUnavailable."""
        if track.sent >= last:
            return True
        if track.in_flight or track.ahead:
            return False  # what was published before is not confirmed yet
        streams = {stream.id: stream for stream in self._store.streams(track.host)}
        stream = streams.get(track.stream_id)
        if stream is None or stream.sequence < last:
            track.known = track.sent if stream is None else stream.sequence  # the store has gone back
            return False
        done = max(stream.cursors.get(topic.name, 0), self._reported.get(stream.id, 0))
        first = max(track.sent, done) + 1
        self._pass_over(topic, track, last)
        if first > last:
            return True
        self._reported[stream.id] = last
        self._hole = (track.host, track.node, first, last)
        return False

    def _pass_over(self, topic: Topic, track: Track, last: int) -> None:
        topic.pass_over(track, last)
        self.moved[track.stream_id, topic.name] = last

    def _report_hole(self) -> None:
        """Raises StoreUnavailable, Conflict."""
        assert self._hole is not None
        self._report(*self._hole)
        self._hole = None
