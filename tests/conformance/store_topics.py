# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with the cursors of several topics, and with dead letters that the broker does not take."""

from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from tests.support.builders import HOST, NOW, begin, inventory, node_name
from tests.support.store import ALL, TOPIC, StoreCase, Writer, cursors, flat, load, note, register, settle
from tracker_worker.domain.commands import ReportNode
from tracker_worker.store import base
from tracker_worker.store.base import Commit, DeadLetterRow, Store

N1, N2 = node_name(1), node_name(2)
OTHER = "other"


def letter(number: int = 1, *, size: int = 0, **fields: str) -> DeadLetterRow:
    row = DeadLetterRow(
        host="host-1",
        parked_at=NOW + number,
        reason="invalid_input: Žofie 🦊",
        exchange="tracker",
        routing_key="tracker_dead_letter",
        properties=b"\x00\xff",
        headers=b"\x01",
        body=b"%d" % number,
    )
    return replace(row, body=row.body + bytes(max(0, size - row.size)), **fields)


class CursorContract(StoreCase):
    def opened(self, store: Store, *topics: str) -> dict[str, int]:
        """Open the cursors of the only node of the host, and return those of these topics."""
        opened = store.open_cursors(HOST, topics)
        assert opened == store.streams(HOST)
        return {topic: sequence for (_, topic), sequence in flat(opened).items()}

    def node(self, store: Store, *, rows: int = 4) -> Writer:
        """A node with these rows in its outbox, and no cursor."""
        register(store)
        store.create_node(1, N1)
        writer = Writer(store)
        if rows:
            writer.put(ReportNode(node=N1, inventory=inventory()))
        for number in range(1, rows):
            writer.put(begin(number, node=N1))
        return writer.commit()

    def test_the_cursors_of_a_new_node_start_at_0_also_behind_its_first_notifications(self, store: Store) -> None:
        self.node(store)
        assert self.opened(store, TOPIC, OTHER) == {TOPIC: 0, OTHER: 0}

    def test_opening_cursors_again_changes_nothing(self, store: Store, second: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC, OTHER)
        writer.commit(cursors={writer[N1].stream_id: 3})
        assert self.opened(second, TOPIC, OTHER) == {TOPIC: 3, OTHER: 0}

    def test_a_topic_that_is_new_for_a_node_starts_at_the_last_sequence(self, store: Store) -> None:
        self.node(store)
        self.opened(store, TOPIC)
        assert self.opened(store, TOPIC, OTHER) == {TOPIC: 0, OTHER: 4}

    def test_a_topic_that_is_not_configured_any_more_loses_its_cursor_and_this_is_logged(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.node(store)
        self.opened(store, TOPIC, OTHER)
        with caplog.at_level(logging.WARNING):
            assert self.opened(store, OTHER) == {OTHER: 0}
        (record,) = caplog.records
        assert "host-1/node-1" in record.message
        assert f"topic {TOPIC}," in record.message

    def test_a_node_whose_topics_were_removed_goes_on_where_it_was(self, store: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC, OTHER)
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 2, (writer[N1].stream_id, OTHER): 3}))
        assert self.opened(store) == {}
        assert store.backlog() == []
        assert self.opened(store) == {}
        assert self.opened(store, "third") == {"third": 2}
        assert self.opened(store, "third", "fourth") == {"third": 2, "fourth": 4}

    def test_a_new_node_beside_others_starts_at_0(self, store: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC)
        writer.commit(cursors={writer[N1].stream_id: 4})
        store.create_node(1, N2)
        new = load(store).node(N2).stream_id
        assert flat(store.open_cursors(HOST, [TOPIC])) == {(writer[N1].stream_id, TOPIC): 4, (new, TOPIC): 0}

    def test_the_cursors_of_a_host_are_not_those_of_another(self, store: Store) -> None:
        first, other = settle(store, host="host-1", nodes=1), settle(store, host="host-2", nodes=1)
        assert flat(store.open_cursors("host-2", [OTHER])) == {(other[N1].stream_id, OTHER): 1}
        assert cursors(store, "host-1") == {(first[N1].stream_id, TOPIC): 0}

    def test_a_cursor_that_is_not_open_is_not_made_by_a_commit(self, store: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC)
        store.commit(Commit(cursors={(writer[N1].stream_id, OTHER): 2, (writer[N1].stream_id, TOPIC): 1}))
        assert self.opened(store, TOPIC) == {TOPIC: 1}

    def test_the_backlog_is_counted_for_each_topic(self, store: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC, OTHER)
        writer.commit(cursors={writer[N1].stream_id: 3})
        found = [(row.topic, row.sequence, row.cursor, row.rows) for row in store.backlog()]
        assert found == [(TOPIC, 4, 3, 1), (OTHER, 4, 0, 4)]

    def test_a_refused_notification_is_shown_until_the_cursor_has_passed_it(self, store: Store, second: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC, OTHER)

        def refused() -> list[tuple[int | None, str | None]]:
            return [(row.refused_sequence, row.refused_reason) for row in second.backlog()]

        store.mark_refused(writer[N1].stream_id, OTHER, 1, "too large: 🦊")
        assert refused() == [(None, None), (1, "too large: 🦊")]
        store.mark_refused(writer[N1].stream_id, OTHER, 1, None)
        assert refused() == [(None, None)] * 2
        store.mark_refused(writer[N1].stream_id, OTHER, 1, "again")
        store.commit(Commit(cursors={(writer[N1].stream_id, OTHER): 1}))
        assert refused() == [(None, None)] * 2

    def test_the_broker_s_alarm_is_kept_with_the_lease(self, store: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC)
        for blocked_since in (NOW, NOW + 1, None, NOW):
            assert store.take_lease([writer.host.id], "a", now=1, until=9, blocked_since=blocked_since)
            assert [row.blocked_since for row in store.backlog()] == [blocked_since]
        store.take_lease([writer.host.id], "b", now=2, until=9)
        assert [row.blocked_since for row in store.backlog()] == [NOW]
        store.release_lease("a")
        assert [row.blocked_since for row in store.backlog()] == [None]

    def test_the_outbox_is_read_up_to_a_number_of_bytes_but_at_least_one_row(self, store: Store) -> None:
        writer = self.node(store, rows=0)
        sizes = [10, 0, 20, 1000, 5]
        rows = [replace(note(writer[N1], n), payload=b"x" * size) for n, size in enumerate(sizes, 1)]
        store.commit(Commit(notifications=rows))

        def read(after: int, max_bytes: int, limit: int = ALL) -> list[int]:
            stream_id = writer[N1].stream_id
            return [row.sequence for row in store.outbox(stream_id, after=after, limit=limit, max_bytes=max_bytes)]

        assert read(0, 30) == [1, 2, 3]
        assert read(0, 29) == [1, 2]
        assert read(0, 30, limit=2) == [1, 2]
        assert read(0, 9) == [1]
        assert read(3, 1) == [4]
        assert read(1, 0) == [2]
        assert read(5, 1) == []
        assert read(0, ALL) == [1, 2, 3, 4, 5]

    def test_a_page_of_a_stream_says_how_far_the_stream_goes(self, store: Store, second: Store) -> None:
        writer = self.node(store)
        self.opened(store, TOPIC)
        ledger_id = store.histories()[-1].ledger_id

        def page(after: int, limit: int = ALL, max_bytes: int = ALL, node: str = N1) -> list[int] | None:
            """The first and the last number of the stream, and then those of the page."""
            found = second.stream_page(HOST, node, after=after, limit=limit, max_bytes=max_bytes)
            if found is None:
                return None
            assert found.ledger_id == ledger_id
            rows = store.outbox(writer[N1].stream_id, after=after, limit=limit, max_bytes=max_bytes)
            assert list(found.notifications) == rows
            return [found.first, found.last, *(row.sequence for row in rows)]

        assert page(0) == [1, 4, 1, 2, 3, 4]
        assert page(1, limit=2) == [1, 4, 2, 3]
        assert page(2, max_bytes=1) == [1, 4, 3]
        assert page(4) == page(99) == [1, 4]
        assert page(0, node=N2) is None
        assert second.stream_page("host-9", N1, after=0, limit=1, max_bytes=1) is None
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 3}))
        store.prune(1, answered_before=0, occurred_before=NOW + 1, limit=ALL)
        assert page(0) == [4, 4, 4]
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 4}))
        store.prune(1, answered_before=0, occurred_before=NOW + 1, limit=ALL)
        assert page(0) == page(4) == [5, 4]

    def test_a_stream_without_events_is_an_empty_page(self, store: Store) -> None:
        self.node(store, rows=0)
        page = store.stream_page(HOST, N1, after=0, limit=1, max_bytes=1)
        assert page is not None
        assert (page.first, page.last, list(page.notifications)) == (1, 0, [])

    def test_the_slowest_topic_decides_what_is_pruned(self, store: Store) -> None:
        writer = self.node(store)
        stream_id = writer[N1].stream_id

        def left_after_pruning() -> list[int]:
            store.prune(1, answered_before=0, occurred_before=NOW + 1, limit=ALL)
            return [row.sequence for row in store.outbox(stream_id, after=0, limit=ALL)]

        self.opened(store, TOPIC, OTHER)
        store.commit(Commit(cursors={(stream_id, TOPIC): 3, (stream_id, OTHER): 1}))
        assert left_after_pruning() == [2, 3, 4]
        self.opened(store, TOPIC)
        assert left_after_pruning() == [4]
        self.opened(store)
        assert left_after_pruning() == []

    def test_old_rows_behind_rows_from_the_future_are_pruned(self, store: Store) -> None:
        """A clock that was far ahead for a while leaves rows from the future."""
        writer = self.node(store, rows=0)
        ahead = [note(writer[N1], sequence, at=NOW * 2) for sequence in range(1, 41)]
        behind = [note(writer[N1], sequence, at=NOW - 1) for sequence in range(41, 101)]
        store.commit(Commit(notifications=[*ahead, *behind]))
        self.opened(store, TOPIC)
        store.commit(Commit(cursors={(writer[N1].stream_id, TOPIC): 99}))
        dropped = [store.prune(1, answered_before=0, occurred_before=NOW, limit=10) for _ in range(12)]
        assert sum(dropped) == 59
        assert max(dropped) <= 10
        left = [row.sequence for row in store.outbox(writer[N1].stream_id, after=0, limit=ALL)]
        assert left == [*range(1, 41), 100]


