# SPDX-License-Identifier: Apache-2.0
"""Moves: what each step charges and tells, in any order, on one node, one host, and two hosts.

The file is long because each class is one kind of place, with the same moves.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import (
    HOST,
    NOW,
    TIMEOUT,
    begin,
    happened,
    host_ledger,
    play,
    refused,
    resources,
    snapshot,
    update,
    uuid,
)
from tests.support.moves import LARGE, N1, N2, SMALL, WEEK, charged, moved, other_host, roles, step, told
from tracker_worker.domain.commands import (
    BeginMove,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    ReleaseAllocation,
    RetireNode,
)
from tracker_worker.domain.events import MoveChanged, MoveNoted, MoveRejected, UsageReleased
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import (
    ClaimConflict,
    ComputeResourcesUnavailable,
    InvalidInput,
    MoveNotFound,
    NodeBusy,
    NodeDraining,
    NodeUnavailable,
)


@pytest.fixture
def host() -> HostLedger:
    """A host of two nodes, of which the first is charged for an instance that is built."""
    made = host_ledger(2)
    play(made, begin(1, node=N1))
    play(made, FinishClaim(claim_id=uuid(1)))
    return made


class TestInPlace:
    def test_old_and_new_are_charged_until_the_confirmation(self, host: HostLedger) -> None:
        begun = play(host, moved())
        assert charged(host) == {N1: {"instance": SMALL, "incoming": LARGE}}
        assert host.node(N1).usage == resources(10, 4096 + 8192 + 512, 130)
        assert roles(begun) == [(N1, "begun", "incoming")]
        assert roles(play(host, step(FINISH))) == [(N1, "finished", "instance")]
        assert charged(host) == {N1: {"instance": LARGE, "hold": SMALL}}
        assert roles(play(host, step(CONFIRM))) == [(N1, "confirmed", "instance")]
        assert charged(host) == {N1: {"instance": LARGE}}
        assert host.node(N1).stats.num_instances == 1

    def test_a_revert_brings_the_old_size_back_whatever_else_is_charged(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, step(FINISH))
        play(host, begin(2, node=N1, vcpus=100))
        assert roles(play(host, step(REVERT))) == [(N1, "reverted", "instance")]
        assert charged(host) == {N1: {"instance": SMALL}}

    def test_growth_beyond_the_limits_is_refused_with_every_shortfall(self, host: HostLedger) -> None:
        decision = play(host, moved(limits={"vcpu": 9, "memory_mb": 4096 + 512 + 8191, "disk_gb": 129}))
        assert isinstance(decision.error, ComputeResourcesUnavailable)
        assert [each["resource"] for each in decision.error.kwargs["shortfalls"]] == ["VCPU", "MEMORY_MB", "DISK_GB"]
        (event,) = happened(decision)
        assert isinstance(event, MoveRejected)
        assert charged(host) == {N1: {"instance": SMALL}}
        assert host.move("m1") is None

    def test_it_fits_exactly(self, host: HostLedger) -> None:
        assert play(host, moved(limits={"vcpu": 10})).error is None

    def test_what_was_reported_meanwhile_stays(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, update(1, project_id="another", display_name="new", vm_state="active"))
        play(host, step(FINISH))
        held = host.node(N1).allocations[uuid(1)].instance
        assert (held.project_id, held.display_name, held.vm_state, held.vcpus) == ("another", "new", "active", 8)
        play(host, update(1, vm_state="stopped"))
        play(host, step(REVERT))
        held = host.node(N1).allocations[uuid(1)].instance
        assert (held.project_id, held.vm_state, held.vcpus) == ("another", "stopped", 2)


class TestBetweenNodes:
    def test_each_node_tells_its_side_in_one_commit(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        assert charged(host) == {N1: {"instance": SMALL}, N2: {"incoming": LARGE}}
        assert sorted(roles(play(host, step(FINISH)))) == [(N1, "finished", "hold"), (N2, "finished", "instance")]
        assert charged(host) == {N1: {"hold": SMALL}, N2: {"instance": LARGE}}
        assert roles(play(host, step(CONFIRM))) == [(N1, "confirmed", "")]
        assert charged(host) == {N2: {"instance": LARGE}}

    def test_nodes_whose_times_differ_hand_over_all_the_same(self, host: HostLedger) -> None:
        """The clock was stepped back after the claim began."""
        play(host, moved(node=N2), NOW - 3600 * SECOND)
        play(host, step(FINISH), NOW - 3600 * SECOND)
        assert charged(host) == {N1: {"hold": SMALL}, N2: {"instance": LARGE}}

    def test_a_revert_tells_both(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        play(host, step(FINISH))
        assert sorted(roles(play(host, step(REVERT)))) == [(N1, "reverted", "instance"), (N2, "reverted", "")]
        assert charged(host) == {N1: {"instance": SMALL}}

    def test_a_live_migration_holds_nothing_and_cannot_be_reverted(self, host: HostLedger) -> None:
        play(host, moved(node=N2, kind="live_migration"))
        assert sorted(roles(play(host, step(FINISH)))) == [(N1, "finished", ""), (N2, "finished", "instance")]
        assert charged(host) == {N2: {"instance": LARGE}}
        refused(host, step(REVERT), ClaimConflict, instance_uuid=uuid(1))


class TestBetweenHosts:
    @pytest.fixture
    def destination(self) -> HostLedger:
        return other_host()

    def test_both_sides_have_one_effective_time(self, host: HostLedger, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        at = NOW + 7 * SECOND
        answer = play(destination, step(FINISH), at)
        source = play(host, step(FINISH, effective_at=at, told=told(answer.reply)), at + 90 * SECOND)
        for decision in (answer, source):
            assert [event.effective_at for event in happened(decision) if isinstance(event, MoveChanged)] == [at]
        assert charged(host) == {N1: {"hold": SMALL}}
        assert source.reply["old_resources"] == SMALL.to_dict()
        play(host, step(CONFIRM))
        assert charged(host) == {}

    @pytest.mark.parametrize("last", [CONFIRM, REVERT])
    def test_a_step_that_comes_first_at_the_source_brings_those_before_it(
        self, host: HostLedger, destination: HostLedger, last: str
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        decision = play(host, step(last, told=told(answer), effective_at=NOW + 9), NOW + 20)
        told_states = [(state, role) for _, state, role in roles(decision)]
        after = ("confirmed", "") if last == CONFIRM else ("reverted", "instance")
        assert told_states == [("finished", "hold"), after]
        assert next(event.effective_at for event in happened(decision)) == NOW + 5  # type: ignore[union-attr]
        assert charged(host) == ({} if last == CONFIRM else {N1: {"instance": SMALL}})
        again = play(host, step(FINISH, told=told(answer)))
        assert (again.events, again.reply["state"]) == ((), "confirmed" if last == CONFIRM else "reverted")

    def test_a_source_whose_instance_has_ended_tells_it(self, host: HostLedger, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        play(host, update(1, vm_state="deleted"))
        decision = play(host, step(FINISH, told=told(answer), effective_at=NOW + 5), NOW + 20)
        assert roles(decision) == [(N1, "finished", "")]
        assert charged(host) == {}

    def test_what_was_charged_after_the_move_began_is_not_handed_over(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        play(host, update(1, vm_state="deleted"))
        play(host, begin(1, node=N1), NOW + 9 * SECOND)
        decision = play(host, step(FINISH, told=told(answer), effective_at=NOW + 5), NOW + 20 * SECOND)
        assert charged(host) == {N1: {"instance": SMALL}}
        assert [type(event) for event in happened(decision)] == [
            MoveNoted
        ]  # an effective time would cut the new charge

    def test_an_unknown_move_is_not_found(self, host: HostLedger, destination: HostLedger) -> None:
        answer = play(destination, moved(kind="migration", from_host=HOST)).reply
        refused(host, step(FINISH), MoveNotFound, move_id="m1")
        refused(destination, step(FINISH, "m9"), MoveNotFound, move_id="m9")
        late = replace(told(answer), begun_at=NOW - WEEK - 1)
        refused(host, step(FINISH, told=late), MoveNotFound)
        refused(other_host(), step(FINISH, told=told(answer)), MoveNotFound)

    def test_a_source_that_the_destination_does_not_know_is_whoever_is_told(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration"))
        answer = play(destination, step(FINISH)).reply
        assert answer["from_host"] is None
        reply = play(host, step(FINISH, told=told(answer))).reply
        assert (reply["from_host"], reply["old_resources"]) == (HOST, SMALL.to_dict())
        assert charged(host) == {N1: {"hold": SMALL}}

    def test_without_a_time_the_source_takes_that_of_the_destination(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        assert play(host, step(FINISH, told=told(answer)), NOW + 50).reply["finished_at"] == answer["finished_at"]
        answer = play(destination, step(REVERT), NOW + 70).reply
        assert play(host, step(REVERT, told=told(answer)), NOW + 90).reply["ended_at"] == answer["ended_at"]

    def test_an_abort_of_what_was_handed_over_is_refused_at_the_source_too(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH)).reply
        refused(host, step(ABORT, told=told(answer)), ClaimConflict)
        play(host, step(FINISH, told=told(answer)))
        assert charged(host) == {N1: {"hold": SMALL}}

    def test_a_failure_brings_the_hand_over_to_the_source(self, host: HostLedger, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        decision = play(host, step(FAIL, told=told(answer)), NOW + 50)
        assert roles(decision) == [(N1, "finished", "hold"), (N1, "failed", "hold")]
        assert decision.reply["finished_at"] == answer["finished_at"]

    def test_a_failure_is_told_once_though_the_hand_over_is_learned_after_it(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        started = play(destination, moved(kind="migration", from_host=HOST)).reply
        assert roles(play(host, step(FAIL, told=told(started)), NOW + 1)) == [(N1, "failed", "instance")]
        answer = play(destination, step(FINISH), NOW + 5).reply
        play(host, update(1, vm_state="deleted"))
        play(host, begin(1, node=N1), NOW + 9 * SECOND)
        decision = play(host, step(FAIL, told=told(answer)), NOW + 20 * SECOND)
        assert [type(event) for event in happened(decision)] == [MoveNoted]
        assert (decision.reply["state"], decision.reply["finished_at"]) == ("failed", answer["finished_at"])

    def test_a_destination_confirms_nothing_before_the_hand_over(self, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        refused(destination, step(CONFIRM), ClaimConflict)

    def test_times_far_ahead_are_refused_at_the_source(self, host: HostLedger, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = told(play(destination, step(FINISH)).reply)
        ahead = NOW + 2 * 3600 * SECOND
        refused(host, step(FINISH, told=answer, effective_at=ahead), InvalidInput, field="effective_at")
        refused(host, step(FINISH, told=replace(answer, begun_at=ahead)), InvalidInput, field="move.begun_at")

    def test_a_late_hand_over_takes_back_nothing_of_a_later_stay(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        """The instance was released here before the word came, came back by another move, and left by a third one."""
        play(destination, moved(kind="live_migration", from_host=HOST))
        first = play(destination, step(FINISH), NOW + 20 * SECOND).reply
        play(host, update(1, vm_state="deleted"), NOW + 40 * SECOND)
        play(host, moved(move_id="m2", kind="live_migration", from_host="host-2"), NOW + 60 * SECOND)
        play(host, step(FINISH, "m2"), NOW + 70 * SECOND)
        there = other_host()
        play(there, moved(move_id="m3", kind="live_migration", from_host=HOST), NOW + 80 * SECOND)
        third = play(there, step(FINISH, "m3"), NOW + 90 * SECOND).reply
        play(host, step(FINISH, "m3", told=told(third)), NOW + 91 * SECOND)
        late = play(host, step(FINISH, told=told(first)), NOW + 100 * SECOND)
        assert [type(event) for event in happened(late)] == [MoveNoted]

    def test_a_deletion_after_the_expiry_is_not_undone_by_a_late_hand_over(self, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        late = NOW + TIMEOUT + 1
        play(destination, ExpireClaims(node=N1, release=True), late)
        gone = play(destination, update(1, noted=True, vm_state="deleted"), late + 1)
        assert gone.reply == {"tracked": False, "changed": False}
        assert roles(gone) == [(N1, "aborted", "")]
        assert destination.deleted_at(uuid(1)) == late + 1
        assert play(destination, step(FINISH), late + 2).reply["state"] == "aborted"
        assert charged(destination) == {}

    def test_what_has_lost_its_record_ends_with_the_instance(self, host: HostLedger, destination: HostLedger) -> None:
        """Its node has come to another host."""
        play(host, moved(node=N2))
        play(host, step(FINISH))
        host.node(N2).moves.clear()
        assert roles(play(host, update(1, vm_state="deleted"))) == [(N1, "confirmed", "")]
        play(destination, moved(kind="migration"))
        destination.node(N1).moves.clear()
        released = ReleaseAllocation(uuid=uuid(1), reason="gone", released_by="o")
        assert roles(play(destination, released)) == [(N1, "aborted", "")]
        assert (charged(host), charged(destination)) == ({}, {})

    def test_a_deletion_is_told_to_both_in_any_order(self, host: HostLedger, destination: HostLedger) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        incoming = play(destination, update(1, vm_state="deleted"))
        assert roles(incoming) == [(N1, "aborted", "")]
        assert incoming.reply == {"tracked": True, "changed": True}
        play(host, update(1, vm_state="deleted"))
        assert (charged(host), charged(destination)) == ({}, {})

    def test_a_deletion_after_the_hand_over_ends_what_is_on_hold(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH)).reply
        play(host, step(FINISH, told=told(answer)))
        assert roles(play(host, update(1, vm_state="deleted"))) == [(N1, "confirmed", "")]
        decision = play(destination, update(1, vm_state="deleted"))
        assert isinstance(happened(decision)[-1], UsageReleased)
        assert (charged(host), charged(destination)) == ({}, {})
        assert play(destination, step(REVERT)).reply["state"] == "confirmed"

    def test_a_report_at_the_source_never_touches_what_is_on_hold(
        self, host: HostLedger, destination: HostLedger
    ) -> None:
        play(destination, moved(kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH)).reply
        play(host, step(FINISH, told=told(answer)))
        before = snapshot(host.node(N1))
        assert play(host, update(1, memory_mb=1, vm_state="active")).reply == {"tracked": False, "changed": False}
        assert snapshot(host.node(N1)) == before


class TestConflicts:
    def test_a_repetition_is_answered_with_the_move_in_any_state(self, host: HostLedger) -> None:
        first = play(host, moved()).reply
        assert play(host, moved()).reply == {**first, "generation": host.node(N1).generation}
        play(host, step(FINISH))
        assert play(host, moved()).reply["state"] == "finished"

    @pytest.mark.parametrize(
        "other",
        [
            moved(kind="migration"),
            moved(node=N2),
            moved(2),
            BeginMove(begin=begin(1, node=N1), id="m1", kind="resize"),
            moved(move_id="m2"),
            moved(move_id="m2", node=N2),
            moved(move_id="m2", moves_to=("host-9", "n")),
        ],
    )
    def test_another_move_is_a_conflict(self, host: HostLedger, other: BeginMove) -> None:
        play(host, moved())
        refused(host, other, ClaimConflict)

    def test_a_hold_is_in_the_way_of_another_move(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, step(FINISH))
        refused(host, moved(move_id="m2"), ClaimConflict, instance_uuid=uuid(1))

    def test_a_claim_for_what_moves_is_a_conflict(self) -> None:
        host = host_ledger()
        play(host, moved())
        refused(host, begin(1), ClaimConflict, instance_uuid=uuid(1))

    def test_a_source_that_is_another_one_is_a_conflict(self, host: HostLedger) -> None:
        refused(host, moved(from_host="host-9"), ClaimConflict)
        refused(host, moved(from_node=N2), ClaimConflict)

    def test_states_of_a_node_are_those_of_a_claim(self, host: HostLedger) -> None:
        play(host, DrainNode(node=N2, reason="a disk"))
        refused(host, moved(node=N2), NodeDraining)
        refused(host_ledger(disabled=True), moved(), NodeUnavailable, state="unsupported")

    def test_a_deletion_that_is_remembered_is_in_the_way(self) -> None:
        host = host_ledger()
        play(host, update(1, noted=True, vm_state="deleted"))
        late = moved()
        refused(host, replace(late, begin=replace(late.begin, remembers_deletions=TIMEOUT)), ClaimConflict)

    def test_an_instance_that_is_deleted_cannot_be_moved(self, host: HostLedger) -> None:
        gone = begin(1, node=N1, vm_state="deleted")
        refused(host, BeginMove(begin=gone, id="m1", kind="resize"), InvalidInput, field="instance.vm_state")

    @pytest.mark.parametrize("node", [N1, N2])
    @pytest.mark.parametrize("name", [ABORT, FINISH])
    def test_a_late_step_of_a_move_that_has_expired_leaves_another_one_alone(
        self, host: HostLedger, node: str, name: str
    ) -> None:
        later = NOW + 3 * TIMEOUT
        play(host, moved(node=N2))
        play(host, ExpireClaims(node=N2, release=True), now=later)
        play(host, moved(node=node, move_id="m2"), now=later)
        play(host, step(name), now=later)
        assert charged(host)[node]["incoming"] == LARGE
        play(host, step(ABORT, "m2"), now=later)
        assert "incoming" not in charged(host)[N1]

    def test_a_late_confirmation_of_what_held_nothing_leaves_another_hold_alone(self, host: HostLedger) -> None:
        play(host, moved(node=N2, kind="live_migration"))
        play(host, step(FINISH))
        play(host, moved(node=N1, move_id="m2"))
        play(host, step(FINISH, "m2"))
        play(host, step(CONFIRM))
        assert charged(host) == {N1: {"instance": LARGE}, N2: {"hold": LARGE}}

    def test_what_is_handed_over_is_not_aborted(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, step(FINISH))
        refused(host, step(ABORT), ClaimConflict)

    def test_a_node_with_anything_for_a_move_is_not_retired(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        refused(host, RetireNode(node=N2, reason=""), NodeBusy, instances=[uuid(1)])


def test_a_move_that_is_noted_only_is_not_published(host: HostLedger) -> None:
    destination = other_host()
    play(destination, moved(kind="migration", from_host=HOST))
    play(destination, step(FINISH))
    decision = play(destination, step(CONFIRM))
    assert all(isinstance(event, MoveNoted) for event in happened(decision))
    assert decision.reply["state"] == "confirmed"
