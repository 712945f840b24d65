# SPDX-License-Identifier: Apache-2.0
"""A batch is decided in order, committed once, and answered only after the commit."""

from __future__ import annotations

import threading

import pytest

from tests.support.builders import HOST, instance_dict, node_name, sized, uuid
from tests.support.caller import Refused
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tracker_worker.bus.base import FANOUT, SHARED


def test_all_requests_that_have_arrived_are_one_commit(harness: EngineHarness) -> None:
    with harness.busy():
        calls = [harness.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in range(1, 21)]
        harness.caller.cast("finish_resource_claim", claim_id=uuid(1))
        harness.caller.cast("update_usage", instance={"uuid": uuid(2), "vm_state": "active"})
        harness.store.commits.clear()
    replies = [call.reply() for call in calls]
    harness.finish()
    assert [reply["instance_uuid"] for reply in replies] == [uuid(number) for number in range(1, 21)]
    first, *others = harness.store.commits
    assert first.nodes == [node_name(1)]
    assert first.events == ["tracker.claim.begun"] * 20 + ["tracker.claim.finished", "tracker.usage.updated"]
    assert len(first.answered) == 22
    assert [commit for commit in others if commit.nodes] == []
    assert harness.unsettled() == 0


def test_the_events_of_one_commit_have_one_generation_and_consecutive_sequences(harness: EngineHarness) -> None:
    with harness.busy():
        calls = [harness.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in (1, 2, 3)]
    assert {call.reply()["generation"] for call in calls} == {2}
    ledger = harness.ledger().node(node_name(1))
    assert (ledger.generation, ledger.sequence) == (2, 4)
    assert harness.notified() == [("claim.begun", 2), ("claim.begun", 3), ("claim.begun", 4)]


@pytest.mark.behaviour("exclusion-per-node")
def test_a_decision_sees_the_earlier_decisions_of_its_batch(harness: EngineHarness) -> None:
    limits = {"memory_mb": 512 + 2 * 4096}
    with harness.busy():
        calls = [
            harness.caller.call("begin_resource_claim", instance=instance_dict(number), limits=limits)
            for number in (1, 2, 3)
        ]
        harness.caller.cast("abort_resource_claim", claim_id=uuid(1))
        calls.append(harness.caller.call("begin_resource_claim", instance=instance_dict(4), limits=limits))
    told = [call.reply() for call in calls]
    assert [reply["instance_uuid"] for reply in (told[0], told[1], told[3])] == [uuid(1), uuid(2), uuid(4)]
    assert isinstance(told[2], Refused)
    assert told[2].error == "ComputeResourcesUnavailable"
    assert harness.charged() == [uuid(2), uuid(4)]
    assert harness.parked() == []


def test_one_commit_is_for_all_hosts(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=["host-1", "host-2"], nodes=2).start()
    with harness.busy():
        calls = [
            harness.caller.call(
                "begin_resource_claim", source=host, instance=instance_dict(number, node=node_name(number))
            )
            for host in harness.hosts
            for number in (1, 2)
        ]
        harness.store.commits.clear()
    assert [(reply["host"], reply["node"]) for reply in (call.reply() for call in calls)] == [
        ("host-1", "node-1"),
        ("host-1", "node-2"),
        ("host-2", "node-1"),
        ("host-2", "node-2"),
    ]
    assert harness.store.commits[0].nodes == ["node-1", "node-2", "node-1", "node-2"]


@pytest.mark.parametrize(("vcpu", "error"), [(1, "ClaimConflict"), (0.5, None)])
def test_a_move_sees_those_that_have_begun_on_another_host(
    make_harness: MakeHarness, vcpu: float, error: str | None
) -> None:
    harness = make_harness(hosts=["host-1", "host-2"]).start()
    with harness.busy():
        calls = [
            harness.caller.call(
                "begin_move_claim",
                source=host,
                instance=instance_dict(1, vcpus=1),
                limits={"vcpu": vcpu if host == "host-1" else 1},
                move={"id": host, "kind": "migration"},
            )
            for host in harness.hosts
        ]
    first, second = (call.reply() for call in calls)
    assert isinstance(first, Refused) == (error is None)
    assert (second.error if isinstance(second, Refused) else None) == error


