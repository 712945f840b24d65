# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with remembered deletions, and with the states and facts of nodes and claims."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import HOST, NOW, begin, inventory, node_name, update, uuid
from tests.support.store import StoreCase, Writer, load, settle, snapshots
from tracker_worker.domain import usage
from tracker_worker.domain.commands import (
    AbortClaim,
    DrainNode,
    ExpireClaims,
    ForgetDeletions,
    NoteElsewhere,
    RenewClaim,
    ReportList,
    ReportNode,
    RetireNode,
    UndrainNode,
    UpdateUsage,
)
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Commit, Conflict, Store

N1, N2 = node_name(1), node_name(2)


def deletion(number: int, node: str = N1) -> UpdateUsage:
    return update(number, noted=True, node=node, vm_state="deleted")


class DeletionContract(StoreCase):
    def test_deletions_are_remembered_at_their_node_and_forgotten(self, store: Store, second: Store) -> None:
        writer = settle(store)
        for number in (1, 2, 3):
            writer.put(deletion(number), NOW + number)
        writer.put(deletion(4, N2), NOW + 4).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert load(second).node(N1).deletions == {uuid(number): NOW + number for number in (1, 2, 3)}
        writer.put(ForgetDeletions(reported_before=NOW + 3, most=9)).commit()
        assert load(second).node(N1).deletions == {uuid(3): NOW + 3}
        assert load(second).deleted_at(uuid(4)) == NOW + 4

    def test_a_deletion_that_is_reported_again_has_its_last_time(self, store: Store) -> None:
        writer = settle(store).put(deletion(1)).commit()
        writer.put(deletion(1), NOW + 7).commit()
        assert load(store).deleted_at(uuid(1)) == writer.host.deleted_at(uuid(1))
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_they_are_read_in_the_order_of_their_times(self, store: Store, second: Store) -> None:
        writer = settle(store)
        for number in (3, 1, 2):
            writer.put(deletion(number), NOW + number)
        writer.commit()
        writer.put(deletion(1), NOW + 9).commit()
        assert list(load(second).node(N1).deletions) == [uuid(2), uuid(3), uuid(1)]

    def test_one_is_noted_and_the_oldest_forgotten_in_one_commit(
        self, store: Store, second: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(usage, "MOST_DELETIONS", 2)
        writer = settle(store).put(deletion(1, N2)).put(deletion(2), NOW + 2).commit()
        writer.put(deletion(3), NOW + 3).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert [load(second).deleted_at(uuid(number)) for number in (1, 2, 3)] == [None, NOW + 2, NOW + 3]

    def test_a_deletion_and_its_end_in_one_commit_leave_nothing(self, store: Store) -> None:
        writer = settle(store).put(deletion(1)).put(ForgetDeletions(reported_before=NOW + 1, most=9)).commit()
        assert load(store).deleted_at(uuid(1)) is None
        assert snapshots(load(store)) == snapshots(writer.host)

    def test_each_host_remembers_its_own(self, store: Store) -> None:
        first, other = settle(store, host="host-1"), settle(store, host="host-2")
        first.put(deletion(1)).commit()
        other.put(deletion(1), NOW + 5).put(deletion(2)).commit()
        first.put(ForgetDeletions(reported_before=NOW + 1, most=9)).commit()
        assert load(store, "host-1").deleted_at(uuid(1)) is None
        assert (load(store, "host-2").deleted_at(uuid(1)), load(store, "host-2").deleted_at(uuid(2))) == (NOW + 5, NOW)

    def test_a_deletion_raises_the_generation_so_that_others_see_it(self, store: Store, second: Store) -> None:
        settle(store)
        stale = Writer(second).put(begin(1, node=N1))
        Writer(store).put(deletion(1)).commit()
        with pytest.raises(Conflict):
            stale.commit()

    def test_a_deletion_is_seen_under_lock(self, store: Store, second: Store) -> None:
        writer = settle(store).put(deletion(1)).commit()
        with second.locked(writer.host.id) as locked:
            assert locked.ledger.deleted_at(uuid(1)) == NOW


class LifeContract(StoreCase):
    def test_what_is_known_of_a_node_is_kept(self, store: Store, second: Store) -> None:
        writer = settle(store, nodes=3)
        for seconds, command in enumerate(
            (
                ReportNode(node=N1, inventory=None, failure="the BMC does not answer"),
                ReportList(nodes=frozenset({N1, "node-3"})),
                NoteElsewhere(node=N1, host="host-9"),
                DrainNode(node=N1, reason="a new disk 🦊"),
                RetireNode(node=N2, reason="sold"),
                ReportNode(node=N1, inventory=inventory(vcpus=3)),
                UndrainNode(node=N1),
            )
        ):
            writer.put(command, NOW + seconds * SECOND).commit()
            assert snapshots(load(second)) == snapshots(writer.host)
        assert {name: ledger.life.state for name, ledger in load(second).nodes.items()} == {
            N1: "unknown",
            N2: "retired",
            "node-3": "open",
        }

    def test_missing_nodes_are_those_that_are_charged_and_not_listed(self, store: Store, second: Store) -> None:
        first, other = settle(store, host="host-2", nodes=4), settle(store, host="host-1", nodes=2)
        for number in (1, 2, 4):
            first.put(begin(number, node=node_name(number)))
        first.put(ReportList(nodes=frozenset({node_name(4)}))).put(DrainNode(node=N2, reason="moving")).commit()
        other.put(begin(5, node=N2)).put(ReportList(nodes=frozenset())).commit()
        # node-3 is empty, node-4 is listed; a node that is draining too is missing all the same.
        assert second.missing_nodes() == [("host-1", N2), ("host-2", N1), ("host-2", N2)]
        first.put(ReportList(nodes=frozenset({N1, N2}))).commit()
        assert store.missing_nodes() == [("host-1", N2), ("host-2", node_name(4))]

    def test_what_is_known_of_a_claim_is_kept(self, store: Store, second: Store) -> None:
        writer = settle(store)
        writer.put(replace(begin(1, node=N1), claim_id="chosen", on_expiry="release"))
        writer.put(replace(begin(2, node=N1), on_expiry="keep")).put(begin(3, node=N2)).commit()
        held = load(second).node(N1).allocations
        assert (held[uuid(1)].claim_id, held[uuid(1)].on_expiry) == ("chosen", "release")
        assert (held[uuid(2)].claim_id, held[uuid(2)].on_expiry) == (held[uuid(2)].id, "keep")
        writer.put(RenewClaim(claim_id="chosen", timeout=9999 * SECOND)).put(update(2, vm_state="active")).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        writer.put(ExpireClaims(node=N1, release=True), NOW + 5000 * SECOND).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        held = load(second).node(N1).allocations
        assert (held[uuid(2)].claim_state, held[uuid(2)].built) == ("expired", True)
        assert held[uuid(1)].claim_state == "begun"

    def test_an_id_of_an_allocation_has_one_row(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        first = writer[N1].allocations[uuid(1)].id
        writer.put(AbortClaim(claim_id=uuid(1))).put(begin(1, node=N1)).commit()
        assert load(store).node(N1).allocations[uuid(1)].id != first
        assert len(store.allocations(limit=9)) == 1

    def test_the_last_time_of_a_stream_is_kept_when_the_clock_falls(self, store: Store) -> None:
        writer = settle(store)
        writer.put(begin(1, node=N1), NOW + 5).put(begin(2, node=N1), NOW - 5).commit()
        assert load(store).node(N1).last_at == NOW + 5
        assert [stream.last_at for stream in store.streams(HOST)] == [NOW + 5, NOW]

    def test_a_commit_without_ledgers_changes_no_stream(self, store: Store) -> None:
        settle(store)
        before = store.streams(HOST)
        store.commit(Commit())
        assert store.streams(HOST) == before
