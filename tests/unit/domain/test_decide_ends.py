# SPDX-License-Identifier: Apache-2.0
"""Decisions that end a claim: finish, abort, expiry."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import (
    NOW,
    TIMEOUT,
    begin,
    claim_id,
    happened,
    host_ledger,
    instance,
    planned,
    play,
    put,
    resources,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import AbortClaim, ExpireClaims, FinishClaim, RenewClaim, ReportNode
from tracker_worker.domain.events import ClaimAborted, ClaimExpired, ClaimFinished
from tracker_worker.errors import NodeNotFound

FINISH, ABORT = FinishClaim(claim_id=uuid(1)), AbortClaim(claim_id=uuid(1))
RENEW = RenewClaim(claim_id=uuid(1), timeout=TIMEOUT)
LATE = NOW + TIMEOUT + 1
RESERVE = resources(memory_mb=512)


def claimed(nodes=1, **fields):
    host = host_ledger(nodes=nodes)
    play(host, begin(1, **fields))
    return host


def nothing_happens(host, command, now=NOW):
    before = [snapshot(ledger) for ledger in host]
    decision = play(host, command, now)
    assert (decision.events, decision.reply, decision.error) == ((), None, None)
    assert [snapshot(ledger) for ledger in host] == before


@pytest.mark.behaviour("finish-keeps-usage", "abort-releases")
@pytest.mark.parametrize(
    ("command", "kind", "state"), [(FINISH, ClaimFinished, "finished"), (ABORT, ClaimAborted, "aborted")]
)
def test_ending_a_claim_gives_one_event_and_returns_the_claim_in_its_last_state(command, kind, state):
    host = host_ledger()
    begun = play(host, begin(1)).reply
    decision = play(host, command, NOW + 1)
    assert [type(event) for event in happened(decision)] == [kind]
    assert happened(decision)[0].at == NOW + 1
    assert decision.reply == {**begun, "state": state, "generation": begun["generation"] + 1}
    assert decision.reply["generation"] == decision.node.generation


@pytest.mark.behaviour("finish-keeps-usage", "abort-releases")
@pytest.mark.parametrize("command", [FINISH, ABORT])
def test_ending_an_unknown_claim_returns_null_and_changes_nothing(command):
    nothing_happens(host_ledger(), command)
    nothing_happens(host_ledger(nodes=2), command)
    nothing_happens(host_ledger(disabled=True), command)


def finish(host):
    play(host, FINISH)


def abort(host):
    play(host, ABORT)


def expire_and_keep(host):
    play(host, ExpireClaims(node="node-1"), LATE)


def expire_and_release(host):
    play(host, ExpireClaims(node="node-1", release=True), LATE)


def delete(host):
    play(host, update(1, vm_state="deleted"))


@pytest.mark.behaviour("finish-keeps-usage", "abort-releases", "release-exactly-once")
@pytest.mark.parametrize("command", [FINISH, ABORT, RENEW])
@pytest.mark.parametrize("end", [finish, abort, expire_and_keep, expire_and_release, delete])
@pytest.mark.parametrize("by_id", [True, False])
def test_a_claim_that_has_ended_cannot_be_ended_again(end, command, by_id):
    host = claimed()
    if by_id:
        command = replace(command, claim_id=claim_id(host))
    end(host)
    if (end, type(command)) == (expire_and_keep, AbortClaim):
        return  # this one gives the room back: see below
    nothing_happens(host, command, LATE)
    nothing_happens(host, ExpireClaims(node="node-1", release=True), LATE)


@pytest.mark.behaviour("release-exactly-once")
@pytest.mark.parametrize("end", [abort, expire_and_release, delete])
def test_a_release_reduces_usage_to_the_reserve_and_never_below(end):
    host = claimed()
    for _ in range(2):
        end(host)
        assert host.node("node-1").usage == RESERVE
        assert host.node("node-1").stats.num_instances == 0


@pytest.mark.behaviour("release-exactly-once")
def test_an_abort_after_a_deletion_releases_nothing_more():
    host = claimed()
    play(host, begin(2))
    play(host, update(1, vm_state="deleted"))
    nothing_happens(host, ABORT)
    assert host.node("node-1").usage == instance(2).resources + RESERVE


@pytest.mark.behaviour("release-exactly-once")
def test_an_abort_of_a_claim_that_the_ledger_no_longer_lists_subtracts_nothing():
    host = host_ledger()
    play(host, begin(2))
    nothing_happens(host, ABORT)


@pytest.mark.behaviour("size-change")
def test_an_abort_after_a_resize_releases_the_new_vector():
    host = claimed()
    play(host, update(1, memory_mb=8192, vcpus=1))
    decision = play(host, ABORT)
    assert happened(decision)[0].allocation.resources == resources(1, 8192, 50)
    assert decision.reply["resources"] == {"VCPU": 1, "MEMORY_MB": 8192, "DISK_GB": 50}
    assert host.node("node-1").usage == RESERVE


@pytest.mark.parametrize(("command", "left"), [(FINISH, 1), (ABORT, 0)])
def test_the_claims_of_a_disabled_node_can_end(command, left):
    host = claimed()
    play(host, ReportNode(node="node-1", inventory=None))
    assert play(host, command).reply is not None
    assert host.node("node-1").stats.num_instances == left


@pytest.mark.parametrize("command", [FINISH, ABORT])
def test_an_end_finds_its_node_by_the_claim(command):
    host = claimed(nodes=3, node="node-2")
    assert play(host, command).reply["node"] == "node-2"


def test_begin_and_end_in_one_commit_are_two_events_of_one_generation():
    host = host_ledger()
    ledger = host.node("node-1")
    generation, sequence = ledger.generation, ledger.sequence
    begun, aborted = put(host, begin(1)), put(host, ABORT)
    assert begun.reply["generation"] == aborted.reply["generation"] == ledger.generation == generation + 1
    assert ledger.sequence == sequence + 2


@pytest.mark.behaviour("claim-snapshot", "claim-expiry")
@pytest.mark.parametrize(("now", "expired"), [(NOW + TIMEOUT - 1, 0), (NOW + TIMEOUT, 0), (LATE, 1)])
def test_a_claim_expires_strictly_after_its_expiry(now, expired):
    assert len(planned(claimed(), ExpireClaims(node="node-1"), now).events) == expired


@pytest.mark.behaviour("claim-expiry")
def test_an_expired_claim_that_is_kept_keeps_its_usage_and_gives_an_event():
    host = claimed()
    (event,) = happened(play(host, ExpireClaims(node="node-1"), LATE))
    assert type(event) is ClaimExpired
    assert (event.at, event.released, event.allocation.uuid) == (LATE, False, uuid(1))
    ledger = host.node("node-1")
    assert ledger.begun == set()
    assert ledger.usage == instance(1).resources + RESERVE
    assert ledger.allocations[uuid(1)].claim_state == "expired"


@pytest.mark.behaviour("claim-expiry")
def test_an_expired_claim_that_is_released_ends_its_usage_and_gives_an_event():
    host = claimed()
    (event,) = happened(play(host, ExpireClaims(node="node-1", release=True), LATE))
    assert (type(event), event.released) == (ClaimExpired, True)
    assert event.allocation.resources == instance(1).resources
    assert host.node("node-1").usage == RESERVE
    assert host.node("node-1").allocations == {}


@pytest.mark.behaviour("claim-expiry")
@pytest.mark.parametrize("release", [True, False])
def test_expired_claims_give_one_event_each_in_the_order_of_their_expiry(release):
    host = host_ledger(nodes=2)
    for number, timeout in ((1, 30), (2, 10), (3, 20), (4, 10), (5, 40)):
        play(host, begin(number, node="node-1", timeout=timeout))
    play(host, begin(6, node="node-2", timeout=10))
    play(host, begin(7, node="node-1", timeout=10))
    play(host, FinishClaim(claim_id=uuid(7)))
    decision = play(host, ExpireClaims(node="node-1", release=release), NOW + 31)
    assert [event.allocation.uuid for event in happened(decision)] == [uuid(2), uuid(4), uuid(3), uuid(1)]
    assert host.node("node-1").begun == {uuid(5)}
    assert host.node("node-2").begun == {uuid(6)}


@pytest.mark.behaviour("claim-expiry")
def test_a_finished_claim_never_expires():
    host = claimed()
    play(host, FINISH)
    nothing_happens(host, ExpireClaims(node="node-1", release=True), LATE + 10**15)


@pytest.mark.behaviour("claim-expiry")
def test_expiring_the_claims_of_an_unknown_node_is_node_not_found():
    assert type(planned(host_ledger(), ExpireClaims(node="elsewhere")).error) is NodeNotFound


@pytest.mark.behaviour("claim-expiry")
def test_claims_expire_on_a_disabled_node():
    host = claimed()
    play(host, ReportNode(node="node-1", inventory=None))
    assert len(play(host, ExpireClaims(node="node-1"), LATE).events) == 1


@pytest.mark.behaviour("repeated-claim")
def test_a_repeated_begin_after_an_expiry_that_kept_the_charge_returns_the_expired_claim():
    host = claimed()
    expire_and_keep(host)
    decision = play(host, begin(1), LATE)
    assert (decision.reply["state"], decision.events) == ("expired", ())
