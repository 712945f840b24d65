# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with service records, with the histories of its data, and with the list of all allocations."""

from __future__ import annotations

from contextlib import suppress

import pytest
from msgspec.structs import replace

from tests.support.builders import HOST, NOW, begin, node_name, uuid
from tests.support.store import ALL, TOPIC, StoreCase, Writer, answer, load, picture, register, settle
from tracker_worker.domain.commands import AbortClaim, DrainNode, ReportList, RetireNode
from tracker_worker.store.base import Commit, Conflict, History, HostRecord, Store, StreamEnd
from tracker_worker.store.memory import MemoryStore

N1, N2 = node_name(1), node_name(2)
TOKENS = ("019bc0de-0000-7000-8000-00000000000a", "019bc0de-0000-7000-8000-00000000000b", "c")


class RecordContract(StoreCase):
    def test_the_record_of_a_host_is_what_its_worker_has_written(self, store: Store, second: Store) -> None:
        host_id = register(store)
        store.probe(host_id, NOW + 1)
        assert second.hosts() == [
            HostRecord(
                id=host_id,
                name=HOST,
                version="1.0",
                started_at=NOW,
                last_seen_at=NOW + 1,
                lease_owner=None,
                lease_expires_at=0,
                token=None,
                previous_token=None,
                nodes=0,
                instances=0,
                workers={},
            )
        ]
        store.take_lease([host_id], "w", now=NOW + 2, until=NOW + 9)
        (host,) = second.hosts()
        assert (host.lease_owner, host.lease_expires_at, host.last_seen_at) == ("w", NOW + 9, NOW + 2)
        assert host.workers == {}

    def test_records_are_in_the_order_of_names_and_count_nodes_and_what_they_are_charged(self, store: Store) -> None:
        settle(store, host="host-b", nodes=3).put(RetireNode(node=node_name(3), reason="sold")).commit()
        writer = settle(store, host="Host-a")
        writer.put(begin(1, node=N1)).put(begin(2, node=N1)).put(begin(3, node=N2)).commit()
        writer.put(AbortClaim(claim_id=uuid(2))).commit()
        register(store, "host-a")
        assert [(host.name, host.nodes, host.instances) for host in store.hosts()] == [
            ("Host-a", 2, 2),
            ("host-a", 0, 0),
            ("host-b", 2, 0),
        ]
        assert [store.host(host.name) for host in store.hosts()] == store.hosts()
        assert store.host("host-c") is None

    def test_what_is_written_together_is_there_and_nothing_that_is_broken_off_on_sql(
        self, store: Store, second: Store
    ) -> None:
        host_id = register(store)
        with store.together():
            store.create_node(host_id, N1)
            store.create_node(host_id, N2)
            assert [stream.node for stream in store.open_cursors(HOST, ["billing"])] == [N1, N2]
        with store.together():
            pass
        loaded = second.load_host(HOST)
        assert loaded is not None
        assert list(loaded.nodes) == [N1, N2]
        assert [stream.cursors for stream in second.streams(HOST)] == [{"billing": 0}] * 2
        with suppress(LookupError), store.together():
            store.create_node(host_id, "node-9")
            raise LookupError
        again = second.load_host(HOST)
        assert again is not None
        assert isinstance(store, MemoryStore) or list(again.nodes) == [N1, N2]
        store.create_node(host_id, "node-9")  # each by itself again
        assert [stream.node for stream in second.streams(HOST)] == [N1, N2, "node-9"]

    def test_the_last_two_tokens_are_kept(self, store: Store, second: Store) -> None:
        host_id, other = register(store), register(store, "other")
        seen = []
        for token in (TOKENS[0], TOKENS[1], TOKENS[1], TOKENS[2]):
            store.renew_token(host_id, token)
            (host,) = [host for host in second.hosts() if host.id == host_id]
            seen.append((host.token, host.previous_token))
        # A token that is written again, because nobody knows whether it was written, drives out no other one.
        assert seen == [(TOKENS[0], None), (TOKENS[1], TOKENS[0]), (TOKENS[1], TOKENS[0]), (TOKENS[2], TOKENS[1])]
        assert {host.token for host in store.hosts() if host.id == other} == {None}

    def test_registering_a_host_again_keeps_its_tokens(self, store: Store) -> None:
        host_id = register(store)
        store.renew_token(host_id, TOKENS[0])
        register(store)
        assert [host.token for host in store.hosts()] == [TOKENS[0]]

    def test_a_forgotten_host_is_gone_with_its_nodes_and_its_inbox_and_its_streams_stay(
        self, store: Store, second: Store
    ) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit(answer("u-1"))
        other = settle(store, host="other").commit(replace(answer("u-2"), host_id=writer.host.id + 1))
        writer.put(AbortClaim(claim_id=uuid(1))).commit()
        streams = store.streams(HOST)
        second.forget_host(writer.host.id)
        assert [host.name for host in store.hosts()] == store.host_names() == ["other"]
        assert store.load_host(HOST) is None
        assert store.progress([HOST]).generations == {}
        assert store.answered(["u-1", "u-2"]).keys() == {"u-2"}
        generations = [ledger.stored_generation for ledger in writer.host]
        assert store.streams(HOST) == [
            replace(stream, generation=generation) for stream, generation in zip(streams, generations, strict=True)
        ]
        assert len(store.outbox(writer[N1].stream_id, after=0, limit=ALL)) == 3
        assert load(store, "other").id == other.host.id
        second.forget_host(writer.host.id)

    def test_a_host_that_comes_back_has_another_id_and_goes_on_with_its_numbers(self, store: Store) -> None:
        writer = settle(store)
        node_ids = {ledger.id for ledger in writer.host}
        store.forget_host(writer.host.id)
        assert register(store) > writer.host.id
        store.create_node(load(store).id, N1)
        again = load(store).node(N1)
        assert again.id not in node_ids
        left = writer[N1]
        assert (again.stream_id, again.sequence, again.generation) == (left.stream_id, 1, left.stored_generation)
        with pytest.raises(Conflict):
            writer.put(begin(1, node=N1)).commit()

    def test_a_charged_host_is_not_forgotten(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N2)).commit(answer("u-1"))
        before = picture(store, "u-1")
        with pytest.raises(Conflict):
            store.forget_host(writer.host.id)
        assert picture(store, "u-1") == before

    def test_a_missing_node_is_one_that_is_charged_and_that_its_driver_does_not_list(
        self, store: Store, second: Store
    ) -> None:
        other, writer = settle(store, host="a host"), settle(store, nodes=3)
        for number, each in ((1, other), (1, writer)):
            each.put(begin(number, node=N1)).commit()
        writer.put(begin(2, node=N2)).commit()
        assert second.missing_nodes() == []
        other.put(ReportList(nodes=frozenset([N2]))).commit()
        # An operator's mark is shown before it; a node that is not charged does not count.
        writer.put(DrainNode(node=N2, reason="old")).put(ReportList(nodes=frozenset([N1]))).commit()
        assert second.missing_nodes() == [("a host", N1), (HOST, N2)]
        writer.put(ReportList(nodes=frozenset([N1, N2]))).commit()
        assert second.missing_nodes() == [("a host", N1)]

    def test_only_a_host_without_nodes_is_renamed_alone(self, store: Store) -> None:
        empty, taken = register(store, "empty"), settle(store, host="taken").host.id
        store.rename_host(empty, "new")
        assert store.host_names() == ["new", "taken"]
        before = picture(store)
        for host_id, name in ((empty, "taken"), (taken, "other")):
            with pytest.raises(Conflict):
                store.rename_host(host_id, name)
        assert picture(store) == before

    def test_a_stream_is_made_once(self, store: Store, second: Store) -> None:
        writer = settle(store)
        assert second.stream_id(HOST, N1) == writer[N1].stream_id
        made = second.stream_id(HOST, "node-9")
        assert store.stream_id(HOST, "node-9") == made
        assert [(each.id, each.sequence, each.last_at) for each in store.streams(HOST) if each.node == "node-9"] == [
            (made, 0, 0)
        ]
        assert [(each.sequence, each.last_at) for each in store.streams(HOST) if each.node == N1] == [(1, NOW)]

    def test_the_events_of_a_forgotten_host_are_found_until_they_are_confirmed_and_then_pruned(
        self, store: Store, second: Store
    ) -> None:
        writer, other = settle(store), settle(store, host="other", nodes=1)
        streams = [ledger.stream_id for ledger in writer.host]
        assert store.streams_without_host() == []
        store.forget_host(writer.host.id)
        assert second.streams_without_host() == [HOST]

        def left() -> list[int]:
            store.prune(other.host.id, answered_before=0, occurred_before=NOW + 1, limit=ALL)
            return [len(store.outbox(stream_id, after=0, limit=ALL)) for stream_id in streams]

        store.commit(Commit(cursors={(streams[0], TOPIC): 1}))
        assert second.streams_without_host() == [HOST]
        assert left() == [0, 1]
        store.commit(Commit(cursors={(streams[1], TOPIC): 1}))
        assert second.streams_without_host() == []
        assert left() == [0, 0]
        assert len(store.outbox(other[N1].stream_id, after=0, limit=ALL)) == 1

    def test_the_events_of_a_name_that_never_had_a_topic_are_found(self, store: Store) -> None:
        stream_id = store.stream_id("gone", N1)
        assert store.streams_without_host() == []
        store.commit(Commit(ended_streams=[StreamEnd(stream_id=stream_id, sequence=1, occurred_at=NOW, generation=1)]))
        assert store.streams_without_host() == ["gone"]
        store.open_cursors("gone", [TOPIC])
        assert store.streams_without_host() == ["gone"]
        store.open_cursors("gone", [])
        assert store.streams_without_host() == ["gone"]


