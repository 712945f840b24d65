# SPDX-License-Identifier: Apache-2.0
"""Ledgers: the effect of each event on usage, counters, generation and sequence, and the ledger that a store restores."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import (
    HOST,
    NOW,
    TIMEOUT,
    begin,
    claim_id,
    host_ledger,
    instance,
    inventory,
    play,
    put,
    rebuilt,
    resources,
    sized,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain import events, life
from tracker_worker.domain.allocation import FINISHED, Allocation
from tracker_worker.domain.commands import AbortClaim, FinishClaim, ReportNode
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.resources import ZERO

RESERVE = resources(memory_mb=512)


def allocation(number=1, *, resources=None, claim_state=FINISHED, **fields):
    made = instance(number, **fields)
    return Allocation(
        id=f"allocation-{number}",
        claim_id=f"claim-{number}",
        instance=made,
        resources=made.resources if resources is None else resources,
        begun_at=NOW,
        expires_at=NOW + TIMEOUT,
        limit_source="unlimited",
        claim_state=claim_state,
    )


def new_ledger():
    return NodeLedger(id=7, host=HOST, name="node-1", generation=4, sequence=9)


def reported(**keys):
    return events.NodeUpdated(at=NOW, inventory=inventory(**keys), life=life.Life(state=life.OPEN))


@pytest.mark.behaviour("disabled-until-audited")
def test_a_node_is_disabled_exactly_while_it_is_unsupported():
    ledger = new_ledger()
    seen = [ledger.disabled]
    for state in (life.OPEN, life.UNSUPPORTED, life.STALE, life.UNSUPPORTED):
        ledger.apply(events.NodeUpdated(at=NOW, inventory=None, life=life.Life(state=state)))
        seen.append(ledger.disabled)
    assert seen == [False, False, True, False, True]


@pytest.mark.behaviour("audit")
def test_usage_is_the_reserve_and_the_sum_of_allocations():
    ledger = new_ledger()
    ledger.restore(allocation(1, **sized(1, 1024, 10)))
    ledger.restore(allocation(2, **sized(2, 2048, 20)))
    assert ledger.usage == resources(3, 3072, 30)
    ledger.apply(reported(reserved_memory_mb=512, reserved_disk_mb=1))
    assert ledger.usage == resources(3, 3584, 31)
    ledger.apply(reported(reserved_memory_mb=100))
    assert ledger.usage == resources(3, 3172, 30)


@pytest.mark.behaviour("release-states")
@pytest.mark.parametrize("vm_state", ["deleted", "shelved_offloaded"])
def test_a_stored_state_releases_nothing(vm_state):
    ledger = new_ledger()
    ledger.restore(allocation(1, vm_state=vm_state))
    assert ledger.usage == instance(1).resources
    assert (ledger.touched, ledger.dirty) == ({}, False)


@pytest.mark.behaviour("release-exactly-once")
def test_a_release_subtracts_the_charge_whatever_the_sizes_of_the_instance():
    ledger = new_ledger()
    charged = allocation(1, resources=resources(1, 100, 10))
    ledger.restore(charged)
    ledger.apply(events.UsageReleased(at=NOW, before=charged, allocation=allocation(1, vcpus=64, memory_mb=2**40)))
    assert ledger.charged == ZERO
    assert ledger.projects == {}
    assert ledger.stats.to_dict() == {"num_instances": 0, "num_vcpus_used": 0, "io_workload": 0}


@pytest.mark.behaviour("atomic-claim")
def test_a_claim_charges_usage_counters_and_project_and_opens_the_claim_in_one_step():
    host = host_ledger()
    ledger = put(host, begin(1, vcpus=2, memory_mb=4096, root_gb=40, ephemeral_gb=10, project_id="p")).node
    assert ledger.usage == resources(2, 4096, 50) + RESERVE
    assert ledger.stats.num_vcpus_used == 2
    assert (ledger.projects["p"].instances, ledger.projects["p"].resources) == (1, resources(2, 4096, 50))
    assert ledger.begun == {uuid(1)}
    assert ledger.touched == {ledger.allocations[uuid(1)].id: ledger.allocations[uuid(1)]}
    assert ledger.claims == {claim_id(host): uuid(1)}


@pytest.mark.behaviour("finish-keeps-usage")
def test_a_finish_ends_the_claim_and_keeps_the_usage():
    host = host_ledger()
    play(host, begin(1))
    ledger = play(host, FinishClaim(claim_id=uuid(1))).node
    assert ledger.begun == set()
    assert ledger.usage == instance(1).resources + RESERVE
    assert ledger.stats.num_instances == 1


@pytest.mark.behaviour("abort-releases")
def test_an_abort_leaves_the_ledger_as_if_there_had_been_no_claim():
    host = host_ledger()
    before = snapshot(host.node("node-1"))
    play(host, begin(1))
    after = snapshot(play(host, AbortClaim(claim_id=uuid(1))).node)
    moved = {"generation", "stored_generation", "sequence", "last_at"}
    assert {name: after[name] for name in before.keys() - moved} == {
        name: before[name] for name in before.keys() - moved
    }


def test_a_sequence_starts_at_1_and_grows_by_one_with_every_event():
    ledger = NodeLedger(id=1, host=HOST, name="node-1")
    issued = []
    for _ in range(3):
        ledger.apply(reported())
        issued.append(ledger.sequence)
    assert issued == [1, 2, 3]


def test_refusals_and_drift_count_in_the_sequence_and_the_generation():
    ledger = new_ledger()
    ledger.apply(events.ClaimRejected(at=NOW, instance=instance(), shortfalls=(), limit_source="caller"))
    assert (ledger.sequence, ledger.generation) == (10, 5)
    ledger.committed()
    ledger.apply(events.UsageDrift(at=NOW, stored=ZERO, usage=ZERO))
    assert (ledger.sequence, ledger.generation) == (11, 6)


def test_the_generation_grows_by_one_per_commit_and_not_per_event():
    host = host_ledger()
    ledger = host.node("node-1")
    generation, sequence = ledger.generation, ledger.sequence
    replies = [put(host, begin(number)).reply for number in (1, 2, 3)]
    assert ledger.generation == generation + 1
    assert ledger.sequence == sequence + 3
    assert {reply["generation"] for reply in replies} == {generation + 1}
    ledger.committed()
    assert put(host, begin(4)).reply["generation"] == generation + 2


def test_a_ledger_is_dirty_from_the_first_event_to_the_commit():
    host = host_ledger()
    ledger = host.node("node-1")
    assert not ledger.dirty
    put(host, begin(1))
    assert ledger.dirty
    ledger.committed()
    assert not ledger.dirty
    assert ledger.touched == {}


def test_touched_names_every_allocation_that_the_commit_writes_or_deletes():
    host = host_ledger()
    for number in (1, 2, 3, 4):
        play(host, begin(number))
    ids = {number: host.node("node-1").allocations[uuid(number)].id for number in (1, 2, 3)}
    put(host, FinishClaim(claim_id=uuid(1)))
    put(host, AbortClaim(claim_id=uuid(2)))
    put(host, update(3, vm_state="deleted"))
    put(host, begin(5))
    held = host.node("node-1").allocations
    new = held[uuid(5)]
    assert host.node("node-1").touched == {ids[1]: held[uuid(1)], ids[2]: None, ids[3]: None, new.id: new}


def test_a_change_of_project_moves_the_usage_to_the_new_project():
    host = host_ledger()
    play(host, begin(1, project_id="old", vcpus=2, memory_mb=1, root_gb=1, ephemeral_gb=0))
    play(host, begin(2, project_id="old", vcpus=3, memory_mb=1, root_gb=1, ephemeral_gb=0))
    ledger = play(host, update(1, project_id="new", vcpus=4)).node
    assert {name: (held.instances, held.resources) for name, held in ledger.projects.items()} == {
        "old": (1, resources(3, 1, 1)),
        "new": (1, resources(4, 1, 1)),
    }


def test_a_rebuilt_ledger_equals_the_running_one():
    host = host_ledger()
    play(host, begin(1))
    play(host, begin(2, project_id=None, os_type="windows", timeout=1))
    play(host, FinishClaim(claim_id=uuid(1)))
    play(host, update(1, vm_state="active", task_state=None, memory_mb=1))
    ledger = play(host, begin(3)).node
    ledger.committed()
    assert snapshot(rebuilt(ledger)) == snapshot(ledger)


def test_restore_keeps_the_states_of_claims():
    ledger = new_ledger()
    ledger.restore(allocation(1, claim_state="begun"))
    ledger.restore(allocation(2, claim_state=FINISHED))
    assert ledger.begun == {uuid(1)}
    assert ledger.touched == {}
    assert (ledger.generation, ledger.sequence, ledger.dirty) == (4, 9, False)


@pytest.mark.behaviour("copies-only")
def test_an_allocation_in_the_ledger_cannot_be_changed_in_place():
    ledger = new_ledger()
    charged = allocation(1)
    ledger.restore(charged)
    with pytest.raises(AttributeError):
        charged.resources = ZERO
    replace(charged, resources=ZERO)
    assert ledger.allocations[uuid(1)].resources == instance(1).resources


@pytest.mark.behaviour("disabled-until-audited")
def test_the_ledgers_of_two_nodes_are_independent():
    host = host_ledger(nodes=2)
    other = snapshot(host.node("node-2"))
    play(host, begin(1, node="node-1"))
    play(host, ReportNode(node="node-1", inventory=None))
    assert snapshot(host.node("node-2")) == other
