# SPDX-License-Identifier: Apache-2.0
"""The contract of a store with moves of instances."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, node_name, update, uuid
from tests.support.store import StoreCase, Writer, load, settle, snapshots
from tracker_worker.domain.commands import BeginMove, ExpireClaims, ForgetMoves, StepMove
from tracker_worker.domain.move import ABORT, CONFIRM, FINISH, REVERT, Move
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Conflict, Store

N1, N2 = node_name(1), node_name(2)
REMEMBERS = 10**6 * SECOND


def moved(
    number: int = 1,
    *,
    node: str = N2,
    move_id: str = "m1",
    kind: str = "resize",
    from_host: str | None = None,
    **fields: Any,
) -> BeginMove:
    """Move the instance to the node in a larger size."""
    claim = begin(number, node=node, vcpus=4, memory_mb=8192, **fields)
    return BeginMove(begin=claim, id=move_id, kind=kind, from_host=from_host)


def step(name: str, move_id: str = "m1", told: Move | None = None) -> StepMove:
    return StepMove(id=move_id, step=name, remembers=REMEMBERS, told=told)


class InstanceMoveContract(StoreCase):
    @pytest.mark.parametrize("node", [N1, N2])
    def test_each_step_is_kept(self, store: Store, second: Store, node: str) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        for command in (
            moved(node=node),
            step(FINISH),
            step(REVERT),
            moved(node=node, move_id="m2"),
            step(ABORT, "m2"),
            moved(node=node, move_id="m3", metadata={"name": "🦊"}),
            step(FINISH, "m3"),
            step(CONFIRM, "m3"),
        ):
            writer.put(command, NOW + 5).commit()
            assert snapshots(load(second)) == snapshots(writer.host)
        assert set(load(second).node(node).moves) == {"m1", "m2", "m3"}
        assert [held.role for _, held in load(second).charges(uuid(1))] == ["instance"]

    def test_a_hand_over_and_its_end_in_one_commit(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).commit()
        writer.put(moved()).put(step(FINISH)).put(step(CONFIRM)).commit()
        assert snapshots(load(second)) == snapshots(writer.host)

    def test_another_move_begins_in_the_commit_of_the_hand_over(self, store: Store, second: Store) -> None:
        writer = settle(store, nodes=3).put(begin(1, node=N1)).put(moved(kind="live_migration")).commit()
        writer.put(step(FINISH)).put(moved(node=node_name(3), move_id="m2")).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert [held.role for _, held in load(second).charges(uuid(1))] == ["instance", "incoming"]
        writer.put(step(FINISH, "m2")).put(step(CONFIRM, "m2")).put(moved(node=N1, move_id="m3")).commit()
        assert snapshots(load(second)) == snapshots(writer.host)

    def test_what_is_incoming_is_found_in_the_whole_ledger(self, store: Store, second: Store) -> None:
        settle(store).put(begin(1, node=N1)).put(moved()).commit()
        settle(store, host="host-2").put(begin(2, node=N1)).commit()
        assert second.incoming([uuid(1), uuid(2), uuid(3)]) == {uuid(1): (HOST, N2)}
        assert second.incoming([]) == {}

    def test_one_move_of_an_instance_begins_at_a_time(self, store: Store, second: Store) -> None:
        first, other = settle(store), settle(store, host="host-2")
        first.put(moved()).commit()
        other.put(moved(move_id="m2"))
        with pytest.raises(Conflict):
            other.commit()
        assert load(second, "host-2").node(N2).moving == {}
        first.put(step(FINISH)).commit()
        Writer(store, "host-2").put(moved(move_id="m2")).commit()
        assert second.incoming([uuid(1)]) == {uuid(1): ("host-2", N2)}

    def test_records_are_found_by_what_they_have(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(moved()).commit()
        told = writer.host.node(N2).moves["m1"]
        other = settle(store, host="host-2")
        other.put(moved(2, move_id="m0", kind="evacuation")).put(step(FINISH, "m0")).commit()
        found = second.moves(limit=9)
        assert [(host, move.id) for host, move in found] == [("host-2", "m0"), (HOST, "m1")]
        assert found[1][1] == told
        assert [move.id for _, move in second.moves(limit=1)] == ["m0"]
        for having, ids in (
            ({"move_id": "m1"}, ["m1"]),
            ({"open": True}, ["m1"]),
            ({"open": False}, ["m0"]),
            ({"move_id": "m9"}, []),
        ):
            assert [move.id for _, move in second.moves(**having, limit=9)] == ids

    def test_what_the_source_was_not_told_is_found(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N1)).commit()
        other = settle(store, host="host-2")
        for number, kind in ((1, "evacuation"), (2, "live_migration")):
            other.put(moved(number, move_id=f"m{number}", kind=kind, from_host=HOST))
        other.put(moved(3, move_id="m3", from_host="host-9")).put(moved(4, move_id="m4", kind="migration")).commit()
        assert second.untold_moves(limit=9) == []
        for number in range(1, 5):
            other.put(step(FINISH, f"m{number}"))
        other.commit()
        assert second.untold_moves(limit=9) == [other.host.move(move_id)[1] for move_id in ("m1", "m2")]
        assert [move.id for move in second.untold_moves(kind="live_migration", limit=9)] == ["m2"]
        assert [move.id for move in second.untold_moves(from_host=HOST, after="m1", limit=9)] == ["m2"]
        assert [move.id for move in second.untold_moves(from_host="host-2", limit=9)] == []
        assert [move.id for move in second.untold_moves(limit=1)] == ["m1"]
        writer.put(step(FINISH, "m1", told=other.host.move("m1")[1])).commit()
        assert [move.id for move in second.untold_moves(limit=9)] == ["m2"]

    def test_forgotten_moves_are_gone(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N1)).put(moved()).put(step(ABORT))
        writer.put(moved(2, move_id="m2")).commit()
        writer.put(ForgetMoves(begun_before=NOW + 1)).commit()
        assert [move.id for _, move in second.moves(limit=9)] == ["m2"]
        assert snapshots(load(second)) == snapshots(writer.host)

    def test_a_move_that_expires_is_kept_or_released(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(begin(2, node=N1)).put(moved())
        writer.put(moved(2, move_id="m2")).commit()
        writer.put(ExpireClaims(node=N2), NOW + 9999 * SECOND).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert load(second).node(N2).moves["m1"].state == "expired"
        writer.put(step(FINISH)).put(update(2, vm_state="deleted")).commit()
        assert snapshots(load(second)) == snapshots(writer.host)
        assert load(second).charges(uuid(2)) == []

    def test_what_a_node_has_of_moves_is_seen_under_lock(self, store: Store, second: Store) -> None:
        writer = settle(store).put(begin(1, node=N1)).put(moved()).put(step(FINISH)).commit()
        with second.locked(writer.host.id) as locked:
            assert snapshots(locked.ledger) == snapshots(writer.host)
