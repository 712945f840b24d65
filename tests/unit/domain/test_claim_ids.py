# SPDX-License-Identifier: Apache-2.0
"""Every claim has an id of its own; an end names one claim."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW, TIMEOUT, begin, claim_id, happened, host_ledger, play, snapshot, update, uuid
from tracker_worker.domain.commands import AbortClaim, ExpireClaims, FinishClaim, RenewClaim
from tracker_worker.domain.events import ClaimAborted, ClaimRenewed
from tracker_worker.errors import ClaimConflict, ComputeResourcesUnavailable

LATE = NOW + TIMEOUT + 1


def chosen(number, name, **fields):
    return begin(number, more={"claim_id": name}, **fields)


def unchanged(host, command, now=NOW):
    """Play ``command`` and assert that nothing has changed; return its decision."""
    before = [snapshot(ledger) for ledger in host]
    decision = play(host, command, now)
    assert decision.events == ()
    assert [snapshot(ledger) for ledger in host] == before
    return decision


@pytest.mark.behaviour("claim-ids")
def test_a_claim_of_the_same_instance_has_another_id_each_time():
    host = host_ledger()
    ids = []
    for _ in range(3):
        ids.append(play(host, begin(1)).reply["claim_id"])
        play(host, AbortClaim(claim_id=ids[-1]))
    assert len({*ids, uuid(1)}) == 4
    assert all(name[14] == "7" for name in ids)


@pytest.mark.behaviour("claim-ids")
@pytest.mark.parametrize("end", [AbortClaim, FinishClaim, lambda claim_id: RenewClaim(claim_id=claim_id, timeout=1)])
def test_a_late_end_never_concerns_another_claim_of_the_instance(end):
    host = host_ledger()
    first = play(host, begin(1)).reply["claim_id"]
    play(host, AbortClaim(claim_id=first))
    second = play(host, begin(1)).reply["claim_id"]
    assert unchanged(host, end(claim_id=first)).reply is None
    assert claim_id(host) == second


@pytest.mark.behaviour("claim-ids")
def test_a_caller_in_doubt_aborts_exactly_the_claim_whose_id_it_chose():
    host = host_ledger()
    assert play(host, chosen(1, "mine")).reply["claim_id"] == "mine"
    assert play(host, chosen(2, "other")).reply["claim_id"] == "other"
    assert play(host, AbortClaim(claim_id="mine")).reply["instance_uuid"] == uuid(1)
    assert unchanged(host, AbortClaim(claim_id="mine")).reply is None
    assert list(host.node("node-1").allocations) == [uuid(2)]


@pytest.mark.behaviour("claim-ids")
@pytest.mark.parametrize("ended", ["begun", "finished", "expired"])
def test_the_id_of_another_claim_is_a_conflict(ended):
    host = host_ledger(nodes=2)
    play(host, chosen(1, "taken", node="node-1"))
    if ended == "finished":
        play(host, FinishClaim(claim_id="taken"))
    elif ended == "expired":
        play(host, ExpireClaims(node="node-1"), LATE)
    error = unchanged(host, chosen(2, "taken", node="node-2"), LATE).error
    assert type(error) is ClaimConflict
    assert (error.kwargs["instance_uuid"], "taken" in error.kwargs["reason"]) == (uuid(2), True)


@pytest.mark.behaviour("claim-ids")
def test_a_claim_is_never_named_by_the_uuid_of_another_instance():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-1"))
    error = unchanged(host, chosen(2, uuid(1), node="node-2")).error
    assert (type(error), error.kwargs["instance_uuid"]) == (ClaimConflict, uuid(2))
    assert f"the claim_id {uuid(1)} names the claim for instance {uuid(1)}" in error.kwargs["reason"]
    play(host, chosen(2, uuid(3), node="node-2"))
    error = unchanged(host, begin(3, node="node-1")).error
    assert (type(error), error.kwargs["instance_uuid"]) == (ClaimConflict, uuid(3))
    assert f"the uuid {uuid(3)} names the claim for instance {uuid(2)}" in error.kwargs["reason"]
    assert play(host, chosen(4, uuid(4), node="node-1")).reply["claim_id"] == uuid(4)


@pytest.mark.behaviour("claim-ids", "repeated-claim")
@pytest.mark.parametrize("ended", ["begun", "finished", "expired"])
def test_a_repetition_is_answered_with_the_first_claim_whatever_id_and_timeout_it_brings(ended):
    host = host_ledger()
    first = play(host, chosen(1, "first")).reply
    play(host, chosen(2, "taken"))
    if ended == "finished":
        play(host, FinishClaim(claim_id="first"))
    elif ended == "expired":
        play(host, ExpireClaims(node="node-1"), LATE)
    again = begin(1, timeout=9 * TIMEOUT, more={"claim_id": "taken", "on_expiry": "release"})
    reply = unchanged(host, again, LATE).reply
    assert {**reply, "generation": 0} == {**first, "generation": 0, "state": ended}
    assert unchanged(host, chosen(1, "second"), LATE).reply == reply
    assert unchanged(host, AbortClaim(claim_id="second")).reply is None  # that id names nothing


@pytest.mark.behaviour("claim-ids", "repeated-claim")
def test_a_repetition_that_names_no_node_finds_its_claim_when_the_host_has_more_nodes():
    host = host_ledger()
    first = play(host, begin(1)).reply
    host.nodes.update({"node-2": host_ledger(nodes=2).node("node-2")})
    assert unchanged(host, begin(1)).reply == first
    assert type(unchanged(host, begin(1, vcpus=9)).error) is ClaimConflict


@pytest.mark.behaviour("claim-ids")
def test_a_uuid_stands_for_the_begun_claim_of_its_instance():
    host = host_ledger()
    play(host, chosen(2, "other"))
    assert play(host, FinishClaim(claim_id=uuid(2))).reply["claim_id"] == "other"
    assert unchanged(host, AbortClaim(claim_id=uuid(2))).reply is None


@pytest.mark.behaviour("claim-ids")
@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("reported", [None, "building", "error", "shelved", "active", "paused"])
def test_an_abort_after_an_expiry_that_kept_gives_the_room_back_while_nobody_said_that_it_was_built(by_id, reported):
    host = host_ledger()
    play(host, begin(1))
    name = claim_id(host) if by_id else uuid(1)
    play(host, ExpireClaims(node="node-1"), LATE)
    if reported is not None:
        play(host, update(1, vm_state=reported))
    if reported in ("active", "paused"):
        assert unchanged(host, AbortClaim(claim_id=name), LATE).reply is None
    else:
        decision = play(host, AbortClaim(claim_id=name), LATE)
        assert [type(event) for event in happened(decision)] == [ClaimAborted]
        assert decision.reply["state"] == "aborted"
        assert host.node("node-1").allocations == {}


@pytest.mark.behaviour("renewal")
@pytest.mark.parametrize(
    ("timeout", "expires"), [(TIMEOUT - 11, None), (TIMEOUT - 10, None), (TIMEOUT, 10), (TIMEOUT * 3, 2 * TIMEOUT + 10)]
)
def test_a_renewed_claim_expires_after_the_timeout_and_never_earlier_than_before(timeout, expires):
    host = host_ledger()
    first = play(host, begin(1)).reply
    name = first["claim_id"]
    later = NOW + 10
    command = RenewClaim(claim_id=name, timeout=timeout)
    if expires is None:
        assert unchanged(host, command, later).reply == first
    else:
        decision = play(host, command, later)
        (event,) = happened(decision)
        assert type(event) is ClaimRenewed
        assert event.allocation.expires_at == NOW + TIMEOUT + expires
        assert decision.reply["generation"] == decision.node.generation
        assert (decision.reply["state"], decision.reply["claim_id"]) == ("begun", name)
    due = NOW + TIMEOUT + (expires or 0)
    assert unchanged(host, ExpireClaims(node="node-1"), due).events == ()
    assert len(play(host, ExpireClaims(node="node-1"), due + 1).events) == 1
    assert unchanged(host, command, due + 1).reply is None


@pytest.mark.behaviour("built-stays-charged", "claim-expiry")
@pytest.mark.parametrize("release", [True, False])
@pytest.mark.parametrize("own", ["keep", "release", None])
@pytest.mark.parametrize("reported", [None, "building", "error", "shelved", "active", "stopped", "soft-delete"])
@pytest.mark.parametrize("said", ["building", "active", None])
def test_an_expiry_releases_what_the_claim_or_else_the_option_says_but_nothing_that_was_reported_built(
    release, own, reported, said
):
    host = host_ledger()
    play(host, begin(1, vm_state=said, more={"on_expiry": own}))
    if reported is not None:
        play(host, update(1, vm_state=reported))
        play(host, update(1, vm_state="building"))
    (event,) = happened(play(host, ExpireClaims(node="node-1", release=release), LATE))
    built = reported in ("active", "stopped", "soft-delete")
    wanted = release if own is None else own == "release"
    assert event.released is (wanted and not built)
    assert (host.holding(uuid(1)) is None) is event.released
    assert event.allocation.claim_state == "expired"


@pytest.mark.behaviour("built-stays-charged")
def test_a_report_of_the_state_that_begin_said_is_evidence_and_no_event():
    host = host_ledger()
    play(host, begin(1, vm_state="active"))
    sequence = host.node("node-1").sequence
    decision = play(host, update(1, vm_state="active"))
    assert (decision.reply, host.node("node-1").sequence) == ({"tracked": True, "changed": False}, sequence)
    assert unchanged(host, update(1, vm_state="active")).reply == decision.reply
    (event,) = happened(play(host, ExpireClaims(node="node-1", release=True), LATE))
    assert event.released is False


@pytest.mark.behaviour("built-stays-charged")
def test_evidence_of_an_earlier_claim_counts_for_no_later_one():
    host = host_ledger()
    play(host, begin(1))
    play(host, update(1, vm_state="active"))
    play(host, AbortClaim(claim_id=uuid(1)))
    play(host, begin(1))
    (event,) = happened(play(host, ExpireClaims(node="node-1", release=True), LATE))
    assert event.released is True


def test_a_refused_claim_leaves_its_id_free():
    host = host_ledger()
    assert type(play(host, chosen(1, "mine", limits={"vcpu": 0})).error) is ComputeResourcesUnavailable
    assert play(host, chosen(2, "mine")).reply["claim_id"] == "mine"
