# SPDX-License-Identifier: Apache-2.0
"""Moves: what each step charges and tells, in any order, on one node, one host, and two hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.builders import (
    HOST,
    NOW,
    TIMEOUT,
    begin,
    happened,
    host_ledger,
    inventory,
    node_name,
    play,
    refused,
    resources,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain import queries
from tracker_worker.domain.commands import (
    AbortClaim,
    BeginMove,
    CompareInstances,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    ForgetMoves,
    ReleaseAllocation,
    ReportNode,
    RetireNode,
    StepMove,
)
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.events import ClaimExpired, MoveChanged, MoveNoted, MoveRejected, UsageReleased
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT, Move
from tracker_worker.domain.policy import Policy
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
from tracker_worker.service.requests import moves as requests

POLICY = Policy(claim_timeout=TIMEOUT, capacity_limits=False, release_expired=False, reserved=resources())
N1, N2 = node_name(1), node_name(2)
WEEK = 168 * 3600 * SECOND
SMALL, LARGE = resources(2, 4096, 50), resources(8, 8192, 80)


def moved(
    number: int = 1, *, node: str = N1, move_id: str = "m1", kind: str = "resize", limits: Any = None, **more: Any
) -> BeginMove:
    """Move the instance to the node, in a larger size."""
    sizes = {"vcpus": 8, "memory_mb": 8192, "root_gb": 70, "ephemeral_gb": 10}
    return BeginMove(begin=begin(number, node=node, limits=limits, **sizes), id=move_id, kind=kind, **more)


def step(name: str, move_id: str = "m1", **more: Any) -> StepMove:
    return StepMove(id=move_id, step=name, remembers=WEEK, **more)


def told(view: Mapping[str, Any]) -> Move:
    """What a destination has answered, as its caller brings it to the source."""
    command = requests.step(FINISH)({"move_id": view["id"], "move": view}, {}, POLICY)
    assert command.told is not None
    return command.told


def charged(host: HostLedger) -> dict[str, Any]:
    """Of each node, the vectors by role that it is charged for the first instance."""
    found: dict[str, Any] = {}
    for ledger, held in host.charges(uuid(1)):
        found.setdefault(ledger.name, {})[held.role] = held.resources
    return found


def roles(decision: Decision) -> list[tuple[str, str, str]]:
    """(node, state of the move, role) of the events that are published."""
    return [
        (ledger.name, event.move.state, event.role)
        for ledger, event in decision.events
        if isinstance(event, MoveChanged)
    ]


def other_host(nodes: int = 1) -> HostLedger:
    """A host of another name."""
    host = host_ledger(nodes)
    host.id, host.name = 2, "host-2"
    for ledger in host:
        ledger.host, ledger.id = "host-2", ledger.id + 10
    return host


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


class TestBetweenNodes:
    def test_each_node_tells_its_side_in_one_commit(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        assert charged(host) == {N1: {"instance": SMALL}, N2: {"incoming": LARGE}}
        assert sorted(roles(play(host, step(FINISH)))) == [(N1, "finished", "hold"), (N2, "finished", "instance")]
        assert charged(host) == {N1: {"hold": SMALL}, N2: {"instance": LARGE}}
        assert roles(play(host, step(CONFIRM))) == [(N1, "confirmed", "")]
        assert charged(host) == {N2: {"instance": LARGE}}

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

    def test_what_is_handed_over_is_not_aborted(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, step(FINISH))
        refused(host, step(ABORT), ClaimConflict)

    def test_a_node_with_anything_for_a_move_is_not_retired(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        refused(host, RetireNode(node=N2, reason=""), NodeBusy, instances=[uuid(1)])


class TestEnds:
    @pytest.mark.parametrize("name", [ABORT, REVERT])
    def test_before_the_hand_over_an_abort_leaves_everything_as_before(self, host: HostLedger, name: str) -> None:
        play(host, moved(node=N2))
        decision = play(host, step(name))
        assert roles(decision) == [(N2, "aborted", "")]
        assert charged(host) == {N1: {"instance": SMALL}}
        for late in (FINISH, CONFIRM, REVERT, ABORT, FAIL):
            again = play(host, step(late))
            assert (again.events, again.reply["state"]) == ((), "aborted")
        assert play(host, moved(node=N2, move_id="m2")).error is None

    @pytest.mark.parametrize("release", [False, True])
    def test_a_move_expires_as_a_claim_does_and_may_be_finished_after_that(
        self, host: HostLedger, release: bool
    ) -> None:
        play(host, moved(node=N2, limits={"vcpu": 8}))
        late = NOW + TIMEOUT + 1
        decision = play(host, ExpireClaims(node=N2, release=release), late)
        assert roles(decision) == [(N2, "expired", "" if release else "incoming")]
        assert happened(play(host, ExpireClaims(node=N2, release=release), late + 9)) == []
        play(host, begin(2, node=N2, vcpus=30), late)
        play(host, step(FINISH), late + 5)
        assert charged(host) == {N1: {"hold": SMALL}, N2: {"instance": LARGE}}

    def test_what_is_handed_over_does_not_expire_but_may_confirm_by_itself(self, host: HostLedger) -> None:
        play(host, moved())
        play(host, step(FINISH))
        assert happened(play(host, ExpireClaims(node=N1, release=True), NOW + 99 * TIMEOUT)) == []
        expire = ExpireClaims(node=N1, confirms_after=TIMEOUT)
        assert happened(play(host, expire, NOW + TIMEOUT)) == []
        assert roles(play(host, expire, NOW + TIMEOUT + 1)) == [(N1, "confirmed", "instance")]
        assert charged(host) == {N1: {"instance": LARGE}}

    def test_a_failed_move_stays_charged_and_never_expires(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        assert roles(play(host, step(FAIL))) == [(N2, "failed", "incoming")]
        assert happened(play(host, step(FAIL))) == []
        assert happened(play(host, ExpireClaims(node=N2, release=True), NOW + 99 * TIMEOUT)) == []
        assert charged(host) == {N1: {"instance": SMALL}, N2: {"incoming": LARGE}}
        play(host, step(CONFIRM))
        assert charged(host) == {N2: {"instance": LARGE}}

    def test_a_deletion_ends_both_sides_of_a_host(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        decision = play(host, update(1, vm_state="deleted"))
        assert roles(decision) == [(N2, "aborted", "")]
        assert isinstance(happened(decision)[-1], UsageReleased)
        assert charged(host) == {}

    def test_an_operators_release_ends_what_is_there(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        play(host, step(FINISH))
        reply = play(host, ReleaseAllocation(uuid=uuid(1), reason="gone", released_by="o")).reply
        assert (reply["node"], reply["role"]) == (N2, "instance")
        assert charged(host) == {}
        play(host, moved(2, move_id="m2"))
        assert play(host, ReleaseAllocation(uuid=uuid(2), reason="gone", released_by="o")).reply["role"] == "incoming"
        assert host.charges(uuid(2)) == []

    def test_a_claim_that_expires_at_the_source_leaves_what_is_incoming(self) -> None:
        host = host_ledger(2)
        play(host, begin(1, node=N1))
        play(host, moved(node=N2), NOW + TIMEOUT)
        decision = play(host, ExpireClaims(node=N1, release=True), NOW + TIMEOUT + 1)
        assert isinstance(happened(decision)[0], ClaimExpired)
        assert charged(host) == {N2: {"incoming": LARGE}}
        play(host, step(FINISH), NOW + TIMEOUT + 2)
        assert charged(host) == {N2: {"instance": LARGE}}

    def test_a_finish_after_the_instance_was_claimed_anew_is_a_conflict(self) -> None:
        host = host_ledger()
        play(host, moved())
        play(host, ExpireClaims(node=N1, release=True), NOW + TIMEOUT + 1)
        play(host, begin(1, node=N1), NOW + TIMEOUT + 2)
        refused(host, step(FINISH), ClaimConflict)

    def test_a_move_of_what_is_on_hold_elsewhere_on_the_host_confirms_that(self, host: HostLedger) -> None:
        """The instance moves on, to a host that knows nothing of the first move."""
        play(host, moved())
        play(host, step(FINISH))
        destination = other_host()
        play(destination, moved(move_id="m2", kind="migration", from_host=HOST))
        answer = play(destination, step(FINISH, "m2"), NOW + 5).reply
        decision = play(host, step(FINISH, "m2", told=told(answer)), NOW + 9)
        assert [(state, role) for _, state, role in roles(decision)] == [
            ("confirmed", "instance"),
            ("finished", "hold"),
        ]
        assert charged(host) == {N1: {"hold": LARGE}}

    def test_closed_moves_are_forgotten_after_a_while(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        assert happened(play(host, ForgetMoves(begun_before=NOW + 1))) == []
        play(host, step(ABORT))
        play(host, ForgetMoves(begun_before=NOW))
        assert host.move("m1") is not None
        play(host, ForgetMoves(begun_before=NOW + 1))
        assert host.move("m1") is None


class TestTimes:
    @pytest.mark.parametrize("ahead", [0, 1, 2 * SECOND])
    def test_a_little_ahead_of_the_destination_is_now(self, host: HostLedger, ahead: int) -> None:
        play(host, moved())
        reply = play(host, step(FINISH, effective_at=NOW + ahead)).reply
        assert reply["finished_at"] == "2026-01-15T12:00:00.000000Z"

    @pytest.mark.parametrize("wrong", [NOW - 1, NOW + 2 * SECOND + 1])
    def test_before_the_move_or_far_ahead_is_refused(self, host: HostLedger, wrong: int) -> None:
        play(host, moved())
        refused(host, step(FINISH, effective_at=wrong), InvalidInput, field="effective_at")

    def test_a_hand_over_may_be_told_late(self, host: HostLedger) -> None:
        play(host, moved())
        decision = play(host, step(FINISH, effective_at=NOW + 5), NOW + 99 * SECOND)
        assert [event.effective_at for event in happened(decision)] == [NOW + 5]  # type: ignore[union-attr]


class TestReading:
    def test_usage_counts_roles_apart(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        project = host.node(N1).allocations[uuid(1)].instance.project_id
        usage = dict(queries.read([host], queries.GetUsage(project_id=None), NOW))
        vector = {"instances": 1, **LARGE.to_dict()}
        assert usage == {project: {"instances": 1, **SMALL.to_dict(), "incoming": vector}}
        play(host, update(1, vm_state="deleted"))
        play(host, moved(3, move_id="m3"))
        usage = dict(queries.read([host], queries.GetUsage(project_id=project), NOW))
        assert usage == {project: {"instances": 0, **resources().to_dict(), "incoming": vector}}
        both = queries.merged(queries.GetUsage(project_id=None), [usage, usage])
        assert dict(both)[project]["incoming"]["instances"] == 2

    def test_listings_have_every_role_and_one_instance_has_the_first_of_them(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        page = queries.read([host], queries.ListAllocations(limit=9), NOW)
        assert [(one["node"], one["role"]) for one in page["allocations"]] == [(N1, "instance"), (N2, "incoming")]
        page = queries.read([host], queries.ListAllocations(limit=9, role="incoming"), NOW)
        assert [one["node"] for one in page["allocations"]] == [N2]
        assert queries.read([host], queries.GetAllocation(uuid=uuid(1)), NOW)["role"] == "instance"
        play(host, AbortClaim(claim_id=uuid(1)))
        play(host, update(1, vm_state="deleted"))
        play(host, moved(3, move_id="m3"))
        assert queries.read([host], queries.GetAllocation(uuid=uuid(3)), NOW)["role"] == "incoming"

    def test_what_moves_may_run_at_both_sides(self, host: HostLedger) -> None:
        play(host, moved(node=N2))
        decision = play(host, CompareInstances(node=N2, uuids=frozenset({uuid(1)})))
        assert decision.reply == {"charged_not_running": [], "running_not_charged": [], "building": []}

    def test_audits_change_no_move(self, host: HostLedger) -> None:
        play(host, moved())
        before = charged(host)
        play(host, ReportNode(node=N1, inventory=inventory(vcpus=64)))
        assert charged(host) == before


def test_a_move_that_is_noted_only_is_not_published(host: HostLedger) -> None:
    destination = other_host()
    play(destination, moved(kind="migration", from_host=HOST))
    play(destination, step(FINISH))
    decision = play(destination, step(CONFIRM))
    assert all(isinstance(event, MoveNoted) for event in happened(decision))
    assert decision.reply["state"] == "confirmed"
