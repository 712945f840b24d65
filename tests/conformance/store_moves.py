# SPDX-License-Identifier: Apache-2.0
"""The contract of a commit that gives nodes and hosts another place or name."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import HOST, NOW, begin, node_name, snapshot, update, uuid
from tests.support.store import ALL, TOPIC, StoreCase, Writer, answer, load, note, picture, register, settle
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Commit, Conflict, NodeMove, Store, StreamEnd

N1, N2 = node_name(1), node_name(2)
NEW = "rack-1.example.org"


def moved(store: Store, ledger: NodeLedger, *, host: str = HOST, name: str, at: int = NOW) -> Commit:
    """A commit that gives the node another host or name: the last event of its stream, and the next one of the other stream."""
    host_id = load(store, host).id
    store.stream_id(host, name)
    (stream,) = [stream for stream in store.streams(host) if stream.node == name]
    last = note(ledger, ledger.sequence + 1, at=at)
    end = StreamEnd(
        stream_id=ledger.stream_id, sequence=last.sequence, occurred_at=at, generation=ledger.next_generation
    )
    ledger.generation = ledger.next_generation
    ledger.host_id, ledger.host, ledger.name = host_id, host, name
    ledger.stream_id, ledger.sequence, ledger.last_at = stream.id, stream.sequence + 1, at
    return Commit(
        ledgers=[ledger],
        notifications=[last, note(ledger, ledger.sequence, at=at)],
        moves=[NodeMove(node_id=ledger.id, host_id=host_id, name=name, stream_id=stream.id)],
        ended_streams=[end],
    )


def sequences(store: Store, stream_id: int) -> list[int]:
    return [row.sequence for row in store.outbox(stream_id, after=0, limit=ALL)]


def assert_refused(store: Store, commit: Commit) -> None:
    """Assert that the commit is a conflict and changes nothing."""
    before = picture(store, "u-1")
    with pytest.raises(Conflict):
        store.commit(replace(commit, inbox_rows=[answer("u-1")]))
    assert picture(store, "u-1") == before


class MoveContract(StoreCase):
    def test_a_renamed_node_goes_on_on_the_stream_of_its_new_name(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        old = writer[N1].stream_id
        ledger = writer[N1]
        store.commit(moved(store, ledger, name=NEW, at=NOW + 5))
        ledger.committed()
        host = load(second)
        assert set(host.nodes) == {N2, NEW}
        assert snapshot(host.node(NEW)) == snapshot(ledger)
        streams = {stream.node: (stream.id, stream.sequence, stream.last_at) for stream in second.streams(HOST)}
        assert streams[N1] == (old, 3, NOW + 5)
        assert streams[NEW] == (ledger.stream_id, 1, NOW + 5)
        assert (sequences(second, old), sequences(second, ledger.stream_id)) == ([1, 2, 3], [1])

    def test_a_name_that_comes_back_goes_on_with_its_numbers(self, store: Store) -> None:
        writer = settle(store)
        first = writer[N1].stream_id
        store.commit(moved(store, writer[N1], name=NEW))
        store.commit(moved(store, load(store).node(NEW), name=N1))
        again = load(store).node(N1)
        assert (again.stream_id, again.sequence) == (first, 3)
        assert (again.id, again.generation) == (writer[N1].id, 3)

    def test_a_node_moves_to_another_host_with_what_it_is_charged(self, store: Store, second: Store) -> None:
        writer, target = settle(store), settle(store, host="host-2", nodes=1)
        writer.put(begin(1, node=N2)).put(begin(2, node=N1)).put(
            update(7, noted=True, node=N2, vm_state="deleted")
        ).commit()
        store.commit(moved(store, writer[N2], host="host-2", name=N2))
        source, host = load(second), load(second, "host-2")
        assert (set(source.nodes), set(host.nodes)) == ({N1}, {N1, N2})
        assert host.node(N2).allocations.keys() == {uuid(1)}
        assert host.node(N2).deletions.keys() == {uuid(7)}
        assert host.deleted_at(uuid(7)) == NOW
        assert (source.deleted_at(uuid(7)), source.holding(uuid(1))) == (None, None)
        assert [(host, held.uuid) for host, _, held in second.allocations(limit=ALL)] == [
            ("host-2", uuid(1)),
            (HOST, uuid(2)),
        ]
        assert target.host.id == host.id
        # The instance may be charged on the host that it has left, and on no other node of the one where it is.
        Writer(store).put(begin(1, node=N1)).commit()
        stale = Writer(store, "host-2")
        del stale.host.nodes[N2]
        stale.put(begin(1, node=N1))
        with pytest.raises(Conflict):
            stale.commit()

    def test_a_deletion_that_the_other_host_remembers_already_stays_there(self, store: Store) -> None:
        writer, target = settle(store), settle(store, host="host-2", nodes=1)
        target.put(update(7, noted=True, node=N1, vm_state="deleted")).commit()
        writer.put(update(7, noted=True, node=N2, vm_state="deleted"), NOW + 9)
        writer.put(update(8, noted=True, node=N2, vm_state="deleted")).commit()
        store.commit(moved(store, writer[N2], host="host-2", name=N2))
        host = load(store, "host-2")
        assert (host.node(N1).deletions, host.node(N2).deletions) == ({uuid(7): NOW}, {uuid(8): NOW})

    def test_a_name_goes_on_at_the_generation_at_which_a_node_has_left_it(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        told = writer[N1].next_generation
        store.commit(moved(store, writer[N1], name=NEW))
        second.create_node(writer.host.id, N1)
        assert load(store).node(N1).generation == told > 1
        assert {stream.node: stream.generation for stream in store.streams(HOST)} == {N1: told, N2: 0, NEW: 0}

    def test_the_names_that_no_node_has_are_found_with_where_they_were_left(self, store: Store, second: Store) -> None:
        writer, other = settle(store), settle(store, host="forgotten", nodes=1)
        assert store.left_streams() == []
        forgotten, left = other[N1].stream_id, writer[N1].stream_id
        store.commit(moved(store, writer[N1], name=NEW, at=NOW + 5))
        store.forget_host(other.host.id)
        found = {stream.id: stream for stream in second.left_streams()}
        assert list(found) == [forgotten, left]
        assert [(s.host, s.node, s.sequence, s.last_at, s.generation, s.cursors) for s in found.values()] == [
            ("forgotten", N1, 1, NOW, 1, {}),
            (HOST, N1, 2, NOW + 5, 2, {}),
        ]

    def test_a_name_goes_on_at_the_generation_at_which_its_node_was_forgotten(
        self, store: Store, second: Store
    ) -> None:
        writer, other = settle(store), settle(store, host="other", nodes=1)
        generation = writer[N1].stored_generation
        store.forget_host(writer.host.id)
        register(store)
        second.create_node(load(second).id, N1)
        assert load(store).node(N1).generation == generation > 0
        assert load(store, "other").node(N1).generation == other[N1].stored_generation

    def test_an_empty_node_makes_room_for_the_one_that_gets_its_name(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(update(7, noted=True, node=N2, vm_state="deleted")).commit()
        seen = {ledger.id: ledger.stored_generation for ledger in writer.host}
        dropped, stream_id = writer[N2].id, writer[N2].stream_id
        commit = moved(store, writer[N1], name=N2)
        store.commit(replace(commit, dropped_nodes=[dropped], verified={writer.host.id: seen}))
        host = load(second)
        assert set(host.nodes) == {N2}
        assert (host.node(N2).id, host.node(N2).stream_id, host.node(N2).sequence) == (writer[N1].id, stream_id, 2)
        assert host.node(N2).allocations.keys() == {uuid(1)}
        assert host.node(N2).deletions == {}
        second.create_node(host.id, "node-9")
        assert load(store).node("node-9").id != dropped

    def test_a_host_gets_another_name_with_the_streams_of_its_nodes(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit(answer("u-1"))
        host_id = writer.host.id
        moves, ends = [], []
        for ledger in writer.host:
            end = StreamEnd(stream_id=ledger.stream_id, sequence=ledger.sequence + 1, occurred_at=NOW, generation=1)
            ends.append(end)
            ledger.generation, ledger.host = ledger.next_generation, "new"
            ledger.stream_id, ledger.sequence = store.stream_id("new", ledger.name), 1
            moves.append(NodeMove(node_id=ledger.id, host_id=host_id, name=ledger.name, stream_id=ledger.stream_id))
        ledgers = list(writer.host)
        store.commit(Commit(ledgers=ledgers, host_names={host_id: "new"}, moves=moves, ended_streams=ends))
        assert second.host_names() == ["new"]
        assert load(second, "new").id == host_id
        assert {stream.node: stream.sequence for stream in second.streams("new")} == {N1: 1, N2: 1}
        assert {stream.node: stream.sequence for stream in second.streams(HOST)} == {N1: 3, N2: 2}
        assert load(second, "new").holding(uuid(1)) is not None
        assert {row.host for row in store.outbox(ends[0].stream_id, after=0, limit=ALL)} == {HOST}
        # A stream without a node keeps its cursors, so that its last events are published.
        assert [(row.host, row.cursor) for row in second.backlog() if row.topic == TOPIC] == [(HOST, 0), (HOST, 0)]

    def test_a_name_that_another_node_has_is_a_conflict(self, store: Store) -> None:
        writer = settle(store)
        assert_refused(store, moved(store, writer[N1], name=N2))

    def test_a_name_that_another_host_has_is_a_conflict(self, store: Store) -> None:
        host_id = settle(store).host.id
        register(store, "host-2")
        assert_refused(store, Commit(host_names={host_id: "host-2"}))
        assert_refused(store, Commit(host_names={77: "host-3"}))

    def test_a_charged_node_is_not_dropped(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N2)).commit()
        assert_refused(store, Commit(dropped_nodes=[writer[N2].id]))
        assert_refused(store, Commit(dropped_nodes=[writer[N2].id + 70]))

    def test_a_node_that_has_changed_does_not_move(self, store: Store, second: Store) -> None:
        stale = settle(store)[N1]
        Writer(second).put(begin(1, node=N1)).commit()
        store.stream_id(HOST, NEW)
        assert_refused(store, moved(store, stale, name=NEW))

    def test_a_verified_host_that_has_changed_is_a_conflict_of_a_move(self, store: Store, second: Store) -> None:
        writer = settle(store)
        seen = {ledger.id: ledger.stored_generation for ledger in writer.host}
        Writer(second).put(begin(1, node=N2)).commit()
        store.stream_id(HOST, NEW)
        commit = moved(store, writer[N1], name=NEW)
        assert_refused(store, replace(commit, verified={writer.host.id: seen}))

    def test_a_stream_with_later_events_is_not_ended(self, store: Store) -> None:
        stream_id = settle(store)[N1].stream_id
        assert_refused(
            store, Commit(ended_streams=[StreamEnd(stream_id=stream_id, sequence=1, occurred_at=NOW, generation=1)])
        )

    def test_an_instance_that_the_other_host_is_charged_for_does_not_move_there(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        settle(store, host="host-2").put(begin(1, node=N2)).commit()
        store.stream_id("host-2", NEW)
        assert_refused(store, moved(store, writer[N1], host="host-2", name=NEW))

    def test_the_commit_of_a_host_under_lock_moves_its_nodes(self, store: Store, second: Store) -> None:
        writer = settle(store)
        store.stream_id(HOST, NEW)
        commit = moved(store, writer[N1], name=NEW)
        with store.locked(writer.host.id) as locked:
            locked.commit(commit)
        assert set(load(second).nodes) == {N2, NEW}