def test_a_batch_without_an_effect_commits_its_inbox_rows_only(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.finish()
    wait_until(lambda: harness.store.inner.streams(HOST)[0].cursors == {"notifications": 2}, "the cursor")
    harness.store.commits.clear()
    with harness.busy():
        calls = [
            harness.caller.call("begin_resource_claim", instance=instance_dict(1)),
            harness.caller.call("begin_resource_claim", instance=instance_dict(1, memory_mb=1)),
            harness.caller.call("update_usage", instance={"uuid": uuid(1), "vm_state": "building", "colour": "blue"}),
            harness.caller.call("update_usage", instance={"uuid": uuid(9), "vm_state": "active"}),
            harness.caller.call("finish_resource_claim", claim_id=uuid(9)),
            harness.caller.call("abort_resource_claim", claim_id=uuid(9)),
            harness.caller.call("get_node"),
            harness.caller.call("oslo_rpc_server_ping"),
            harness.caller.call("begin_resource_claim", instance={"uuid": uuid(3)}),
        ]
    told = [call.reply() for call in calls]
    harness.finish()
    (committed,) = harness.store.commits
    assert (committed.nodes, committed.events, len(committed.answered)) == ([], [], 6)
    assert told[0]["instance_uuid"] == uuid(1)
    assert told[1].error == "ClaimConflict"
    assert told[2:6] == [{"tracked": True, "changed": False}, {"tracked": False, "changed": False}, None, None]
    assert (told[6]["generation"], told[6]["sequence"]) == (2, 2)
    assert told[7] == "pong"
    assert told[8] == Refused("InvalidInput", {"field": "instance.vcpus", "reason": "is missing"})
    assert harness.unsettled() == 0


@pytest.mark.behaviour("acknowledge-after-commit")
def test_no_reply_is_sent_and_no_delivery_settled_before_the_commit(harness: EngineHarness) -> None:
    committing, commit = threading.Event(), threading.Event()
    harness.store.script["commit"] = [lambda: (committing.set(), commit.wait(SECONDS))]
    with harness.busy():
        claim = harness.caller.call("begin_resource_claim", instance=instance_dict(1))
        read = harness.caller.call("get_node")
        harness.caller.cast("update_usage", instance={"uuid": uuid(1), "vm_state": "active"})
        harness.caller.cast("abort_resource_claim", claim_id=uuid(9))
    assert committing.wait(SECONDS)
    assert not claim.replied()
    assert not read.replied()
    assert harness.unsettled() == 4
    assert harness.broker.notifications.empty()
    commit.set()
    assert claim.reply()["generation"] == read.reply()["generation"] == 2
    harness.finish()
    assert harness.unsettled() == 0


@pytest.mark.behaviour("poison-message")
def test_a_cast_refused_for_insufficient_resources_is_committed_and_not_parked(harness: EngineHarness) -> None:
    big = instance_dict(1, **sized(vcpus=1, memory_mb=10**6))
    limits = {"memory_mb": 131072}
    harness.caller.cast("begin_resource_claim", instance=big, limits=limits)
    harness.finish()
    assert harness.notified() == [("claim.rejected", 2)]
    assert harness.charged() == []
    assert harness.parked() == []


@pytest.mark.behaviour("poison-message")
def test_a_cast_refused_for_another_reason_is_parked_with_code_and_text(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.caller.cast("begin_resource_claim", instance=instance_dict(1, memory_mb=1))
    harness.caller.cast("begin_resource_claim", instance=instance_dict(2, node="node-9"))
    harness.caller.cast("begin_resource_claim", instance=instance_dict(2), colour="blue")
    harness.caller.cast("begin_resource_claim", instance=instance_dict(2), host="host-9", source=SHARED)
    harness.broker.publish(HOST, b"no request")
    harness.finish()
    reasons = [parked.headers["x-tracker-reason"] for parked in harness.parked()]
    assert sorted(reason.split(":")[0] for reason in reasons) == [
        "claim_conflict",
        "host_not_served",
        "invalid_input",
        "invalid_input",
        "node_not_found",
    ]
    assert any("colour" in reason for reason in reasons)
    assert harness.unsettled() == 0


def test_a_fanout_for_another_host_is_ignored_and_not_parked(harness: EngineHarness) -> None:
    harness.caller.cast("update_available_resource", host="host-9", source=FANOUT)
    # Clients do not send fanout calls; if a call arrives this way, it must not end the worker.
    told = harness.caller.call("update_available_resource", host="host-9", source=FANOUT)
    harness.finish()
    assert told.reply() is None
    assert harness.parked() == []
    assert harness.unsettled() == 0


def test_an_expired_call_is_skipped(harness: EngineHarness, deadline_clock: DeadlineClock) -> None:
    late = harness.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now)
    read = harness.caller.call("get_node", deadline=deadline_clock.now - 1)
    in_time = harness.caller.call("begin_resource_claim", instance=instance_dict(2), deadline=deadline_clock.now + 1)
    assert in_time.reply()["instance_uuid"] == uuid(2)
    harness.finish()
    assert not late.replied()
    assert not read.replied()
    assert harness.charged() == [uuid(2)]
    assert harness.unsettled() == 0


def test_a_call_that_expires_during_the_commit_has_its_effect_and_gets_no_reply(
    harness: EngineHarness, deadline_clock: DeadlineClock
) -> None:
    harness.store.script["commit"] = [lambda: deadline_clock.forward(60)]
    late = harness.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 60)
    harness.finish()
    assert harness.charged() == [uuid(1)]
    assert not late.replied()
    assert harness.unsettled() == 0


def test_without_notifications_the_outbox_stays_empty_and_the_sequence_grows(make_harness: MakeHarness) -> None:
    harness = make_harness(notify=False).start()
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.finish()
    ledger = harness.ledger().node(node_name(1))
    assert (ledger.generation, ledger.sequence) == (2, 2)
    assert harness.store.inner.outbox(ledger.id, after=1, limit=10) == []
    assert harness.notified() == []


def test_requests_that_are_not_begun_at_a_stop_are_redelivered(make_harness: MakeHarness) -> None:
    first = make_harness().start()
    with first.busy():
        for number in range(1, 4):
            first.caller.cast("begin_resource_claim", instance=instance_dict(number))
        stopping = threading.Thread(target=first.engine.stop)
        stopping.start()
        wait_until(lambda: first.engine._thread._stopping, "stopping")
    stopping.join(SECONDS)
    first.stop()
    assert first.charged() == []
    second = make_harness(store=first.store.inner, broker=first.broker).start()
    second.finish()
    assert second.charged() == [uuid(1), uuid(2), uuid(3)]