class HistoryContract(StoreCase):
    def following(self, store: Store, ledger_id: str = "019bc0de-0000-7000-8000-0000000000ff") -> History:
        return History(ledger_id=ledger_id, since=NOW, reason="a test 🦊", predecessor=store.histories()[-1].ledger_id)

    def test_a_database_has_a_first_history_that_ledgers_name(self, store: Store, second: Store) -> None:
        (first,) = second.histories()
        assert (first.predecessor, first.reason) == (None, "a new database")
        writer = settle(store)
        assert {writer.host.ledger_id, *(ledger.ledger_id for ledger in writer.host)} == {first.ledger_id}
        with second.locked(writer.host.id) as locked:
            assert locked.ledger.ledger_id == first.ledger_id

    @pytest.mark.parametrize("under_lock", [False, True])
    def test_a_history_begins_with_a_commit(self, store: Store, second: Store, under_lock: bool) -> None:
        writer = settle(store).put(begin(1, node=N1))
        history = self.following(store)
        if under_lock:
            with store.locked(writer.host.id) as locked:
                locked.commit(replace(writer.made(), history=history))
        else:
            store.commit(replace(writer.made(), history=history))
        assert second.histories() == [*store.histories()[:1], history]
        assert (load(second).ledger_id, load(second).node(N1).sequence) == (history.ledger_id, 2)

    def test_a_history_has_one_successor(self, store: Store, second: Store) -> None:
        writer = settle(store)
        late = self.following(store, "late")
        store.commit(Commit(history=self.following(store)))
        writer.put(begin(1, node=N1))
        before = picture(store)
        for wrong in (late, replace(late, predecessor="unknown"), replace(late, predecessor=None)):
            with pytest.raises(Conflict):
                second.commit(replace(writer.made(), history=wrong))
        assert picture(store) == before

    def test_a_conflict_of_a_ledger_begins_no_history(self, store: Store, second: Store) -> None:
        settle(store)
        stale = Writer(store).put(begin(1, node=N1))
        Writer(second).put(begin(2, node=N1)).commit()
        before = picture(store)
        with pytest.raises(Conflict):
            store.commit(replace(stale.made(), history=self.following(store)))
        assert picture(store) == before


