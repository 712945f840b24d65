# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with the relay, the leases and the pruning."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from tests.support.builders import NOW, begin, node_name
from tests.support.store import ALL, TOPIC, StoreCase, Writer, answer, cursors, note, register, settle
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import CARETAKER, Commit, OutboxBacklog, Store, standbys

N1, N2 = node_name(1), node_name(2)
OLD, YOUNG = NOW - 1000, NOW + 1000


def sequences(rows: list[Notification]) -> list[int]:
    return [row.sequence for row in rows]


class AttemptsContract(StoreCase):
    def test_attempts_are_counted_for_each_message(self, store: Store) -> None:
        assert [store.count_attempt("a", NOW) for _ in range(3)] == [1, 2, 3]
        assert store.count_attempt("b", NOW) == 1

    def test_old_attempts_are_pruned(self, store: Store) -> None:
        store.count_attempt("old", OLD)
        store.count_attempt("young", YOUNG)
        store.prune(register(store), answered_before=NOW, occurred_before=NOW, limit=ALL)
        assert store.count_attempt("old", NOW) == 1
        assert store.count_attempt("young", NOW) == 2


class OutboxContract(StoreCase):
    """``settle`` leaves one notification, sequence 1, in the outbox of each node."""

    def test_a_notification_is_read_as_it_was_written(self, store: Store) -> None:
        writer = settle(store)
        written = [note(writer[N1], 3, at=NOW + 1), note(writer[N1], 2)]
        store.commit(Commit(notifications=written))
        assert store.outbox(writer[N1].stream_id, after=1, limit=ALL) == written[::-1]

    def test_the_outbox_returns_notifications_in_order_after_a_sequence_up_to_the_limit(self, store: Store) -> None:
        writer = settle(store)
        for batch in ([11, 9], [2, 10], [3]):
            store.commit(Commit(notifications=[note(writer[N1], sequence) for sequence in batch]))
        stream_id = writer[N1].stream_id
        assert sequences(store.outbox(stream_id, after=0, limit=ALL)) == [1, 2, 3, 9, 10, 11]
        assert sequences(store.outbox(stream_id, after=2, limit=3)) == [3, 9, 10]
        assert sequences(store.outbox(stream_id, after=4, limit=1)) == [9]
        assert store.outbox(stream_id, after=11, limit=ALL) == []

    def test_each_node_has_its_own_outbox(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        assert sequences(store.outbox(writer[N1].stream_id, after=0, limit=ALL)) == [1, 2]
        assert sequences(store.outbox(writer[N2].stream_id, after=0, limit=ALL)) == [1]
        assert {row.node for row in store.outbox(writer[N2].stream_id, after=0, limit=ALL)} == {N2}

    def test_a_cursor_starts_at_0_and_only_moves_forward(self, store: Store) -> None:
        writer = settle(store)
        one, two = writer[N1].stream_id, writer[N2].stream_id
        assert cursors(store, writer.host.name) == {(one, TOPIC): 0, (two, TOPIC): 0}
        for moved, expected in ((5, 5), (3, 5), (5, 5), (6, 6)):
            store.commit(Commit(cursors={(one, TOPIC): moved}))
            assert cursors(store, writer.host.name) == {(one, TOPIC): expected, (two, TOPIC): 0}

    def test_one_commit_moves_the_cursors_of_several_hosts(self, store: Store) -> None:
        first, other = settle(store, host="host-1", nodes=1), settle(store, host="host-2", nodes=1)
        store.commit(Commit(cursors={(first[N1].stream_id, TOPIC): 1, (other[N1].stream_id, TOPIC): 7}))
        assert cursors(store, first.host.name) == {(first[N1].stream_id, TOPIC): 1}
        assert cursors(store, other.host.name) == {(other[N1].stream_id, TOPIC): 7}

    def test_the_backlog_of_a_node_counts_the_rows_after_its_cursor(self, store: Store) -> None:
        first, other = settle(store, host="host-1", nodes=2), settle(store, host="host-2", nodes=1)
        first.put(begin(1, node=N1), NOW + 1).commit()
        extra = [note(first[N1], sequence, at=NOW + sequence) for sequence in (3, 4, 5)]
        store.commit(
            Commit(notifications=extra, cursors={(first[N1].stream_id, TOPIC): 3, (other[N1].stream_id, TOPIC): 1})
        )
        figures = {row.stream_id: row for row in store.backlog()}
        assert figures == {
            first[N1].stream_id: OutboxBacklog(
                stream_id=first[N1].stream_id,
                host="host-1",
                node=N1,
                topic=TOPIC,
                sequence=2,
                cursor=3,
                rows=2,
                oldest_at=NOW + 4,
            ),
            first[N2].stream_id: OutboxBacklog(
                stream_id=first[N2].stream_id,
                host="host-1",
                node=N2,
                topic=TOPIC,
                sequence=1,
                cursor=0,
                rows=1,
                oldest_at=NOW,
            ),
            other[N1].stream_id: OutboxBacklog(
                stream_id=other[N1].stream_id,
                host="host-2",
                node=N1,
                topic=TOPIC,
                sequence=1,
                cursor=1,
                rows=0,
                oldest_at=None,
            ),
        }


class InboxContract(StoreCase):
    def test_the_inbox_returns_the_replies_of_recorded_messages(self, store: Store, second: Store) -> None:
        settle(store).commit(answer("u-1"), answer("u-2"))
        assert second.answered(["u-2", "u-3", "u-1"]) == {"u-1": answer("u-1").reply, "u-2": answer("u-2").reply}
        assert second.answered({"u-3"}) == {}
        assert second.answered([]) == {}

    def test_a_reply_may_be_empty_and_may_be_any_bytes(self, store: Store) -> None:
        everything = bytes(range(256)) * 4096
        for unique_id, reply in (("u-1", b""), ("u-2", everything)):
            store.commit(Commit(inbox_rows=[replace(answer(unique_id), reply=reply)]))
        assert store.answered(["u-1", "u-2"]) == {"u-1": b"", "u-2": everything}

    def test_the_inbox_can_be_read_for_2000_messages_in_one_call(self, store: Store) -> None:
        many = [f"{number:032x}" for number in range(2000)]
        store.commit(Commit(inbox_rows=[answer(unique_id) for unique_id in many]))
        assert store.answered(many).keys() == set(many)


class LeaseContract(StoreCase):
    @pytest.fixture
    def hosts(self, store: Store) -> list[int]:
        return [register(store, f"host-{number}") for number in (1, 2, 3)]

    def test_a_free_lease_is_taken_and_refused_to_other_owners(
        self, store: Store, second: Store, hosts: list[int]
    ) -> None:
        assert store.take_lease(hosts[:2], "a", now=0, until=10) == set(hosts[:2])
        assert second.take_lease(hosts, "b", now=5, until=15) == {hosts[2]}

    def test_a_lease_is_renewed(self, store: Store, second: Store, hosts: list[int]) -> None:
        store.take_lease(hosts[:1], "a", now=0, until=10)
        assert store.take_lease(hosts[:1], "a", now=9, until=19) == {hosts[0]}
        assert second.take_lease(hosts[:1], "b", now=15, until=25) == set()

    def test_a_lease_holds_up_to_its_end_and_is_free_after_it(
        self, store: Store, second: Store, hosts: list[int]
    ) -> None:
        store.take_lease(hosts[:1], "a", now=0, until=10)
        assert second.take_lease(hosts[:1], "b", now=10, until=20) == set()
        assert second.take_lease(hosts[:1], "b", now=11, until=21) == {hosts[0]}
        assert store.take_lease(hosts[:1], "a", now=12, until=22) == set()

    @pytest.mark.parametrize("owner", ["a", "b"])
    def test_a_lease_of_a_clock_that_was_wrong_is_free(
        self, store: Store, second: Store, hosts: list[int], owner: str
    ) -> None:
        store.take_lease(hosts[:2], "a", now=1000, until=1010)
        assert second.take_lease(hosts[:1], "b", now=994, until=1005) == set()
        assert second.take_lease(hosts[:1], owner, now=994, until=1004) == {hosts[0]}
        assert second.take_lease(hosts[:2], "b", now=0, until=10) == set(hosts[:2])

    def test_whoever_serves_a_host_takes_the_lease_of_a_caretaker(
        self, store: Store, second: Store, hosts: list[int]
    ) -> None:
        cares, other = f"a{CARETAKER}", f"b{CARETAKER}"
        assert store.take_lease(hosts[:2], cares, now=0, until=10) == set(hosts[:2])
        assert second.take_lease(hosts[:2], other, now=1, until=11) == set()
        assert second.take_lease(hosts[:1], "a", now=1, until=11) == {hosts[0]}
        assert store.take_lease(hosts[:2], cares, now=2, until=12) == {hosts[1]}

    def test_the_owner_of_an_expired_lease_may_take_it_again(self, store: Store, hosts: list[int]) -> None:
        store.take_lease(hosts[:1], "a", now=0, until=10)
        assert store.take_lease(hosts[:1], "a", now=100, until=110) == {hosts[0]}

    def test_releasing_a_lease_frees_only_the_leases_of_its_owner(
        self, store: Store, second: Store, hosts: list[int]
    ) -> None:
        store.take_lease(hosts[:2], "a", now=0, until=10)
        store.take_lease(hosts[2:], "c", now=0, until=10)
        store.release_lease("a")
        store.release_lease("nobody")
        assert second.take_lease(hosts, "b", now=1, until=11) == set(hosts[:2])

    def test_a_worker_says_which_hosts_it_serves(self, store: Store, second: Store, hosts: list[int]) -> None:
        store.take_lease(hosts[:2], "a", now=0, until=10, serves=hosts[:2])
        second.take_lease(hosts, "b", now=1, until=11, serves=hosts)
        assert self.workers(store) == [{"a": 10, "b": 11}, {"a": 10, "b": 11}, {"b": 11}]
        assert [standbys(host, 2) for host in store.hosts()] == [["b"], ["b"], []]
        store.take_lease(hosts[:1], "a", now=2, until=12)
        assert self.workers(store)[0] == {"a": 10, "b": 11}
        store.take_lease(hosts[:1], "a", now=2, until=12, serves=hosts[:1])
        assert self.workers(second) == [{"a": 12, "b": 11}, {"b": 11}, {"b": 11}]
        store.take_lease([], "a", now=2, until=12, serves=[])
        assert self.workers(second) == [{"b": 11}] * 3

    def test_a_worker_that_ends_or_is_silent_serves_no_host(
        self, store: Store, second: Store, hosts: list[int]
    ) -> None:
        for number, name in enumerate(("a", "b", "c")):
            store.take_lease(hosts[:1], name, now=number, until=number + 10, serves=hosts[:1])
        second.release_lease("b")
        assert self.workers(store)[0] == {"a": 10, "c": 12}
        (host, _, _) = store.hosts()
        assert (standbys(host, 10), standbys(host, 12), standbys(host, 13)) == (["c"], ["c"], [])
        second.take_lease(hosts[1:], "d", now=11, until=21, serves=hosts[1:])
        assert self.workers(store) == [{"c": 12}, {"d": 21}, {"d": 21}]

    def test_what_a_worker_with_a_wrong_clock_has_said_does_not_stay(self, store: Store, hosts: list[int]) -> None:
        store.take_lease(hosts[:1], "a", now=1000, until=1010, serves=hosts[:1])
        store.take_lease(hosts[:1], "b", now=994, until=1005, serves=hosts[:1])
        assert self.workers(store)[0] == {"a": 1010, "b": 1005}
        store.take_lease(hosts[:1], "c", now=0, until=10, serves=hosts[:1])
        assert self.workers(store)[0] == {"c": 10}

    def workers(self, store: Store) -> list[Mapping[str, int]]:
        return [host.workers for host in store.hosts()]

    def test_registering_a_host_again_keeps_its_lease(self, store: Store, hosts: list[int]) -> None:
        store.take_lease(hosts[:1], "a", now=0, until=10)
        register(store, "host-1")
        assert store.take_lease(hosts[:1], "b", now=5, until=15) == set()

    def test_an_unregistered_host_has_no_lease(self, store: Store, hosts: list[int]) -> None:
        assert store.take_lease([max(hosts) + 1], "a", now=0, until=10) == set()
        assert store.take_lease(iter(()), "a", now=0, until=10) == set()


class PruneContract(StoreCase):
    def prune(self, store: Store, limit: int = ALL, *, host_id: int | None = None) -> int:
        """Prune ``HOST`` unless ``host_id`` names another host."""
        host_id = register(store) if host_id is None else host_id
        return store.prune(host_id, answered_before=NOW, occurred_before=NOW, limit=limit)

    def filled(self, store: Store, *rows: tuple[int, int], cursor: int) -> Writer:
        """Write outbox rows of the first node, each with a sequence and a time. The row of sequence 1 has the time NOW."""
        writer = settle(store)
        notifications = [note(writer[N1], sequence, at=at) for sequence, at in rows]
        store.commit(Commit(notifications=notifications, cursors={(writer[N1].stream_id, TOPIC): cursor}))
        return writer

    def left(self, store: Store, writer: Writer, node: str = N1) -> list[int]:
        return sequences(store.outbox(writer[node].stream_id, after=0, limit=ALL))

    def test_old_inbox_rows_are_pruned_and_young_ones_stay(self, store: Store) -> None:
        times = {"u-1": OLD, "u-2": NOW - 1, "u-3": NOW, "u-4": YOUNG}
        store.commit(Commit(inbox_rows=[answer(unique_id, at=at) for unique_id, at in times.items()]))
        assert self.prune(store) == 2
        assert store.answered(times).keys() == {"u-3", "u-4"}
        assert self.prune(store) == 0

    def test_pruning_a_host_keeps_the_inbox_and_outbox_of_another_host(self, store: Store) -> None:
        """Copies of a request may wait for the other host's worker while that worker does not run."""
        writer = self.filled(store, (2, OLD), cursor=2)
        other = settle(store, host="other")
        store.commit(
            Commit(
                notifications=[note(other[N1], 2, at=OLD)],
                cursors={(other[N1].stream_id, TOPIC): 2},
                inbox_rows=[
                    answer("u-1", host_id=writer.host.id, at=OLD),
                    answer("u-2", host_id=other.host.id, at=OLD),
                ],
            )
        )
        assert self.prune(store, host_id=other.host.id) == 2
        assert store.answered(["u-1", "u-2"]).keys() == {"u-1"}
        assert (self.left(store, writer), self.left(store, other)) == ([1, 2], [1])

    def test_the_inbox_row_of_a_pruned_message_may_be_written_again(self, store: Store) -> None:
        store.commit(Commit(inbox_rows=[answer("u-1", at=OLD)]))
        self.prune(store)
        store.commit(Commit(inbox_rows=[answer("u-1")]))

    def test_old_confirmed_notifications_are_pruned_and_young_ones_stay(self, store: Store) -> None:
        writer = self.filled(store, (2, YOUNG), (3, YOUNG), cursor=3)
        assert self.prune(store) == 0
        writer = Writer(store)
        store.commit(Commit(notifications=[note(writer[N2], 2, at=OLD)], cursors={(writer[N2].stream_id, TOPIC): 2}))
        assert self.prune(store) == 1
        assert self.left(store, writer) == [1, 2, 3]
        assert self.left(store, writer, N2) == [1]

    def test_unconfirmed_notifications_are_never_pruned(self, store: Store) -> None:
        writer = self.filled(store, (2, OLD), (3, OLD), (4, OLD), cursor=2)
        assert self.prune(store) == 1
        assert self.left(store, writer) == [1, 3, 4]
        assert [row.rows for row in store.backlog()] == [2, 1]

    def test_a_young_notification_between_old_ones_stays(self, store: Store) -> None:
        """A clock that was set back leaves such a row."""
        writer = self.filled(store, (2, OLD), (3, YOUNG), (4, OLD), cursor=4)
        assert self.prune(store) == 2
        assert self.left(store, writer) == [1, 3]

    def test_the_limit_applies_to_each_kind_of_row_and_the_rest_is_pruned_later(self, store: Store) -> None:
        writer = self.filled(store, *((sequence, OLD) for sequence in range(2, 9)), cursor=8)
        store.commit(Commit(inbox_rows=[answer(f"u-{number}", at=OLD) for number in range(7)]))
        before = len(self.left(store, writer)), len(store.answered([f"u-{number}" for number in range(7)]))
        dropped = self.prune(store, limit=3)
        after = len(self.left(store, writer)), len(store.answered([f"u-{number}" for number in range(7)]))
        assert dropped == sum(before) - sum(after)
        assert all(0 < was - now <= 3 for was, now in zip(before, after, strict=True))
        while self.prune(store, limit=3):
            pass
        assert self.left(store, writer) == [1]

    def test_pruning_changes_no_generation_and_no_cursor(self, store: Store) -> None:
        writer = self.filled(store, (2, OLD), cursor=2)
        generations = store.progress([writer.host.name]).generations
        self.prune(store)
        assert store.progress([writer.host.name]).generations == generations
        assert cursors(store, writer.host.name) == {(writer[N1].stream_id, TOPIC): 2, (writer[N2].stream_id, TOPIC): 0}