class DeadLetterContract(StoreCase):
    def test_dead_letters_are_read_as_they_were_kept_and_oldest_first(self, store: Store, second: Store) -> None:
        letters = [letter(1), letter(2, host="host-2", exchange=""), letter(3)]
        assert store.keep_dead_letters(letters[:2]) == 0
        assert second.keep_dead_letters(letters[2:]) == 0
        assert [row for _, row in store.dead_letters(ALL)] == letters
        assert [row for _, row in store.dead_letters(2)] == letters[:2]
        assert store.keep_dead_letters([]) == 0

    def test_a_dropped_dead_letter_is_gone_and_its_id_is_not_used_again(self, store: Store) -> None:
        store.keep_dead_letters([letter(1), letter(2), letter(3)])
        ids = [id for id, _ in store.dead_letters(ALL)]
        store.drop_dead_letters(ids[1:])
        store.drop_dead_letters([ids[1], max(ids) + 100])
        store.drop_dead_letters([])
        assert store.dead_letters(ALL) == [(ids[0], letter(1))]
        store.keep_dead_letters([letter(4)])
        ((_, first), (new, last)) = store.dead_letters(ALL)
        assert (first, last) == (letter(1), letter(4))
        assert new not in ids

    def test_the_oldest_dead_letters_over_the_number_are_dropped(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(monkeypatch, "MOST_DEAD_LETTERS", 3)
        assert store.keep_dead_letters([letter(1), letter(2)]) == 0
        assert store.keep_dead_letters([letter(3), letter(4), letter(5)]) == 2
        assert [row for _, row in store.dead_letters(ALL)] == [letter(3), letter(4), letter(5)]

    def test_the_oldest_dead_letters_over_the_bytes_are_dropped_but_not_the_last(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.limit(monkeypatch, "MOST_DEAD_LETTER_BYTES", 1000)
        assert store.keep_dead_letters([letter(1, size=500), letter(2, size=500)]) == 0
        assert store.keep_dead_letters([letter(3, size=501)]) == 2
        assert store.keep_dead_letters([letter(4, size=2000)]) == 1
        assert [row for _, row in store.dead_letters(ALL)] == [letter(4, size=2000)]

    def limit(self, monkeypatch: pytest.MonkeyPatch, name: str, value: int) -> None:
        from tracker_worker.store import memory_outcomes
        from tracker_worker.store.sql import dead_letters

        assert getattr(base, name) in (1000, 64 << 20)
        for module in (memory_outcomes, dead_letters):
            monkeypatch.setattr(module, name, value)
