# SPDX-License-Identifier: Apache-2.0
"""The deletion of an instance that is not charged yet stands against its claim."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW, begin, happened, host_ledger, planned, play, rebuilt, snapshot, update, uuid
from tracker_worker.domain.commands import AbortClaim, BeginClaims, ForgetDeletions
from tracker_worker.domain.events import DeletionNoted, DeletionsForgotten
from tracker_worker.errors import ClaimConflict, NodeNotFound

MEMORY = 600


def remembering(number=1, *, memory=MEMORY, **fields):
    return begin(number, more={"remembers_deletions": memory}, **fields)


def deleted(number=1, **fields):
    return update(number, vm_state="deleted", noted=True, **fields)


@pytest.mark.behaviour("early-deletions")
def test_a_deletion_before_the_claim_refuses_the_claim_and_says_when_it_was_reported():
    host = host_ledger()
    assert play(host, deleted()).reply == {"tracked": False, "changed": False}
    sequence = host.node("node-1").sequence
    error = play(host, remembering(), NOW + 1).error
    assert type(error) is ClaimConflict
    assert "was reported deleted at 2026-01-15T12:00:00.000000Z" in error.kwargs["reason"]
    assert "was reported deleted at" in str(error)
    assert host.node("node-1").sequence == sequence  # nobody hears of it
    assert play(host, remembering(2)).error is None


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize(("later", "refused"), [(0, True), (MEMORY, True), (MEMORY + 1, False), (-5, True)])
def test_a_deletion_is_remembered_for_as_long_as_the_option_says(later, refused):
    host = host_ledger()
    play(host, deleted())
    assert (play(host, remembering(), NOW + later).error is not None) is refused


@pytest.mark.behaviour("early-deletions")
def test_with_0_nothing_is_remembered_and_nothing_remembered_counts():
    host = host_ledger()
    assert planned(host, update(1, vm_state="deleted")).events == ()
    play(host, deleted())
    assert play(host, remembering(memory=0)).error is None


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize("state", ["active", "shelved_offloaded", "soft-delete", None])
def test_only_a_deletion_is_remembered(state):
    host = host_ledger()
    before = snapshot(host.node("node-1"))
    play(host, update(1, vm_state=state, noted=True))
    assert snapshot(host.node("node-1")) == before


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize("named", [None, "node-1", "node-2"])
@pytest.mark.parametrize("claimed", ["node-1", "node-2"])
def test_a_deletion_is_remembered_for_the_whole_host_and_the_last_one_counts(named, claimed):
    host = host_ledger(nodes=2)
    play(host, deleted(node="node-1"), NOW - 2 * MEMORY)
    play(host, deleted(node=named))
    assert play(host, remembering(node=claimed), NOW + MEMORY).error is not None


@pytest.mark.behaviour("early-deletions")
def test_one_node_remembers_a_deletion_whatever_node_each_report_names():
    host = host_ledger(nodes=2)
    play(host, deleted(node="node-2"), NOW - 1)
    play(host, deleted(node="node-1"))
    play(host, deleted())
    assert [ledger.deletions for ledger in host] == [{}, {uuid(1): NOW}]


@pytest.mark.behaviour("early-deletions")
def test_a_deletion_of_a_charged_instance_needs_no_memory():
    host = host_ledger()
    play(host, begin(1))
    play(host, deleted())
    assert host.node("node-1").deletions == {}
    assert play(host, remembering()).error is None


@pytest.mark.behaviour("early-deletions")
def test_a_deletion_is_durable_with_its_node_until_a_claim_of_the_instance_is_granted():
    host = host_ledger()
    (event,) = happened(play(host, deleted()))
    assert type(event) is DeletionNoted
    ledger = host.node("node-1")
    assert rebuilt(ledger).deletions == {uuid(1): NOW}
    play(host, remembering(), NOW + MEMORY + 1)
    assert ledger.deletions == {}
    play(host, AbortClaim(claim_id=uuid(1)))
    assert play(host, remembering()).error is None


@pytest.mark.behaviour("early-deletions")
def test_a_node_that_does_not_exist_is_not_found_and_a_host_without_nodes_remembers_nothing():
    host = host_ledger()
    assert type(planned(host, deleted(node="elsewhere")).error) is NodeNotFound
    host.nodes.clear()
    decision = planned(host, deleted())
    assert (decision.events, decision.reply) == ((), {"tracked": False, "changed": False})


@pytest.mark.behaviour("early-deletions")
def test_a_deletion_refuses_a_whole_group():
    host = host_ledger()
    play(host, deleted(2))
    decision = play(host, BeginClaims(claims=(remembering(1), remembering(2))))
    assert (type(decision.error), decision.events) == (ClaimConflict, ())


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize(
    ("before", "most", "left"),
    [
        (NOW, 9, [1, 2, 3, 4]),
        (NOW + 2, 9, [3, 4]),
        (NOW, 3, [2, 3, 4]),
        (NOW + 3, 1, [4]),
        (NOW, 0, []),
        (NOW + 9, 9, []),
    ],
)
def test_old_deletions_and_the_oldest_of_too_many_are_forgotten(before, most, left):
    host = host_ledger(nodes=2)
    for number in (1, 2, 3, 4):
        play(host, deleted(number, node=f"node-{1 + number % 2}"), NOW + number - 1)
    decision = play(host, ForgetDeletions(reported_before=before, most=most), NOW + 9)
    assert sorted(name for ledger in host for name in ledger.deletions) == [uuid(number) for number in left]
    assert {type(event) for event in happened(decision)} <= {DeletionsForgotten}
    assert planned(host, ForgetDeletions(reported_before=before, most=most)).events == ()
