# SPDX-License-Identifier: Apache-2.0
"""Groups of claims, and the question whether a claim would be granted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import NOW, begin, happened, host_ledger, planned, play, resources, sized, snapshot, uuid
from tests.support.builders import update as updated
from tracker_worker.domain.commands import BeginClaims, DrainNode, FinishClaim, ReportNode
from tracker_worker.domain.events import ClaimBegun, ClaimRejected, ClaimUntracked
from tracker_worker.domain.queries import WouldFit, read
from tracker_worker.errors import (
    ClaimConflict,
    ComputeResourcesUnavailable,
    InvalidInput,
    NodeDraining,
    NodeNotFound,
    TrackerError,
)


def group(*claims):
    return BeginClaims(claims=claims)


def refused(host, command, error):
    before = [snapshot(ledger) for ledger in host]
    decision = play(host, command)
    assert (type(decision.error), decision.events) == (error, ())
    assert [snapshot(ledger) for ledger in host] == before
    return decision.error.kwargs


@pytest.mark.behaviour("groups")
def test_a_group_is_granted_as_a_whole_in_order_with_one_generation_of_each_node():
    host = host_ledger(nodes=2)
    claims = [begin(1, node="node-1"), begin(2, node="node-2"), begin(3, node="node-1", more={"claim_id": "c"})]
    decision = play(host, group(*claims))
    assert [(ledger.name, type(event)) for ledger, event in decision.events] == [
        ("node-1", ClaimBegun),
        ("node-2", ClaimBegun),
        ("node-1", ClaimBegun),
    ]
    assert [claim["instance_uuid"] for claim in decision.reply] == [uuid(1), uuid(2), uuid(3)]
    assert decision.reply[2]["claim_id"] == "c"
    assert len({claim["claim_id"] for claim in decision.reply}) == 3
    for claim in decision.reply:
        assert claim["generation"] == host.node(claim["node"]).generation == 2
    assert [ledger.sequence for ledger in host] == [3, 2]


@pytest.mark.behaviour("groups")
def test_each_claim_of_a_group_sees_those_before_it_on_its_node_that_fit():
    host = host_ledger(nodes=2)
    limits = {"vcpu": 4}
    claims = [begin(number, vcpus=2, limits=limits, node="node-1") for number in (1, 2)]
    assert planned(host, group(*claims)).error is None
    more = [begin(3, node="node-1", **sized(1), limits=limits), begin(4, node="node-2", limits=limits)]
    decision = play(host, group(*claims, *more))
    assert decision.error.kwargs["shortfalls"] == [
        {"resource": "VCPU", "requested": 1, "used": 4, "limit": 4, "instance_uuid": uuid(3), "node": "node-1"}
    ]
    large = begin(5, vcpus=5, limits=limits, node="node-1")
    assert [lack["instance_uuid"] for lack in planned(host, group(large, *claims)).error.kwargs["shortfalls"]] == [
        uuid(5)
    ]


@pytest.mark.behaviour("groups")
def test_a_group_that_lacks_has_all_shortfalls_in_one_refusal_and_one_event_for_each_claim_that_lacks():
    host = host_ledger(nodes=2)
    before = [ledger.usage for ledger in host]
    decision = play(
        host,
        group(
            begin(1, node="node-1", limits={"vcpu": 0, "disk_gb": 0}),
            begin(2, node="node-1"),
            begin(3, node="node-2", limits={"memory_mb": 0}),
        ),
    )
    assert type(decision.error) is ComputeResourcesUnavailable
    lacking = [(lack["instance_uuid"], lack["node"], lack["resource"]) for lack in decision.error.kwargs["shortfalls"]]
    assert lacking == [(uuid(1), "node-1", "VCPU"), (uuid(1), "node-1", "DISK_GB"), (uuid(3), "node-2", "MEMORY_MB")]
    assert [type(event) for event in happened(decision)] == [ClaimRejected, ClaimRejected]
    assert [event.instance.uuid for event in happened(decision)] == [uuid(1), uuid(3)]
    assert [ledger.usage for ledger in host] == before
    assert decision.reply is None


@pytest.mark.behaviour("groups")
def test_a_group_may_repeat_claims_and_name_nodes_without_inventory():
    host = host_ledger(nodes=2)
    first = play(host, begin(1, node="node-1")).reply
    play(host, FinishClaim(claim_id=first["claim_id"]))
    play(host, ReportNode(node="node-2", inventory=None, keeps_inventory=False))
    command = group(begin(1, node="node-1"), begin(2, node="node-2"), begin(3, node="node-1"))
    decision = play(host, command)
    assert [type(event) for event in happened(decision)] == [ClaimUntracked, ClaimBegun]
    assert (decision.reply[0]["claim_id"], decision.reply[0]["state"]) == (first["claim_id"], "finished")
    assert decision.reply[1] is None
    assert decision.reply[0]["generation"] == decision.reply[2]["generation"] == host.node("node-1").generation


@pytest.mark.behaviour("groups")
def test_an_error_of_one_claim_refuses_the_group_and_names_its_place():
    host = host_ledger(nodes=2)
    good = begin(1, node="node-1")
    assert refused(host, group(good, begin(1, node="node-1")), InvalidInput)["field"] == "claims.1.instance.uuid"
    assert refused(host, group(good, begin(2)), InvalidInput)["field"] == "claims.1.instance.node"
    gone = begin(2, node="node-1", vm_state="deleted")
    assert refused(host, group(good, good, gone), InvalidInput)["field"] == "claims.1.instance.uuid"
    assert refused(host, group(good, gone), InvalidInput)["field"] == "claims.1.instance.vm_state"
    assert refused(host, group(good, begin(2, node="elsewhere")), NodeNotFound)["node"] == "elsewhere"
    play(host, begin(3, node="node-1"))
    assert refused(host, group(good, begin(3, node="node-2")), ClaimConflict)["instance_uuid"] == uuid(3)
    same = [begin(number, node="node-1", more={"claim_id": "c"}) for number in (4, 5)]
    assert refused(host, group(*same), ClaimConflict)["instance_uuid"] == uuid(5)
    chosen = begin(4, node="node-1", more={"claim_id": uuid(5)})
    for claims in ([chosen, begin(5, node="node-2")], [begin(5, node="node-2"), chosen]):
        assert refused(host, group(*claims), ClaimConflict)["instance_uuid"] == claims[1].instance.uuid
    play(host, DrainNode(node="node-2", reason="x"))
    assert refused(host, group(good, begin(6, node="node-2")), NodeDraining)["node"] == "node-2"


NUMBER = st.integers(1, 4)
NAME = st.sampled_from(["node-1", "node-2", "elsewhere", None])
CLAIMS = st.builds(
    lambda number, node, sizes, limits, capacity, state, chosen: begin(
        number,
        node=node,
        vm_state=state,
        limits=limits,
        capacity_limits=capacity,
        more={"claim_id": chosen, "stale_after": 5, "remembers_deletions": 5},
        **sized(*sizes),
    ),
    NUMBER,
    NAME,
    st.tuples(*[st.sampled_from([1, 2, 40])] * 3),
    st.none() | st.fixed_dictionaries({}, optional=dict.fromkeys(("vcpu", "disk_gb"), st.integers(0, 4))),
    st.booleans(),
    st.sampled_from(["building", "deleted", "shelved_offloaded"]),
    st.sampled_from([None, None, "a", "b", uuid(1), uuid(2)]),
)
LOOK = st.builds(
    lambda node, failure, keeps: ReportNode(node=node, inventory=None, failure=failure, keeps_inventory=keeps),
    st.sampled_from(["node-1", "node-2"]),
    st.sampled_from([None, "x"]),
    st.booleans(),
)
PAST = st.lists(
    CLAIMS
    | LOOK
    | st.builds(lambda number: updated(number, vm_state="deleted", noted=True), NUMBER)
    | st.just(DrainNode(node="node-2", reason="x")),
    max_size=5,
)
PARAMETERS = settings(derandomize=True, database=None, deadline=None, max_examples=400)


@pytest.mark.behaviour("dry-run")
@PARAMETERS
@given(nodes=st.integers(1, 2), past=PAST, claim=CLAIMS)
def test_would_fit_says_what_begin_does_and_changes_nothing(nodes, past, claim):
    host = host_ledger(nodes=nodes)
    for number, command in enumerate(past):
        play(host, command, NOW + number)
    now = NOW + 8
    before = [snapshot(ledger) for ledger in host]
    try:
        answer, error = read([host], WouldFit(begin=claim), now), None
    except TrackerError as raised:
        answer, error = None, raised
    assert [snapshot(ledger) for ledger in host] == before
    decision = play(host, claim, now)
    if error is not None:
        assert (type(decision.error), decision.error.kwargs) == (type(error), error.kwargs)
    elif type(decision.error) is ComputeResourcesUnavailable:
        assert answer == {
            "fits": False,
            "shortfalls": decision.error.kwargs["shortfalls"],
            "limit_source": happened(decision)[0].limit_source,
        }
    elif decision.reply is None:
        assert answer is None
    else:
        assert answer == {"fits": True, "shortfalls": [], "limit_source": decision.reply["limit_source"]}


@pytest.mark.behaviour("groups")
@PARAMETERS
@given(nodes=st.integers(1, 2), past=PAST, claims=st.lists(CLAIMS, min_size=1, max_size=4))
def test_a_group_is_granted_exactly_if_its_claims_would_be_one_after_the_other(nodes, past, claims):
    one, other = host_ledger(nodes=nodes), host_ledger(nodes=nodes)
    for number, command in enumerate(past):
        play(one, command, NOW + number)
        play(other, command, NOW + number)
    usage = [ledger.usage for ledger in one]
    decision = play(one, group(*claims), NOW + 8)
    singles = [play(other, claim, NOW + 8) for claim in claims]
    twice = len({claim.instance.uuid for claim in claims}) < len(claims)
    assert (decision.error is None) is (not twice and all(single.error is None for single in singles))
    if decision.error is None:
        assert [ledger.usage for ledger in one] == [ledger.usage for ledger in other]
        assert [reply and reply["instance_uuid"] for reply in decision.reply] == [
            single.reply and single.reply["instance_uuid"] for single in singles
        ]
    else:
        assert [ledger.usage for ledger in one] == usage


def test_a_group_of_one_is_that_claim():
    one, other = host_ledger(), host_ledger()
    assert play(one, group(begin(1))).reply == [play(other, begin(1)).reply]
    assert one.node("node-1").usage == other.node("node-1").usage == resources(2, 4608, 50)