class AllocationsContract(StoreCase):
    def listed(self, store: Store, *, limit: int = ALL, **having: str) -> list[tuple[str, str, str]]:
        return [(host, node, held.uuid) for host, node, held in store.allocations(limit=limit, **having)]

    def test_allocations_are_listed_in_the_order_of_code_points_over_all_hosts(
        self, store: Store, second: Store
    ) -> None:
        names = ["a", "A", "b", "Z", "_", "é", "z", "🦊", "\uffff", uuid(1), "a-b", "aB", "ab"]
        for number, name in enumerate(names):
            host = f"host-{number % 2}"
            writer = Writer(store, host) if store.load_host(host) else settle(store, host=host)
            writer.put(begin(1, uuid=name, node=N1)).commit()
        assert [name for _, _, name in self.listed(second)] == sorted(names)
        held = {allocation.uuid: (host, node, allocation) for host, node, allocation in store.allocations(limit=ALL)}
        writer = Writer(store, "host-1")
        assert held["A"] == ("host-1", N1, writer[N1].allocations["A"])

    def test_pages_of_every_size_give_the_whole(self, store: Store) -> None:
        for host in ("host-1", "host-2"):
            writer = settle(store, host=host)
            for number in range(1, 8):  # each instance is charged on both hosts
                writer.put(begin(number, node=node_name(1 + number % 2)))
            writer.commit()
        whole = store.allocations(limit=ALL)
        assert len(whole) == 14
        assert whole == sorted(whole, key=lambda row: (row[2].uuid, row[2].id))
        for limit in (1, 3, 13, 14):
            paged = []
            after = None
            while page := store.allocations(limit=limit, after=after):
                assert len(page) <= limit
                paged += page
                after = (page[-1][2].uuid, page[-1][2].id)
            assert paged == whole

    def test_a_place_between_allocations_is_a_place(self, store: Store) -> None:
        settle(store).put(begin(1, node=N1)).put(begin(3, node=N1)).commit()
        assert [held.uuid for _, _, held in store.allocations(after=(uuid(2), ""), limit=ALL)] == [uuid(3)]
        assert store.allocations(after=("x", ""), limit=ALL) == []

    def test_what_is_listed_can_be_chosen(self, store: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2")
        first.put(begin(1, node=N1, project_id="p")).put(begin(2, node=N2, project_id="q")).commit()
        other.put(begin(3, node=N1, project_id="p")).put(begin(4, node=N1, project_id=None)).commit()
        assert self.listed(store, host="host-2") == [("host-2", N1, uuid(3)), ("host-2", N1, uuid(4))]
        assert self.listed(store, node=N1, host="host-1") == [("host-1", N1, uuid(1))]
        assert self.listed(store, project_id="p") == [("host-1", N1, uuid(1)), ("host-2", N1, uuid(3))]
        assert len(self.listed(store, role="instance")) == 4
        assert self.listed(store, role="hold") == self.listed(store, host="unknown") == []
        assert self.listed(store, node=N1, limit=1) == [("host-1", N1, uuid(1))]
