# SPDX-License-Identifier: Apache-2.0
"""Decisions on a begin, and the properties of every decision."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import (
    HOST,
    NOW,
    TIMEOUT,
    TOTAL,
    begin,
    claim_id,
    happened,
    host_ledger,
    instance,
    inventory,
    node_name,
    planned,
    play,
    refused,
    resources,
    sized,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import (
    AbortClaim,
    BeginClaims,
    CompareInstances,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    ForgetDeletions,
    NoteElsewhere,
    ReleaseAllocation,
    RenewClaim,
    ReportList,
    ReportNode,
    RetireNode,
    UndrainNode,
)
from tracker_worker.domain.events import ClaimBegun, ClaimRejected, ClaimUntracked
from tracker_worker.domain.views import iso
from tracker_worker.errors import ComputeResourcesUnavailable, InvalidInput, NodeNotFound


def shortfalls(decision):
    assert type(decision.error) is ComputeResourcesUnavailable
    return decision.error.kwargs["shortfalls"]


@pytest.mark.behaviour("limit-rule")
def test_a_claim_that_fits_gives_one_event_and_returns_the_claim():
    host = host_ledger()
    decision = play(host, begin(1, limits={"memory_mb": 8192, "disk_gb": 100, "vcpu": 4}))
    assert [type(event) for event in happened(decision)] == [ClaimBegun]
    assert decision.error is None
    assert decision.reply == {
        "claim_id": claim_id(host),
        "instance_uuid": uuid(1),
        "host": HOST,
        "node": "node-1",
        "resources": {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50},
        "state": "begun",
        "begun_at": iso(NOW),
        "expires_at": iso(NOW + TIMEOUT),
        "generation": 2,
        "limit_source": "caller",
        "on_expiry": None,
    }


@pytest.mark.behaviour("limit-rule")
@pytest.mark.parametrize(("limit", "fit"), [(4607, False), (4608, True)])
def test_the_reserve_counts_as_used_and_the_limit_is_inclusive(limit, fit):
    decision = play(host_ledger(), begin(1, memory_mb=4096, limits={"memory_mb": limit}))
    assert (decision.error is None) is fit
    if not fit:
        assert shortfalls(decision) == [{"resource": "MEMORY_MB", "requested": 4096, "used": 512, "limit": limit}]


@pytest.mark.behaviour("limit-rule")
def test_the_limit_is_a_ceiling_on_total_usage_and_not_per_claim():
    host = host_ledger()
    limits = {"vcpu": 5, "disk_gb": 1000}
    assert [play(host, begin(number, limits=limits)).error is None for number in (1, 2, 3)] == [True, True, False]
    assert play(host, begin(3, vcpus=1, limits=limits)).error is None


@pytest.mark.behaviour("limit-rule")
def test_a_limit_of_0_refuses_every_request_except_a_request_for_nothing():
    host = host_ledger()
    limits = {"memory_mb": 0, "disk_gb": 0, "vcpu": 0}
    assert len(shortfalls(play(host, begin(1, limits=limits)))) == 3
    assert play(host, begin(2, **sized(0, 0, 0), limits=limits)).reply["instance_uuid"] == uuid(2)


@pytest.mark.behaviour("limit-rule")
def test_a_request_for_nothing_is_accepted_on_a_node_that_is_over_its_limits():
    host = host_ledger()
    play(host, begin(1, **sized(99, 999_999, 9999)))
    limits = {"memory_mb": 1, "disk_gb": 1, "vcpu": 1}
    assert play(host, begin(2, **sized(0, 0, 0), limits=limits)).error is None
    assert [lack["resource"] for lack in shortfalls(play(host, begin(3, **sized(0, 1, 0), limits=limits)))] == [
        "MEMORY_MB"
    ]


@pytest.mark.behaviour("limit-rule")
def test_the_physical_total_is_not_enforced():
    host = host_ledger()
    limits = {"memory_mb": 2 * TOTAL["MEMORY_MB"], "disk_gb": 2 * TOTAL["DISK_GB"], "vcpu": 16 * TOTAL["VCPU"]}
    assert play(host, begin(1, **sized(500, 200_000, 3900), limits=limits)).error is None


@pytest.mark.behaviour("limit-rule", "true-figures")
def test_a_refusal_has_every_shortfall_in_its_error_and_in_its_one_event():
    host = host_ledger()
    play(host, begin(1))
    decision = play(host, begin(2, limits={"memory_mb": 4096.9, "disk_gb": 60, "vcpu": 3}))
    told = [
        {"resource": "VCPU", "requested": 2, "used": 2, "limit": 3},
        {"resource": "MEMORY_MB", "requested": 4096, "used": 4608, "limit": 4096},
        {"resource": "DISK_GB", "requested": 50, "used": 50, "limit": 60},
    ]
    assert shortfalls(decision) == told
    assert json.loads(json.dumps(decision.error.kwargs)) == {"shortfalls": told}
    (event,) = happened(decision)
    assert type(event) is ClaimRejected
    assert [shortfall.to_dict() for shortfall in event.shortfalls] == told
    assert (event.at, event.instance, event.limit_source) == (NOW, instance(2), "caller")
    assert all(str(lack[figure]) in str(decision.error) for lack in told for figure in ("requested", "used", "limit"))


@pytest.mark.behaviour("limit-rule")
def test_a_refusal_charges_nothing_and_has_a_sequence():
    host = host_ledger()
    before = snapshot(host.node("node-1"))
    play(host, begin(1, limits={"vcpu": 1}))
    after = snapshot(host.node("node-1"))
    assert after.pop("sequence") == before.pop("sequence") + 1
    for name in ("generation", "stored_generation"):
        assert after.pop(name) == before.pop(name) + 1
    assert after == before


@pytest.mark.behaviour("limit-keys")
@pytest.mark.parametrize(
    ("limits", "capacity", "source"),
    [
        (None, False, "unlimited"),
        ({}, False, "unlimited"),
        ({"vcpu": None}, False, "unlimited"),
        ({"vcpu": 99}, False, "caller"),
        (None, True, "capacity"),
        ({"memory_mb": None}, True, "capacity"),
        ({"vcpu": 99}, True, "caller"),
    ],
)
def test_every_decision_records_which_limit_source_it_used(limits, capacity, source):
    decision = play(host_ledger(), begin(1, limits=limits, capacity_limits=capacity))
    assert decision.reply["limit_source"] == source
    assert happened(decision)[0].allocation.limit_source == source


@pytest.mark.behaviour("limit-keys")
@pytest.mark.parametrize(("limits", "source"), [(None, "capacity"), ({"disk_gb": 1}, "caller")])
def test_a_refusal_records_its_limit_source(limits, source):
    decision = play(host_ledger(), begin(1, vcpus=999, limits=limits, capacity_limits=True))
    assert [event.limit_source for event in happened(decision)] == [source]


@pytest.mark.behaviour("limit-keys")
def test_a_claim_without_limits_always_fits():
    assert play(host_ledger(), begin(1, **sized(10**6, 10**9, 10**6))).error is None


@pytest.mark.behaviour("limit-keys")
def test_missing_limit_capacity_limits_by_the_total_each_resource_without_a_limit():
    too_much = sized(TOTAL["VCPU"] + 1, TOTAL["MEMORY_MB"] - 511, TOTAL["DISK_GB"] + 1)
    told = shortfalls(play(host_ledger(), begin(1, **too_much, capacity_limits=True)))
    assert {lack["resource"]: lack["limit"] for lack in told} == TOTAL
    told = shortfalls(play(host_ledger(), begin(1, **too_much, limits={"vcpu": 64.5}, capacity_limits=True)))
    assert [lack["resource"] for lack in told] == ["MEMORY_MB", "DISK_GB"]
    exact = sized(TOTAL["VCPU"], TOTAL["MEMORY_MB"] - 512, TOTAL["DISK_GB"])
    assert play(host_ledger(), begin(1, **exact, capacity_limits=True)).error is None


@pytest.mark.behaviour("limit-values")
def test_a_float_limit_leaves_no_float_in_usage_or_reply():
    host = host_ledger()
    decision = play(host, begin(1, limits={"memory_mb": 1.5 * 4096, "disk_gb": 1e3, "vcpu": 16.0}))
    assert all(type(amount) is int for amount in decision.node.usage.amounts)
    assert all(type(amount) is int for amount in decision.reply["resources"].values())


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_begin_on_an_unsupported_node_returns_null_charges_nothing_and_gives_one_event():
    host = host_ledger(disabled=True)
    before = snapshot(host.node("node-1"))
    decision = play(host, begin(1, limits={"vcpu": 0}))
    assert (decision.reply, decision.error) == (None, None)
    assert happened(decision) == [ClaimUntracked(at=NOW, instance=instance(1))]
    after = snapshot(host.node("node-1"))
    assert after.pop("sequence") == before.pop("sequence") + 1
    for name in ("generation", "stored_generation"):
        assert after.pop(name) == before.pop(name) + 1
    assert after == before


@pytest.mark.behaviour("disabled-does-not-block")
@pytest.mark.parametrize("disabled", [True, False])
def test_an_unknown_node_is_node_not_found_and_never_null(disabled):
    error = refused(host_ledger(disabled=disabled), begin(1, node="elsewhere"), NodeNotFound)
    assert error.kwargs == {"host": HOST, "node": "elsewhere"}


def test_a_request_without_a_node_on_a_host_without_nodes_says_so_in_words():
    error = refused(host_ledger(nodes=0), begin(1), NodeNotFound)
    assert str(error) == f"Host {HOST} has no node for this request"
    assert error.kwargs == {"host": HOST, "node": None}


@pytest.mark.behaviour("disabled-until-audited")
def test_on_a_host_with_several_nodes_a_claim_must_name_its_node():
    host = host_ledger(nodes=2)
    refused(host, begin(1), InvalidInput, field="instance.node")
    assert play(host, begin(1, node="node-2")).reply["node"] == "node-2"


@pytest.mark.behaviour("host-already-set")
def test_an_instance_that_already_has_a_host_can_be_claimed():
    assert play(host_ledger(), begin(1, host="elsewhere", launched_at="2026-01-01T00:00:00Z")).reply["host"] == HOST


@pytest.mark.behaviour("claim-snapshot")
def test_a_claim_is_a_snapshot_with_id_sizes_and_expiry():
    host = host_ledger()
    allocation = happened(play(host, begin(1, timeout=1)))[0].allocation
    assert allocation.uuid == uuid(1)
    assert allocation.instance == instance(1)
    assert allocation.resources == resources(2, 4096, 50)
    assert (allocation.begun_at, allocation.expires_at) == (NOW, NOW + 1)


@pytest.mark.behaviour("claim-context-manager")
def test_a_claim_needs_only_an_id_and_sizes():
    bare = dict.fromkeys(("vm_state", "task_state", "os_type", "project_id", "user_id", "metadata", "image_meta"))
    assert play(host_ledger(), begin(1, **bare)).reply["resources"] == {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}


@pytest.mark.behaviour("release-exactly-once")
@pytest.mark.parametrize(("vm_state", "task_state"), [("deleted", None), ("deleted", "x")])
@pytest.mark.parametrize("disabled", [True, False])
def test_a_claim_for_a_deleted_instance_is_invalid(vm_state, task_state, disabled):
    claim = begin(1, vm_state=vm_state, task_state=task_state)
    refused(host_ledger(disabled=disabled), claim, InvalidInput, field="instance.vm_state")


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("task_state", ["spawning", "unshelving", None])
def test_a_claim_for_an_offloaded_instance_is_an_unshelve_whatever_its_task_state(task_state):
    assert play(host_ledger(), begin(1, vm_state="shelved_offloaded", task_state=task_state)).error is None


EVERY_COMMAND = [
    begin(1),
    begin(2, limits={"vcpu": 0}),
    begin(1, vcpus=9),
    begin(3, vm_state="deleted"),
    begin(3, node="elsewhere"),
    FinishClaim(claim_id=uuid(1)),
    AbortClaim(claim_id=uuid(1)),
    FinishClaim(claim_id=uuid(9)),
    ExpireClaims(node="node-1", release=True),
    ExpireClaims(node="elsewhere"),
    update(1, vm_state="deleted"),
    update(1, memory_mb=1),
    update(9, memory_mb=1),
    ReportNode(node="node-1", inventory=None),
    ReportNode(node="node-1", inventory=inventory(vcpus=1)),
    ReportNode(node="node-1", inventory=None, failure="no answer"),
    ReportNode(node="elsewhere", inventory=None),
    BeginClaims(claims=(begin(4), begin(5))),
    BeginClaims(claims=(begin(4), begin(5, limits={"vcpu": 0}))),
    BeginClaims(claims=(begin(4), begin(4))),
    RenewClaim(claim_id=uuid(1), timeout=9 * TIMEOUT),
    update(9, vm_state="deleted", noted=True),
    update(1, vm_state="building"),
    update(1, node="elsewhere"),
    ReleaseAllocation(uuid=uuid(1), reason="lost", released_by="u"),
    CompareInstances(node=None, uuids=frozenset({uuid(9)})),
    ReportList(nodes=frozenset()),
    NoteElsewhere(node="node-1", host="host-2"),
    DrainNode(node="node-1", reason="disk"),
    UndrainNode(node="node-1"),
    UndrainNode(node="elsewhere"),
    RetireNode(node="node-1", reason=""),
    ForgetDeletions(reported_before=NOW + 1, most=1),
]


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda command: type(command).__name__)
def test_a_decision_changes_nothing_and_can_be_repeated_with_the_same_result(command):
    host = host_ledger()
    play(host, begin(1))
    play(host, update(8, vm_state="deleted", noted=True))
    ledger = host.node("node-1")
    ledger.drift = resources(1, 1, 1)
    before = snapshot(ledger)
    later = NOW + TIMEOUT + 1
    first, second = planned(host, command, later), planned(host, command, later)
    assert snapshot(ledger) == before
    assert list(host.nodes) == [node_name(1)]
    assert (first.events, first.reply) == (second.events, second.reply)
    assert repr(first.error) == repr(second.error)
    assert first.error is None or first.reply is None
    assert all(changed is ledger for changed, _ in first.events)
    assert not first.events or first.node is ledger or type(command) in (BeginClaims, ReportList, ForgetDeletions)


@pytest.mark.behaviour("copies-only")
def test_the_reply_and_the_error_of_a_decision_share_nothing_with_the_ledger():
    host = host_ledger()
    decision = play(host, begin(1))
    before = snapshot(host.node("node-1"))
    decision.reply["resources"]["VCPU"] = 99
    decision.reply.clear()
    error = play(host, begin(1, vcpus=9)).error
    error.kwargs.clear()
    assert snapshot(host.node("node-1")) == before
