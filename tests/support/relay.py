# SPDX-License-Identifier: Apache-2.0
"""A relay with a store, and a bus that records what is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from msgspec.structs import replace

from tests.support.builders import begin, node_name
from tests.support.scripted import ScriptedStore
from tests.support.store import TOPIC, settle
from tracker_worker.bus.base import Bus, Publication
from tracker_worker.notifications.dialects.dialect import Dialect
from tracker_worker.notifications.dialects.table import PLAIN
from tracker_worker.notifications.notification import Notification
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import EVERY_TOPIC, Commit

N1, N2 = node_name(1), node_name(2)
A = TOPIC

Key = tuple[int, int, str]


class RecordingBus:
    """The part of the bus that a relay uses."""

    def __init__(self) -> None:
        self.calls: list[list[Publication]] = []
        self.sender = self

    def send(self, notifications: Sequence[Publication]) -> None:
        self.calls.append(list(notifications))

    def take(self) -> list[Key]:
        """The keys sent since the last call."""
        keys = [outgoing.key for call in self.calls for outgoing in call]
        self.calls.clear()
        return keys


class Case:
    """A host whose nodes have one notification each, and a relay that has not taken the host yet."""

    def __init__(
        self, nodes: int = 1, topics: Sequence[str] = (A,), dialects: Mapping[str, Dialect] | None = None
    ) -> None:
        """``dialects``: those of the topics that are not PLAIN."""
        self.store = ScriptedStore()
        self.writer = settle(self.store, nodes=nodes)
        self.ids = [ledger.id for ledger in self.writer.host]
        self.sent = RecordingBus()
        self.holes: list[tuple[str, str, int, int]] = []
        self.hole_errors: list[Exception] = []  # that the coming reports of holes raise
        self._dialects = dialects or {}
        self.relay = self.another_relay(topics)
        self.numbers = iter(range(1, 10000))

    def another_relay(self, topics: Sequence[str] = (A,)) -> Relay:
        """A relay on the same store and bus."""
        dialects = {topic: self._dialects.get(topic, PLAIN) for topic in topics}
        return Relay(self.store, cast(Bus, self.sent), topics=dialects, wake=lambda: None, hole=self._hole)

    def _hole(self, host: str, node: str, first: int, last: int) -> None:
        if self.hole_errors:
            raise self.hole_errors.pop(0)
        self.holes.append((host, node, first, last))

    def taken(self) -> Case:
        """Let the relay take the host, with all its notifications sent and confirmed."""
        self.relay.take(self.writer.host)
        self.relay._catch_up()
        self.confirm(*self.sent.take())
        return self

    def commit(self, count: int, node: str = N1) -> list[Notification]:
        """Commit ``count`` more notifications to the outbox."""
        for _ in range(count):
            self.writer.put(begin(next(self.numbers), node=node))
        rows = list(self.writer.notifications)
        self.writer.commit()
        return rows

    def commit_lost(self, count: int, node: str = N1, *, passes_over: bool = False) -> None:
        """Commit events that have no row in the outbox. With ``passes_over`` because notifications are switched off."""
        for _ in range(count):
            self.writer.put(begin(next(self.numbers), node=node))
        self.writer.notifications.clear()
        made = self.writer.made()
        if passes_over:
            ledger = self.writer[node]
            made = replace(made, cursors={(ledger.stream_id, EVERY_TOPIC): ledger.sequence})
        self.store.commit(made)
        self.writer[node].committed()

    def offer(self, count: int, node: str = N1) -> list[Key]:
        """Commit and offer ``count`` more notifications. Return the sent keys."""
        self.offer_rows(self.commit(count, node))
        return self.sent.take()

    def offer_rows(self, rows: Sequence[Notification]) -> None:
        """Offer the rows to the relay and send the ready publications, as the engine does."""
        if ready := self.relay.offer(rows):
            self.sent.send(ready)

    def behind(self) -> bool:
        """Whether the outbox has rows to read and the window has room for them."""
        return lagging(self.relay)

    def confirm(self, *keys: Key) -> None:
        self.relay.confirmed(keys)
        self.relay._take_confirms()

    def cursors(self) -> dict[tuple[int, str], int]:
        """The cursors that moved since the last call; the call writes them."""
        moved = dict(self.relay.moved)
        self.store.commit(Commit(cursors=moved))
        self.relay.written(moved)
        return moved


def lagging(relay: Relay) -> bool:
    """Whether the outbox has rows to read and the window has room for them."""
    return any(topic.room(track)[0] for topic in relay._topics.values() for track in topic.lagging.values())


def keys(*sequences: int, node: int = 1, topic: str = A) -> list[Key]:
    return [(node, sequence, topic) for sequence in sequences]
