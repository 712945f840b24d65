# SPDX-License-Identifier: Apache-2.0
"""The deletion of an instance that is not charged yet stands against its claim."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW, begin, happened, host_ledger, planned, play, rebuilt, snapshot, update, uuid
from tracker_worker.domain import usage
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


def full(monkeypatch, *, most, nodes=2):
    """A host that remembers as many deletions as are kept, of instance 1 to ``most``, on its nodes in turn."""
    monkeypatch.setattr(usage, "MOST_DELETIONS", most)
    host = host_ledger(nodes=nodes)
    for number in range(1, most + 1):
        play(host, deleted(number, node=f"node-{1 + number % nodes}"), NOW + number)
    assert remembered(host) == list(range(1, most + 1))
    return host


def remembered(host):
    known = sorted(name for ledger in host for name in ledger.deletions)
    return [number for number in range(1, 20) if uuid(number) in known]


@pytest.mark.behaviour("early-deletions")
@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_further_deletion_drives_out_the_oldest_one_of_the_host(monkeypatch, nodes):
    host = full(monkeypatch, most=4, nodes=nodes)
    for number in (5, 6):
        decision = play(host, deleted(number), NOW + number)
        assert [type(event) for event in happened(decision)] == [DeletionNoted, DeletionsForgotten]
    assert remembered(host) == [3, 4, 5, 6]
    assert play(host, remembering(2, node="node-1")).error is None
    assert type(play(host, remembering(3, node="node-1")).error) is ClaimConflict


@pytest.mark.behaviour("early-deletions")
def test_a_deletion_that_is_reported_again_drives_out_none_and_becomes_the_last_one(monkeypatch):
    host = full(monkeypatch, most=4)
    for node in ("node-1", "node-2"):
        assert [type(event) for event in happened(play(host, deleted(1, node=node), NOW + 9))] == [DeletionNoted]
    assert remembered(host) == [1, 2, 3, 4]
    play(host, deleted(5), NOW + 10)
    assert remembered(host) == [1, 3, 4, 5]


@pytest.mark.behaviour("early-deletions")
def test_a_host_that_remembers_too_many_forgets_some_with_each_further_one(monkeypatch):
    host = full(monkeypatch, most=9)
    monkeypatch.setattr(usage, "MOST_DELETIONS", 3)
    monkeypatch.setattr(usage, "_MOST_FORGOTTEN", 4)
    for number, left in ((1, [1, 6, 7, 8, 9]), (10, [1, 9, 10])):
        play(host, deleted(number), NOW + 20)
        assert remembered(host) == left


@pytest.mark.behaviour("early-deletions")
def test_an_instance_is_remembered_once_whatever_node_is_named():
    host = host_ledger(nodes=2)
    play(host, deleted(node="node-2"))
    play(host, deleted(node="node-1"), NOW + 1)
    play(host, deleted(), NOW + 2)
    assert [ledger.deletions for ledger in host] == [{}, {uuid(1): NOW + 2}]


@pytest.mark.behaviour("early-deletions")
def test_of_a_hundred_thousand_deletions_the_oldest_one_is_found_without_looking_at_all():
    host = host_ledger(nodes=2)
    for ledger in host:
        ledger.deletions = Looks()
    for number in range(usage.MOST_DELETIONS):
        host.node(f"node-{1 + number % 2}").deletions[uuid(100 + number)] = NOW + number
    for number in range(1, 51):
        play(host, deleted(number), NOW + usage.MOST_DELETIONS)
    assert sum(len(ledger.deletions) for ledger in host) == usage.MOST_DELETIONS
    assert (host.deleted_at(uuid(149)), host.deleted_at(uuid(150))) == (None, NOW + 50)
    assert max(ledger.deletions.looks for ledger in host) <= 2 * 50


class Looks(dict):
    """Counts the entries that somebody looks at."""

    looks = 0

    def items(self):
        for each in super().items():
            self.looks += 1
            yield each
