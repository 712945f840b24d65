# SPDX-License-Identifier: Apache-2.0
"""How moves end, their times, and how they are read."""

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
    inventory,
    play,
    refused,
    resources,
    update,
    uuid,
)
from tests.support.moves import LARGE, N1, N2, SMALL, charged, moved, other_host, roles, step, told
from tracker_worker.domain import queries
from tracker_worker.domain.commands import (
    AbortClaim,
    CompareInstances,
    ExpireClaims,
    FinishClaim,
    ForgetMoves,
    ReleaseAllocation,
    ReportNode,
)
from tracker_worker.domain.events import ClaimExpired, UsageReleased
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.move import ABORT, CONFIRM, FAIL, FINISH, REVERT
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import (
    ClaimConflict,
    InvalidInput,
)


@pytest.fixture
def host() -> HostLedger:
    """A host of two nodes, of which the first is charged for an instance that is built."""
    made = host_ledger(2)
    play(made, begin(1, node=N1))
    play(made, FinishClaim(claim_id=uuid(1)))
    return made


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


def test_no_time_of_a_move_is_before_another_whatever_the_clock_says(host: HostLedger) -> None:
    destination = other_host()
    play(destination, moved(kind="evacuation", from_host=HOST), NOW + 60 * SECOND)
    destination.nodes[N1].last_at = NOW  # it has got another name, and the clock was stepped back
    finished = told(play(destination, step(FINISH), NOW).reply)
    assert finished.finished_at == finished.begun_at == NOW + 60 * SECOND
    play(host, step(FINISH, told=finished, effective_at=finished.finished_at), NOW)
    destination.nodes[N1].last_at = NOW
    ended = told(play(destination, step(CONFIRM), NOW + 1).reply)
    assert ended.ended_at == finished.finished_at


class TestLateClaims:
    """A claim whose message is late must not charge the source once more."""

    @pytest.fixture
    def left(self, host: HostLedger) -> HostLedger:
        """The instance has moved to another host."""
        destination = other_host()
        play(destination, moved(kind="live_migration", from_host=HOST))
        answer = play(destination, step(FINISH), NOW + 5).reply
        play(host, step(FINISH, told=told(answer)), NOW + 6)
        assert charged(host) == {}
        return host

    def test_the_claim_that_was_handed_over_does_not_begin_again(self, left: HostLedger) -> None:
        claim_id = left.nodes[N1].moves["m1"].left_claim_id
        error = play(left, begin(1, node=N1, more={"claim_id": claim_id}), NOW + 10**6 * SECOND).error
        assert isinstance(error, ClaimConflict)
        assert "it was handed over at 2026-" in str(error)
        assert "host-2" in str(error)

    def test_without_an_id_it_may_be_that_one_for_a_while(self, left: HostLedger) -> None:
        again = replace(begin(1, node=N1), claim_id=None, remembers_deletions=TIMEOUT)
        assert isinstance(play(left, again, now=NOW + TIMEOUT).error, ClaimConflict)
        assert play(left, again, now=NOW + TIMEOUT + 9).reply["state"] == "begun"

    def test_another_claim_is_another_one(self, left: HostLedger) -> None:
        assert play(left, begin(1, node=N1, more={"claim_id": "another"}), now=NOW + 7).reply["state"] == "begun"

    def test_what_was_forgotten_is_in_nobodys_way(self, left: HostLedger) -> None:
        claim_id = left.nodes[N1].moves["m1"].left_claim_id
        play(left, ForgetMoves(begun_before=NOW + 10))
        assert play(left, begin(1, node=N1, more={"claim_id": claim_id}), now=NOW + 7).reply["state"] == "begun"

    def test_what_has_come_back_may_leave_again(self, left: HostLedger) -> None:
        play(left, moved(node=N1, kind="migration", move_id="m2", from_host="host-2"), NOW + 8)
        play(left, step(FINISH, "m2"), NOW + 9)
        assert charged(left)[N1]["instance"]
