# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with hosts that others change at the same time: verified, refreshed and locked hosts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.support.builders import HOST, NOW, begin, node_name, uuid
from tests.support.store import (
    TOPIC,
    StoreCase,
    Writer,
    answer,
    cursors,
    load,
    picture,
    register,
    settle,
    snapshots,
    uuids,
)
from tracker_worker.domain.host import HostLedger
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.store.base import Commit, Conflict, Store

N1, N2 = node_name(1), node_name(2)


def generations(host: HostLedger) -> dict[int, int]:
    return {ledger.id: ledger.stored_generation for ledger in host}


class VerifiedContract(StoreCase):
    def test_a_commit_holds_if_the_verified_hosts_are_as_they_were_read(self, store: Store, second: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2", nodes=1)
        empty = register(store, "empty")
        seen = {host.id: generations(host) for host in (first.host, other.host)}
        second.commit(Commit(verified={**seen, empty: {}}, inbox_rows=[answer("u-1")]))
        assert second.answered(["u-1"])

    def test_a_commit_may_change_nodes_of_a_host_that_it_verifies(self, store: Store) -> None:
        writer = settle(store)
        seen = generations(writer.host)
        writer.put(begin(1, node=N1))
        store.commit(Commit(ledgers=[writer[N1]], verified={writer.host.id: seen}))
        assert uuids(list(load(store))) == [uuid(1)]

    @pytest.mark.parametrize("change", ["another generation", "a new node", "a missing node"])
    def test_a_verified_host_that_has_changed_is_a_conflict_and_changes_nothing(
        self, store: Store, second: Store, change: str
    ) -> None:
        settle(store, host="host-2")
        writer, seen = settle(store), load(store, "host-2")
        verified = {seen.id: generations(seen)}
        if change == "another generation":
            Writer(second, "host-2").put(begin(9, node=N2)).commit()
        elif change == "a new node":
            second.create_node(seen.id, "node-9")
        else:
            verified[seen.id][max(verified[seen.id]) + 10] = 0
        before = picture(store, "u-1")
        writer.put(begin(1, node=N1))
        with pytest.raises(Conflict):
            store.commit(Commit(ledgers=[writer[N1]], inbox_rows=[answer("u-1")], verified=verified))
        with pytest.raises(Conflict):
            store.commit(Commit(verified=verified))
        assert picture(store, "u-1") == before


class RefreshedContract(StoreCase):
    def test_hosts_at_the_known_generations_are_not_loaded(self, store: Store, second: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2")
        known = {host.name: generations(host) for host in (first.host, other.host)}
        assert second.refreshed(known) == {}
        assert second.refreshed({}) == {}

    def test_hosts_that_differ_are_loaded_as_they_are(self, store: Store, second: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2")
        known = {host.name: generations(host) for host in (first.host, other.host)}
        first.put(begin(1, node=N1)).commit()
        (found,) = second.refreshed(known).items()
        assert found[0] == "host-1"
        assert (found[1].id, found[1].name) == (first.host.id, "host-1")
        assert snapshots(found[1]) == snapshots(first.host)

    def test_a_host_differs_from_what_is_known_of_another_history(self, store: Store, second: Store) -> None:
        """However its generations are: the other history has them too."""
        settle(store, host="host-1")
        old = store.histories()[-1].ledger_id
        new = begin_history(store, predecessor=old, reason="a test", now=NOW, new_id=NewIds())
        found = second.refreshed({"host-1": {}})["host-1"]
        known = {"host-1": generations(found)}
        assert second.refreshed(known, ledger_id=new) == {}
        assert second.refreshed(known, ledger_id=old)["host-1"].ledger_id == new

    def test_a_host_with_a_new_node_differs(self, store: Store, second: Store) -> None:
        writer = settle(store, nodes=1)
        second.create_node(writer.host.id, N2)
        assert list(store.refreshed({HOST: generations(writer.host)})[HOST].nodes) == [N1, N2]

    def test_a_host_of_which_the_caller_has_nothing_is_loaded_also_without_nodes(self, store: Store) -> None:
        writer = settle(store, host="host-1")
        register(store, "empty")
        found = store.refreshed({"host-1": {}, "empty": {}, "unknown": {}, "gone": {7: 7}})
        assert found.keys() == {"host-1", "empty"}
        assert snapshots(found["host-1"]) == snapshots(writer.host)
        assert found["empty"].nodes == {}


class LockedContract(StoreCase):
    def test_a_locked_host_is_read_and_committed(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit(answer("u-1"))
        with store.locked(writer.host.id) as locked:
            assert snapshots(locked.ledger) == snapshots(writer.host)
            assert locked.answered(["u-1", "u-2"]) == {"u-1": answer("u-1").reply}
            late = Writer.on(store, locked.ledger).put(begin(2, node=N2))
            locked.commit(late.made(answer("u-2"), cursors={late[N1].stream_id: 1}))
        assert uuids(list(load(second))) == [uuid(1), uuid(2)]
        assert second.answered(["u-2"])
        assert cursors(second)[writer[N1].stream_id, TOPIC] == 1

    def test_a_block_without_a_commit_changes_nothing(self, store: Store) -> None:
        writer = settle(store)
        before = picture(store)
        with store.locked(writer.host.id) as locked:
            Writer.on(store, locked.ledger).put(begin(1, node=N1))
        assert picture(store) == before
        writer.put(begin(1, node=N1)).commit()

    def test_an_error_of_the_block_passes_and_changes_nothing(self, store: Store) -> None:
        writer = settle(store)
        with pytest.raises(ZeroDivisionError), store.locked(writer.host.id):
            raise ZeroDivisionError
        writer.put(begin(1, node=N1)).commit()

    def test_a_locked_host_is_committed_once_at_most(self, store: Store) -> None:
        writer = settle(store)
        with store.locked(writer.host.id) as locked:
            locked.commit(Commit(inbox_rows=[answer("u-1")]))
            with pytest.raises(RuntimeError, match="once"):
                locked.commit(Commit(inbox_rows=[answer("u-2")]))
        assert store.answered(["u-1", "u-2"]).keys() == {"u-1"}

    def test_a_conflict_under_lock_changes_nothing(self, store: Store) -> None:
        writer = settle(store).commit(answer("u-1"))
        before = picture(store, "u-1")
        with store.locked(writer.host.id) as locked:
            late = Writer.on(store, locked.ledger).put(begin(2, node=N2))
            with pytest.raises(Conflict):
                locked.commit(late.made(answer("u-1")))
        assert picture(store, "u-1") == before

    def test_a_host_that_does_not_exist_cannot_be_locked(self, store: Store) -> None:
        settle(store)
        with pytest.raises(LookupError), store.locked(77):
            pytest.fail("locked")

    def test_nobody_else_changes_a_locked_host(self, store: Store, second: Store) -> None:
        """A writer that decided before waits for the lock, and then meets a conflict; so does a new node wait."""
        writer = settle(store)
        stale = Writer(second).put(begin(9, node=N2))
        inside, committed = Event(), Event()

        def write() -> bool:
            inside.wait(30)
            try:
                stale.commit(answer("u-1"))
            except Conflict:
                return committed.is_set()
            return False

        def create() -> bool:
            inside.wait(30)
            second.create_node(writer.host.id, "node-9")
            return committed.is_set()

        with ThreadPoolExecutor(max_workers=2) as pool:
            with store.locked(writer.host.id) as locked:
                others = [pool.submit(write), pool.submit(create)]
                inside.set()
                late = Writer.on(store, locked.ledger)
                for number in (1, 2, 3):
                    late.put(begin(number, node=N1))
                late.put(begin(4, node=N2))
                committed.set()
                locked.commit(late.made())
            assert [other.result(timeout=60) for other in others] == [True, True]
        host = load(store)
        assert uuids(list(host)) == [uuid(number) for number in (1, 2, 3, 4)]
        assert host.node("node-9").generation == 0

    def test_writers_under_lock_lose_no_race_against_a_writer_that_does_not_lock(
        self, store: Store, second: Store
    ) -> None:
        settle(store)

        def under_lock(numbers: range) -> None:
            for number in numbers:
                with second.locked(1) as locked:
                    late = Writer.on(second, locked.ledger).put(begin(number, node=N1))
                    locked.commit(late.made(answer(f"u-{number}")))

        def optimistic(numbers: range) -> int:
            conflicts = 0
            for number in numbers:
                while True:
                    try:
                        Writer(store).put(begin(number, node=N1)).commit(answer(f"u-{number}"))
                        break
                    except Conflict:
                        conflicts += 1
            return conflicts

        with ThreadPoolExecutor(max_workers=3) as pool:
            works = [pool.submit(under_lock, range(100, 110)), pool.submit(under_lock, range(200, 210))]
            works.append(pool.submit(optimistic, range(300, 310)))
            for work in works:
                work.result(timeout=60)
        assert load(store).node(N1).generation == 31
        assert len(uuids(list(load(store)))) == 30

    def test_a_probe_writes_and_changes_no_ledger(self, store: Store) -> None:
        writer = settle(store)
        before = picture(store)
        store.probe(writer.host.id, NOW + 5)
        after = picture(store)
        (was,), (host,) = before.pop("hosts"), after.pop("hosts")
        assert (was.last_seen_at, host.last_seen_at) == (NOW, NOW + 5)
        assert after == before
