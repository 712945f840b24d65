# SPDX-License-Identifier: Apache-2.0
"""A batch: decided in order, committed once, and told to nobody before."""

from __future__ import annotations

import threading

import pytest

from tests.support.builders import HOST, instance_dict, node_name, sized, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import House, Refused
from tests.unit.service.conftest import DeadlineClock, MakeHouse
from tracker_worker.bus.base import FANOUT, SHARED


def test_all_that_has_arrived_is_one_commit(house: House) -> None:
    with house.busy():
        calls = [house.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in range(1, 21)]
        house.caller.cast("finish_resource_claim", claim_id=uuid(1))
        house.caller.cast("update_usage", instance={"uuid": uuid(2), "vm_state": "active"})
        house.store.commits.clear()
    replies = [call.reply() for call in calls]
    house.finish()
    assert [reply["claim_id"] for reply in replies] == [uuid(number) for number in range(1, 21)]
    first, *others = house.store.commits
    assert first.nodes == [node_name(1)]
    assert first.events == ["tracker.claim.begun"] * 20 + ["tracker.claim.finished", "tracker.usage.updated"]
    assert len(first.answered) == 22
    assert [commit for commit in others if commit.nodes] == []
    assert house.unsettled() == 0


def test_the_events_of_one_commit_share_a_generation_and_number_on(house: House) -> None:
    with house.busy():
        calls = [house.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in (1, 2, 3)]
    assert {call.reply()["generation"] for call in calls} == {2}
    ledger = house.ledger().node(node_name(1))
    assert (ledger.generation, ledger.sequence) == (2, 4)
    assert house.notified() == [("claim.begun", 2), ("claim.begun", 3), ("claim.begun", 4)]


@pytest.mark.behaviour("exclusion-per-node")
def test_decisions_see_what_was_decided_before_them(house: House) -> None:
    limits = {"memory_mb": 512 + 2 * 4096}
    with house.busy():
        calls = [
            house.caller.call("begin_resource_claim", instance=instance_dict(number), limits=limits)
            for number in (1, 2, 3)
        ]
        house.caller.cast("abort_resource_claim", claim_id=uuid(1))
        calls.append(house.caller.call("begin_resource_claim", instance=instance_dict(4), limits=limits))
    told = [call.reply() for call in calls]
    assert [reply["claim_id"] for reply in (told[0], told[1], told[3])] == [uuid(1), uuid(2), uuid(4)]
    assert isinstance(told[2], Refused)
    assert told[2].error == "ComputeResourcesUnavailable"
    assert house.charged() == [uuid(2), uuid(4)]
    assert house.parked() == []


def test_one_commit_is_for_all_hosts(make_house: MakeHouse) -> None:
    house = make_house(hosts=["host-1", "host-2"], nodes=2).start()
    with house.busy():
        calls = [
            house.caller.call(
                "begin_resource_claim", source=host, instance=instance_dict(number, node=node_name(number))
            )
            for host in house.hosts
            for number in (1, 2)
        ]
        house.store.commits.clear()
    assert [(reply["host"], reply["node"]) for reply in (call.reply() for call in calls)] == [
        ("host-1", "node-1"),
        ("host-1", "node-2"),
        ("host-2", "node-1"),
        ("host-2", "node-2"),
    ]
    assert house.store.commits[0].nodes == ["node-1", "node-2", "node-1", "node-2"]


def test_a_batch_in_which_nothing_happened_commits_nothing(house: House) -> None:
    house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    house.finish()
    wait_until(lambda: house.store.inner.cursors(house.ledger().id) == {1: 2}, "the cursor")
    house.store.commits.clear()
    with house.busy():
        calls = [
            house.caller.call("begin_resource_claim", instance=instance_dict(1)),
            house.caller.call("begin_resource_claim", instance=instance_dict(1, memory_mb=1)),
            house.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "building", "colour": "blue"}),
            house.caller.call("update_usage", instance={"uuid": uuid(9), "vm_state": "active"}),
            house.caller.call("finish_resource_claim", claim_id=uuid(9)),
            house.caller.call("abort_resource_claim", claim_id=uuid(9)),
            house.caller.call("get_node"),
            house.caller.call("oslo_rpc_server_ping"),
            house.caller.call("begin_resource_claim", instance={"uuid": uuid(3)}),
        ]
    told = [call.reply() for call in calls]
    house.finish()
    assert house.store.commits == []
    assert told[0]["claim_id"] == uuid(1)
    assert told[1].error == "ClaimConflict"
    assert told[2:6] == [{"tracked": True, "changed": False}, {"tracked": False, "changed": False}, None, None]
    assert (told[6]["generation"], told[6]["sequence"]) == (2, 2)
    assert told[7] == "pong"
    assert told[8] == Refused("InvalidInput", {"field": "instance.vcpus", "reason": "is missing"})
    assert house.unsettled() == 0


