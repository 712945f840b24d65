# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with events that are not published, and with streams that have no topics."""

from __future__ import annotations

from msgspec.structs import replace

from tests.support.builders import HOST, NOW, inventory, node_name
from tests.support.store import ALL, TOPIC, StoreCase, Writer, register
from tracker_worker.domain.commands import ReportNode
from tracker_worker.store.base import EVERY_TOPIC, Commit, Store

N1 = node_name(1)
OTHER = "other"


def node(store: Store) -> Writer:
    """A writer of a host with one node, whose stream has no events and no topics."""
    store.create_node(register(store), N1)
    return Writer(store)


def changed(number: int) -> ReportNode:
    """The node has another size: one event."""
    return ReportNode(node=N1, inventory=inventory(vcpus=number))


def events(writer: Writer, *numbers: int, published: bool = True) -> None:
    """Events with these numbers, in one commit. Those that are not ``published`` pass over the cursors in that commit."""
    for number in numbers:
        writer.put(changed(number))
    if not published:
        writer.notifications = []
    stream_id, sequence = writer[N1].stream_id, writer[N1].sequence
    made = writer.made()
    writer.store.commit(made if published else replace(made, cursors={(stream_id, EVERY_TOPIC): sequence}))
    writer[N1].committed()
    writer.notifications = []


def cursors(store: Store, *topics: str) -> dict[str, int]:
    """Open the cursors of the only stream."""
    [stream] = store.open_cursors(HOST, topics)
    assert store.streams(HOST) == [stream]
    return dict(stream.cursors)


class SilentContract(StoreCase):
    def test_events_that_are_not_published_pass_over_all_topics(self, store: Store) -> None:
        writer = node(store)
        events(writer, 1)
        assert cursors(store, TOPIC, OTHER) == {TOPIC: 0, OTHER: 0}
        events(writer, 2, published=False)
        assert cursors(store, TOPIC, OTHER) == {TOPIC: 2, OTHER: 2}

    def test_topics_start_behind_the_events_that_are_not_published(self, store: Store) -> None:
        """Notifications are switched off from the beginning, and switched on later."""
        writer = node(store)
        events(writer, 1, 2, published=False)
        assert cursors(store) == {}
        events(writer, 3, published=False)
        events(writer, 4)
        assert cursors(store, TOPIC) == {TOPIC: 3}

    def test_topics_that_were_removed_start_again_behind_them(self, store: Store) -> None:
        writer = node(store)
        events(writer, 1, 2)
        assert cursors(store, TOPIC) == {TOPIC: 0}
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 1}))
        # The first commit comes before the worker knows that it relays the host.
        events(writer, 3, published=False)
        assert cursors(store) == {}
        events(writer, 4, published=False)
        assert cursors(store, TOPIC) == {TOPIC: 4}

    def test_a_cursor_never_goes_back(self, store: Store) -> None:
        writer = node(store)
        events(writer, 1, 2, 3)
        cursors(store, TOPIC)
        stream_id = writer[N1].stream_id
        store.commit(Commit(cursors={(stream_id, TOPIC): 3}))
        store.commit(Commit(cursors={(stream_id, EVERY_TOPIC): 2}))
        assert cursors(store, TOPIC) == {TOPIC: 3}

    def test_what_is_pruned_while_there_are_no_topics_is_not_published_later(self, store: Store) -> None:
        writer = node(store)
        events(writer, 1, 2)
        assert cursors(store) == {}

        def prune(before: int) -> None:
            store.prune(writer.host.id, answered_before=before, occurred_before=before, limit=ALL)

        prune(NOW + 1)
        assert cursors(store, TOPIC) == {TOPIC: 2}
        assert cursors(store) == {}
        writer.put(changed(3)).put(changed(4))
        writer.notifications = [
            replace(row, occurred_at=NOW + at) for row, at in zip(writer.notifications, (5, 20), strict=True)
        ]
        writer.commit()
        prune(NOW + 10)
        assert cursors(store, TOPIC) == {TOPIC: 3}

    def test_a_name_is_stray_while_no_host_has_it_and_events_wait(self, store: Store) -> None:
        writer = node(store)
        events(writer, 1)
        assert store.streams_without_host() == []
        cursors(store, TOPIC)
        store.forget_host(writer.host.id)
        assert store.streams_without_host() == [HOST]
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 1}))
        assert store.streams_without_host() == []
