# SPDX-License-Identifier: Apache-2.0
"""Pages of allocations, releases by an operator, and the comparison with what runs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import (
    HOST,
    LEDGER_ID,
    NOW,
    begin,
    claim_id,
    happened,
    host_ledger,
    play,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.commands import AbortClaim, CompareInstances, ExpireClaims, FinishClaim, ReleaseAllocation
from tracker_worker.domain.events import InstancesDrift, UsageReleased
from tracker_worker.domain.queries import GetAllocation, ListAllocations, read
from tracker_worker.domain.views import iso
from tracker_worker.errors import NodeNotFound

SECOND = 1_000_000


def page(host, now=NOW, **asked):
    return read([host], ListAllocations(**{"limit": 1000, **asked}), now)


def uuids(answer):
    return [entry["instance_uuid"] for entry in answer["allocations"]]


@pytest.mark.behaviour("reading")
def test_an_entry_says_where_what_and_since_when_an_instance_is_charged():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-2", project_id="p", user_id="u"), NOW + SECOND)
    play(host, FinishClaim(claim_id=uuid(1)), NOW + 2 * SECOND)
    play(host, update(1, vm_state="active", task_state="rebooting"), NOW + 3 * SECOND)
    entry = {
        "instance_uuid": uuid(1),
        "host": HOST,
        "node": "node-2",
        "project_id": "p",
        "user_id": "u",
        "resources": {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50},
        "role": "instance",
        "vm_state": "active",
        "task_state": "rebooting",
        "claim_id": claim_id(host),
        "claim_state": "finished",
        "begun_at": iso(NOW + SECOND),
    }
    assert page(host) == {
        "ledger_id": LEDGER_ID,
        "sequences": {"node-1": 1, "node-2": 4},
        "allocations": [entry],
        "next": None,
    }
    assert read([host], GetAllocation(uuid=uuid(1)), NOW) == entry
    assert read([host], GetAllocation(uuid=uuid(2)), NOW) is None


@pytest.mark.behaviour("reading")
def test_a_page_may_be_narrowed_by_node_project_role_state_and_age():
    host = host_ledger(nodes=2)
    for number in range(1, 7):
        fields = {"node": f"node-{1 + number % 2}", "project_id": "p" if number < 4 else None}
        play(host, begin(number, vm_state="active" if number % 3 else "building", **fields), NOW + number * SECOND)
    assert uuids(page(host)) == [uuid(number) for number in range(1, 7)]
    assert uuids(page(host, node="node-1")) == [uuid(number) for number in (2, 4, 6)]
    assert page(host, node="node-1")["sequences"] == {"node-1": 4}
    assert uuids(page(host, project_id="p")) == [uuid(number) for number in (1, 2, 3)]
    assert uuids(page(host, project_id="")) == [uuid(number) for number in (4, 5, 6)]
    assert uuids(page(host, role="instance")) == uuids(page(host))
    assert uuids(page(host, role="hold")) == []
    assert uuids(page(host, state="building")) == [uuid(3), uuid(6)]
    older = {"older_than": 3 * SECOND}
    assert uuids(page(host, NOW + 6 * SECOND, **older)) == [uuid(1), uuid(2)]
    assert uuids(page(host, NOW + 6 * SECOND + 1, **older)) == [uuid(1), uuid(2), uuid(3)]
    with pytest.raises(NodeNotFound):
        page(host, node="elsewhere")


NAME = st.text("aZ/é-\U0001f600", min_size=1, max_size=3)


@pytest.mark.behaviour("reading")
@settings(derandomize=True, database=None, deadline=None, max_examples=100)
@given(names=st.sets(NAME, max_size=12), limit=st.integers(1, 5))
def test_pages_have_every_allocation_once_in_the_order_of_code_points(names, limit):
    host = host_ledger(nodes=2)
    for number, name in enumerate(names):
        play(host, begin(1, uuid=name, node=f"node-{1 + number % 2}"))
    seen, after = [], None
    while True:
        answer = page(host, limit=limit, after=after)
        seen += uuids(answer)
        if answer["next"] is None:
            break
        assert len(answer["allocations"]) == limit
        name, _, allocation_id = answer["next"].rpartition("/")
        after = name, allocation_id
    assert seen == sorted(names)


@pytest.mark.behaviour("operator-release")
@pytest.mark.parametrize("state", ["begun", "finished", "expired"])
def test_an_operator_releases_a_charge_and_the_event_says_who_and_why(state):
    host = host_ledger()
    play(host, begin(1))
    if state == "finished":
        play(host, FinishClaim(claim_id=uuid(1)))
    elif state == "expired":
        play(host, ExpireClaims(node="node-1"), NOW + 10**12)
    entry = read([host], GetAllocation(uuid=uuid(1)), NOW)
    assert entry["claim_state"] == state
    decision = play(host, ReleaseAllocation(uuid=uuid(1), reason="gone", released_by="ann"))
    assert decision.reply == entry
    (event,) = happened(decision)
    assert (type(event), event.released_by, event.reason) == (UsageReleased, "ann", "gone")
    assert event.allocation.claim_state == ("aborted" if state == "begun" else state)
    assert host.node("node-1").allocations == {}
    before = snapshot(host.node("node-1"))
    for command in (
        ReleaseAllocation(uuid=uuid(1), reason="gone", released_by="ann"),
        FinishClaim(claim_id=uuid(1)),
        AbortClaim(claim_id=entry["claim_id"]),
    ):
        again = play(host, command)
        assert (again.reply, again.error, again.events) == (None, None, ())
    assert snapshot(host.node("node-1")) == before


@pytest.mark.behaviour("operator-release")
def test_the_deletion_of_an_instance_whose_claim_is_begun_ends_the_claim():
    host = host_ledger()
    play(host, begin(1))
    (event,) = happened(play(host, update(1, vm_state="deleted")))
    assert (event.before.claim_state, event.allocation.claim_state) == ("begun", "aborted")
    assert (event.released_by, event.reason) == ("", "")


def compared(host, *numbers, node=None):
    return play(host, CompareInstances(node=node, uuids=frozenset(uuid(number) for number in numbers)))


@pytest.mark.behaviour("comparison")
def test_a_comparison_names_what_is_only_charged_what_only_runs_and_what_is_being_built():
    host = host_ledger()
    for number in (1, 2, 3, 4, 5):
        play(host, begin(number))
    for number in (1, 2):
        play(host, FinishClaim(claim_id=uuid(number)))
    play(host, update(3, vm_state="active"))
    before = snapshot(host.node("node-1"))
    decision = compared(host, 9, 2, 8, 5)
    assert decision.reply == {
        "charged_not_running": [uuid(1), uuid(3)],
        "running_not_charged": [uuid(8), uuid(9)],
        "building": [uuid(4), uuid(5)],
    }
    (event,) = happened(decision)
    assert type(event) is InstancesDrift
    after = snapshot(host.node("node-1"))
    for name in ("allocations", "begun", "claims", "charged"):
        assert after[name] == before[name]  # nothing is repaired


@pytest.mark.behaviour("comparison")
def test_a_comparison_without_a_difference_is_no_event():
    host = host_ledger()
    play(host, begin(1))
    play(host, begin(2))
    play(host, FinishClaim(claim_id=uuid(1)))
    decision = compared(host, 1)
    assert decision.reply == {"charged_not_running": [], "running_not_charged": [], "building": [uuid(2)]}
    assert decision.events == ()


@pytest.mark.behaviour("comparison")
def test_a_comparison_is_about_one_node():
    host = host_ledger(nodes=2)
    play(host, begin(1, node="node-2"))
    play(host, FinishClaim(claim_id=uuid(1)))
    assert compared(host, 1, node="node-1").reply["running_not_charged"] == [uuid(1)]
    assert compared(host, node="node-2").reply["charged_not_running"] == [uuid(1)]
    assert compared(host, node=None).error.kwargs["field"] == "node"
    assert type(compared(host, node="elsewhere").error) is NodeNotFound