@pytest.mark.behaviour("acknowledge-after-commit")
def test_nothing_is_told_or_settled_before_the_commit(house: House) -> None:
    committing, commit = threading.Event(), threading.Event()
    house.store.script["commit"] = [lambda: (committing.set(), commit.wait(SECONDS))]
    with house.busy():
        claim = house.caller.call("begin_resource_claim", instance=instance_dict(1))
        read = house.caller.call("get_node")
        house.caller.cast("update_usage", instance={"uuid": uuid(1), "vm_state": "active"})
        house.caller.cast("nonsense")
    assert committing.wait(SECONDS)
    assert not claim.replied()
    assert not read.replied()
    assert house.unsettled() == 4
    assert house.broker.parked.empty()
    assert house.broker.notifications.empty()
    commit.set()
    assert claim.reply()["generation"] == read.reply()["generation"] == 2
    house.finish()
    assert house.unsettled() == 0
    assert [parked.headers["x-tracker-reason"].split(":")[0] for parked in house.parked()] == ["NoSuchMethod"]


@pytest.mark.behaviour("poison-message")
def test_a_refusal_for_resources_is_committed_and_a_cast_is_not_parked(house: House) -> None:
    big = instance_dict(1, **sized(vcpus=1, memory_mb=10**6))
    limits = {"memory_mb": 131072}
    house.caller.cast("begin_resource_claim", instance=big, limits=limits)
    house.finish()
    assert house.notified() == [("claim.rejected", 2)]
    assert house.charged() == []
    assert house.parked() == []


@pytest.mark.behaviour("poison-message")
def test_a_cast_that_is_refused_otherwise_is_parked_with_code_and_text(house: House) -> None:
    house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    house.caller.cast("begin_resource_claim", instance=instance_dict(1, memory_mb=1))
    house.caller.cast("begin_resource_claim", instance=instance_dict(2, node="node-9"))
    house.caller.cast("begin_resource_claim", instance=instance_dict(2), colour="blue")
    house.caller.cast("begin_resource_claim", instance=instance_dict(2), host="host-9", source=SHARED)
    house.broker.publish(HOST, b"no request")
    house.finish()
    reasons = [parked.headers["x-tracker-reason"] for parked in house.parked()]
    assert [reason.split(":")[0] for reason in reasons] == [
        "claim_conflict",
        "node_not_found",
        "invalid_input",
        "host_not_served",
        "invalid_input",
    ]
    assert "colour" in reasons[2]
    assert house.unsettled() == 0


def test_a_fanout_for_another_host_is_nobodys_dead_letter(house: House) -> None:
    house.caller.cast("update_available_resource", host="host-9", source=FANOUT)
    # Nobody fans out calls; should one come, it must not be what ends the worker.
    told = house.caller.call("update_available_resource", host="host-9", source=FANOUT)
    house.finish()
    assert told.reply() is None
    assert house.parked() == []
    assert house.unsettled() == 0


def test_a_call_that_nobody_waits_for_any_more_is_skipped(house: House, deadline_clock: DeadlineClock) -> None:
    late = house.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now)
    read = house.caller.call("get_node", deadline=deadline_clock.now - 1)
    in_time = house.caller.call("begin_resource_claim", instance=instance_dict(2), deadline=deadline_clock.now + 1)
    assert in_time.reply()["claim_id"] == uuid(2)
    house.finish()
    assert not late.replied()
    assert not read.replied()
    assert house.charged() == [uuid(2)]
    assert house.unsettled() == 0


def test_a_call_that_expires_during_the_commit_has_its_effect_and_gets_no_reply(
    house: House, deadline_clock: DeadlineClock
) -> None:
    house.store.script["commit"] = [lambda: deadline_clock.forward(60)]
    late = house.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 60)
    house.finish()
    assert house.charged() == [uuid(1)]
    assert not late.replied()
    assert house.unsettled() == 0


def test_without_notifications_none_is_kept_and_the_sequence_goes_on(make_house: MakeHouse) -> None:
    house = make_house(notify=False).start()
    house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    house.finish()
    ledger = house.ledger().node(node_name(1))
    assert (ledger.generation, ledger.sequence) == (2, 2)
    assert house.store.inner.outbox(ledger.id, after=1, limit=10) == []
    assert house.notified() == []


def test_what_is_not_started_when_it_stops_comes_again(make_house: MakeHouse) -> None:
    first = make_house().start()
    with first.busy():
        for number in range(1, 4):
            first.caller.cast("begin_resource_claim", instance=instance_dict(number))
        stopping = threading.Thread(target=first.engine.stop)
        stopping.start()
        wait_until(first.engine._stopping.is_set, "stopping")
    stopping.join(SECONDS)
    first.stop()
    assert first.charged() == []
    second = make_house(store=first.store.inner, broker=first.broker).start()
    second.finish()
    assert second.charged() == [uuid(1), uuid(2), uuid(3)]
