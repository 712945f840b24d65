# SPDX-License-Identifier: Apache-2.0
"""The time of a node's events never falls, whatever the clock does."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW, TIMEOUT, begin, happened, host_ledger, planned, play, rebuilt, update, uuid
from tracker_worker.domain.commands import (
    AbortClaim,
    BeginClaims,
    CompareInstances,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    NoteElsewhere,
    ReleaseAllocation,
    RenewClaim,
    ReportList,
    ReportNode,
    RetireNode,
)

HOUR = 3600 * 1_000_000
EVERYTHING = [
    begin(2),
    begin(2, limits={"vcpu": 0}),
    BeginClaims(claims=(begin(2), begin(3))),
    BeginClaims(claims=(begin(2), begin(3, limits={"vcpu": 0}))),
    FinishClaim(claim_id=uuid(1)),
    AbortClaim(claim_id=uuid(1)),
    RenewClaim(claim_id=uuid(1), timeout=9 * HOUR),
    update(1, vm_state="active"),
    update(1, vm_state="deleted"),
    ReleaseAllocation(uuid=uuid(1), reason="x", released_by="u"),
    CompareInstances(node=None, uuids=frozenset({uuid(9)})),
    ReportNode(node="node-1", inventory=None),
    ReportNode(node="node-1", inventory=None, failure="x"),
    ReportList(nodes=frozenset()),
    NoteElsewhere(node="node-1", host="host-2"),
    DrainNode(node="node-1", reason="x"),
]


def later():
    """A host whose last event is of one hour later than NOW."""
    host = host_ledger()
    play(host, begin(1), NOW + HOUR)
    return host


@pytest.mark.behaviour("time")
@pytest.mark.parametrize("command", EVERYTHING, ids=lambda command: type(command).__name__)
def test_an_event_is_never_before_the_last_one_of_its_node(command):
    host = later()
    events = happened(planned(host, command, NOW))
    assert events
    assert {event.at for event in events} == {NOW + HOUR}
    assert {event.at for event in happened(planned(host, command, NOW + 2 * HOUR))} == {NOW + 2 * HOUR}


@pytest.mark.behaviour("time")
def test_a_retired_node_is_so_since_its_last_event_at_least():
    host = later()
    play(host, AbortClaim(claim_id=uuid(1)), NOW)
    (event,) = happened(planned(host, RetireNode(node="node-1", reason="x"), NOW))
    assert (event.at, event.life.since, event.life.retired.since) == (NOW + HOUR,) * 3


@pytest.mark.behaviour("time")
def test_the_time_of_the_last_event_is_kept_with_the_node():
    host = later()
    host.nodes["node-1"] = rebuilt(host.node("node-1"))
    assert [event.at for event in happened(planned(host, begin(2), NOW))] == [NOW + HOUR]


@pytest.mark.behaviour("time", "claim-expiry")
def test_a_claim_expires_by_the_clock_and_not_by_the_time_of_the_last_event():
    host = host_ledger()
    play(host, begin(1), NOW)
    play(host, begin(2), NOW + HOUR)
    assert planned(host, ExpireClaims(node="node-1"), NOW + 1).events == ()
    (event,) = happened(planned(host, ExpireClaims(node="node-1"), NOW + TIMEOUT + 1))
    assert (event.allocation.uuid, event.at) == (uuid(1), NOW + HOUR)


@pytest.mark.behaviour("time")
def test_the_times_of_two_nodes_are_independent():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-1"), NOW + HOUR)
    assert [event.at for event in happened(planned(host, begin(2, node="node-2"), NOW))] == [NOW]
    group = BeginClaims(claims=(begin(2, node="node-1"), begin(3, node="node-2")))
    assert [event.at for event in happened(planned(host, group, NOW))] == [NOW + HOUR, NOW]
