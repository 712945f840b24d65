# SPDX-License-Identifier: Apache-2.0
"""Instances that run already are charged as they are."""

from __future__ import annotations

import pytest

from tests.support.builders import (
    HOST,
    NODE,
    NOW,
    begin,
    claim_id,
    driver_resource_dict,
    happened,
    host_ledger,
    instance_dict,
    inventory,
    planned,
    play,
    rebuilt,
    resources,
    sized,
    snapshot,
    update,
    uuid,
)
from tracker_worker.domain.adoption import MOST_ADOPTED, read_adoption
from tracker_worker.domain.allocation import FINISHED
from tracker_worker.domain.commands import AbortClaim, DrainNode, FinishClaim, ReportList, ReportNode, RetireNode
from tracker_worker.domain.events import UsageAdopted
from tracker_worker.domain.inventory import reserve
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import InvalidInput

MEMORY = 600
CONTEXT = {"project_id": "p", "user_id": "u"}


def adoption(*instances, context=CONTEXT, memory=MEMORY, **policy):
    kept = reserve(memory_mb=0, disk_mb=0)
    options = Policy(
        claim_timeout=1, capacity_limits=False, release_expired=False, reserved=kept, deletion_memory=memory, **policy
    )
    return read_adoption(list(instances), context, options)


def running(number=1, **fields):
    return instance_dict(number, vm_state="active", task_state=None, **fields)


def outcome(host, *instances, now=NOW, **options):
    """What the answer says, with the codes of the refusals."""
    reply = play(host, adoption(*instances, **options), now).reply
    return reply["adopted"], reply["already"], [(each["instance_uuid"], each["code"]) for each in reply["refused"]]


@pytest.mark.behaviour("adoption")
def test_an_adopted_instance_is_charged_without_a_claim_to_end():
    host = host_ledger()
    assert outcome(host, running(1), running(2)) == ([uuid(1), uuid(2)], [], [])
    ledger = host.node(NODE)
    assert ledger.charged == resources(4, 8192, 100)
    held = ledger.allocations[uuid(1)]
    assert (held.claim_state, held.role, held.begun_at, held.limit_source) == (FINISHED, "instance", NOW, "unlimited")
    assert held.claim_id == held.id != uuid(1)
    for end in (FinishClaim(claim_id=held.claim_id), AbortClaim(claim_id=uuid(1))):
        assert planned(host, end).reply is None
    assert snapshot(rebuilt(ledger)) == snapshot(ledger)
    play(host, update(1, vm_state="deleted"))
    assert ledger.charged == resources(2, 4096, 50)


@pytest.mark.behaviour("adoption")
def test_an_adoption_is_one_event_for_each_instance_and_one_generation():
    host = host_ledger()
    generation = host.node(NODE).generation
    events = happened(play(host, adoption(running(1), running(2))))
    assert [type(event) for event in events] == [UsageAdopted, UsageAdopted]
    assert [event.allocation.uuid for event in events] == [uuid(1), uuid(2)]
    assert host.node(NODE).generation == generation + 1


@pytest.mark.behaviour("adoption")
def test_an_adoption_may_be_repeated():
    host = host_ledger()
    outcome(host, running(1))
    before = snapshot(host.node(NODE))
    assert outcome(host, running(1), running(1, node=NODE)) == ([], [uuid(1), uuid(1)], [])
    assert snapshot(host.node(NODE)) == before
    assert outcome(host, running(2), running(2)) == ([uuid(2)], [uuid(2)], [])


@pytest.mark.behaviour("adoption")
def test_an_instance_that_was_claimed_is_charged_already():
    host = host_ledger()
    play(host, begin(1))
    assert outcome(host, running(1)) == ([], [uuid(1)], [])
    assert planned(host, FinishClaim(claim_id=claim_id(host))).reply is not None


@pytest.mark.behaviour("adoption")
def test_no_limit_is_tested_and_the_event_says_of_what_there_is_too_little():
    host = host_ledger(reported=inventory(vcpus=4, resources={"VGPU": {"total": 2, "max_unit": 1}}))
    big = running(1, **sized(6), resources={"VGPU": 3, "FPGA": 1})
    [event] = happened(play(host, adoption(big, running(2, **sized(0, 1)))))[:1]
    assert [(over.resource, over.used, over.capacity) for over in event.over_capacity] == [
        ("VCPU", 6, 4),
        ("FPGA", 1, 0),
        ("VGPU", 3, 2),
    ]
    again = planned(host, adoption(running(3, **sized(1)), running(4, **sized(1))))
    assert [event.over_capacity[0].used for event in happened(again)] == [7, 8]
    assert host.node(NODE).charged["FPGA"] == 1


@pytest.mark.behaviour("adoption")
def test_other_sizes_or_another_node_than_those_that_are_charged_are_refused():
    host = host_ledger(nodes=2)
    outcome(host, running(1, node=NODE))
    before = [snapshot(ledger) for ledger in host]
    assert outcome(
        host, running(1, vcpus=3), running(1, node="node-2"), running(1, resources={"VGPU": 1}), running(1)
    ) == ([], [uuid(1)], [(uuid(1), "claim_conflict")] * 3)
    assert [snapshot(ledger) for ledger in host] == before


@pytest.mark.behaviour("adoption")
def test_an_instance_that_is_refused_does_not_hinder_the_others():
    host = host_ledger()
    assert outcome(
        host,
        running(1),
        instance_dict(2, vm_state="deleted"),
        instance_dict(3, vm_state="shelved_offloaded"),
        running(4, vcpus=True),
        {"uuid": uuid(5)},
        running(6, node="node-9"),
        running(7, resources={"VCPU": 1}),
        running(8),
    ) == (
        [uuid(1), uuid(8)],
        [],
        [
            *((uuid(number), "invalid_input") for number in (2, 3, 4, 5)),
            (uuid(6), "node_not_found"),
            (uuid(7), "invalid_input"),
        ],
    )


@pytest.mark.behaviour("adoption")
def test_a_refusal_names_the_field_by_the_place_of_its_instance():
    refused = play(host_ledger(), adoption(running(1), running(2, resources={"V": -1}))).reply["refused"]
    assert refused == [
        {
            "instance_uuid": uuid(2),
            "code": "invalid_input",
            "message": "instances.1.resources.V: must be between 0 and 9007199254740992, not -1",
        }
    ]


@pytest.mark.behaviour("adoption")
def test_only_a_node_whose_inventory_is_known_adopts():
    host = host_ledger(nodes=3)
    play(host, ReportNode(node="node-2", inventory=None, keeps_inventory=False))
    play(host, RetireNode(node="node-3", reason="gone"))
    assert outcome(host, running(2, node="node-2"), running(3, node="node-3")) == (
        [],
        [],
        [(uuid(2), "node_unavailable"), (uuid(3), "node_not_found")],
    )
    play(host, DrainNode(node=NODE, reason="repair"))
    assert outcome(host, running(1, node=NODE))[0] == [uuid(1)]
    play(host, ReportList(nodes=frozenset()))
    assert outcome(host, running(4, node=NODE))[0] == [uuid(4)]


@pytest.mark.behaviour("adoption")
def test_an_instance_without_a_node_is_on_the_only_node_or_refused():
    host = host_ledger(nodes=2)
    assert outcome(host, running(1)) == ([], [], [(uuid(1), "invalid_input")])
    assert outcome(host_ledger(), running(1))[0] == [uuid(1)]


@pytest.mark.behaviour("adoption", "early-deletions")
@pytest.mark.parametrize(("later", "memory", "adopted"), [(0, MEMORY, False), (MEMORY + 1, MEMORY, True), (0, 0, True)])
def test_an_instance_that_was_reported_deleted_is_not_adopted(later, memory, adopted):
    host = host_ledger()
    play(host, update(1, vm_state="deleted", noted=True))
    found = outcome(host, running(1), now=NOW + later, memory=memory)
    assert found == (([uuid(1)], [], []) if adopted else ([], [], [(uuid(1), "claim_conflict")]))
    assert (uuid(1) in host.node(NODE).deletions) is not adopted


@pytest.mark.behaviour("adoption")
def test_a_uuid_that_names_the_claim_of_another_instance_is_refused():
    host = host_ledger()
    play(host, begin(1, more={"claim_id": uuid(2)}))
    assert outcome(host, running(2)) == ([], [], [(uuid(2), "claim_conflict")])


@pytest.mark.behaviour("adoption")
def test_usage_that_no_store_could_keep_is_refused():
    host = host_ledger()
    huge = [running(number, root_gb=2**53, ephemeral_gb=2**53) for number in range(300)]
    adopted, _, refused = outcome(host, *huge)
    assert (len(adopted), refused[0]) == (256, (uuid(256), "invalid_input"))
    assert host.node(NODE).usage["DISK_GB"] <= 2**62


@pytest.mark.behaviour("adoption")
def test_the_owner_is_that_of_the_instance_and_else_that_of_the_context():
    nobody = running(1, project_id=None, user_id=None)
    host = host_ledger()
    play(host, adoption(nobody, running(2, project_id="q")))
    projects = {held.uuid: held.instance.project_id for held in host.node(NODE).allocations.values()}
    assert projects == {uuid(1): "p", uuid(2): "q"}
    assert outcome(host_ledger(), nobody, context={}, owner_required=True)[2] == [(uuid(1), "invalid_input")]


@pytest.mark.behaviour("adoption")
@pytest.mark.parametrize(
    ("instances", "field"),
    [
        (None, "instances"),
        ({}, "instances"),
        ("x", "instances"),
        ([instance_dict(1)] * (MOST_ADOPTED + 1), "instances"),
        ([running(1), None], "instances.1"),
        ([running(1), {}], "instances.1.uuid"),
        ([running(1), {"uuid": ""}], "instances.1.uuid"),
        ([running(1), {"uuid": 7}], "instances.1.uuid"),
    ],
)
def test_what_cannot_be_answered_by_instance_is_invalid_as_a_whole(instances, field):
    policy = Policy(claim_timeout=1, capacity_limits=False, release_expired=False, reserved=resources())
    with pytest.raises(InvalidInput) as caught:
        read_adoption(instances, {}, policy)
    assert caught.value.kwargs["field"] == field


@pytest.mark.behaviour("adoption")
def test_as_many_instances_as_there_may_be_are_adopted_at_once():
    host = host_ledger()
    assert len(outcome(host, *(running(number) for number in range(MOST_ADOPTED)))[0]) == MOST_ADOPTED
    assert host.node(NODE).stats.num_instances == MOST_ADOPTED
    assert driver_resource_dict()["vcpus"] < host.node(NODE).charged["VCPU"]
    assert host.name == HOST
