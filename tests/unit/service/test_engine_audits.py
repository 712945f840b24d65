# SPDX-License-Identifier: Apache-2.0
"""Audits: drivers are asked elsewhere, a call waits for them, and nobody else does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.builders import HOST, TIMEOUT, TOTAL, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness, Refused
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tracker_worker import unit_of_work
from tracker_worker.bus.base import FANOUT
from tracker_worker.domain.values import SECOND

N1, N2 = node_name(1), node_name(2)
EXPIRY_SECONDS = TIMEOUT // SECOND


def test_a_call_gets_the_nodes_as_they_are_afterwards(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["node"], view["vcpus"], view["generation"]) == (N1, 64, 2)
    assert harness.notified() == [("node.updated", 2)]
    assert harness.unsettled() == 0


def test_an_inventory_that_did_not_change_is_committed_and_told_to_nobody(harness: EngineHarness) -> None:
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["vcpus"], view["generation"]) == (TOTAL["VCPU"], 1)
    assert harness.notified() == []


def test_one_node_may_be_asked_for(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    views = harness.caller.call("update_available_resource", node=N2).reply()
    assert [view["node"] for view in views] == [N2]
    assert harness.drivers[HOST].calls == [N2]


def test_an_unknown_node_is_not_found(harness: EngineHarness) -> None:
    told = harness.caller.call("update_available_resource", node="node-9").reply()
    assert told == Refused("NodeNotFound", {"host": HOST, "node": "node-9"})
    del harness.drivers[HOST].nodes[N1]
    # One that only the ledger knows.
    assert harness.caller.call("update_available_resource", node=N1).reply().error == "NodeNotFound"


def test_a_node_that_the_driver_has_got_is_created(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N2] = driver_resource_dict()
    views = harness.caller.call("update_available_resource").reply()
    assert [(view["node"], view["disabled"], view["sequence"]) for view in views] == [(N1, False, 1), (N2, False, 1)]


def test_an_answer_of_nothing_disables_and_another_enables_again(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N1] = None
    assert harness.caller.call("update_available_resource").reply()[0]["disabled"] is True
    assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply() is None
    harness.drivers[HOST].nodes[N1] = driver_resource_dict()
    assert harness.caller.call("update_available_resource").reply()[0]["disabled"] is False


def test_a_driver_that_hangs_for_a_node_delays_nobody_else(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    hang = harness.drivers[HOST].hang(N1)
    audit = harness.caller.call("update_available_resource")
    assert hang.entered.wait(SECONDS)
    for node, number in ((N1, 1), (N2, 2)):
        claim = harness.caller.call("begin_resource_claim", instance=instance_dict(number, node=node)).reply()
        assert claim["node"] == node
    assert len(harness.caller.call("update_available_resource", node=N2).reply()) == 1
    assert len(harness.caller.call("list_nodes").reply()) == 2
    assert not audit.replied()
    assert harness.unsettled() == 1
    hang.release()
    assert [view["running_vms"] for view in audit.reply()] == [1, 1]
    harness.finish()
    assert harness.unsettled() == 0


def test_audits_of_a_node_that_is_being_asked_share_the_answer(harness: EngineHarness) -> None:
    hang = harness.drivers[HOST].hang(N1)
    calls = [harness.caller.call("update_available_resource")]
    assert hang.entered.wait(SECONDS)
    calls += [harness.caller.call("update_available_resource", node=node) for node in (N1, None)]
    harness.caller.cast("update_available_resource")
    wait_until(lambda: len(harness.inventories._asked[HOST, N1]) == 4, "all of them waiting")
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    hang.release()
    assert [call.reply()[0]["vcpus"] for call in calls] == [64, 64, 64]
    assert harness.drivers[HOST].calls == [N1]
    assert [event for event, _ in harness.notified()] == ["node.updated"]


@pytest.mark.parametrize("where", ["node", "listing", "answer"])
def test_what_is_wrong_with_a_driver_is_told_and_what_was_known_stays(harness: EngineHarness, where: str) -> None:
    driver = harness.drivers[HOST]
    if where == "node":
        driver.nodes[N1] = OSError("no connection to the hypervisor")
    elif where == "listing":
        driver.listing_error = OSError("no connection to the hypervisor")
    else:
        driver.nodes[N1] = {"vcpus": 1}
    told = harness.caller.call("update_available_resource").reply()
    assert isinstance(told, Refused)
    if where == "answer":
        assert told.error == "InvalidInput"
        assert "memory_mb" in told.kwargs["field"]
    else:
        # Not its text: it may hold anything.
        assert told.error == "RuntimeError"
    assert harness.caller.call("get_node").reply()["generation"] == 1
    assert harness.unsettled() == 0


def test_of_two_nodes_the_healthy_one_is_reported_all_the_same(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    harness.drivers[HOST].nodes.update({N1: OSError("gone"), N2: driver_resource_dict(vcpus=64)})
    assert harness.caller.call("update_available_resource").reply().error == "RuntimeError"
    assert harness.caller.call("get_node", node=N2).reply()["vcpus"] == 64


def test_a_cast_is_done_with_before_the_driver_has_answered(harness: EngineHarness) -> None:
    hang = harness.drivers[HOST].hang(N1)
    harness.caller.cast("update_available_resource")
    assert hang.entered.wait(SECONDS)
    wait_until(lambda: harness.unsettled() == 0, "the cast settled")
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    hang.release()
    assert harness.hear(1) == [("node.updated", 2)]


@pytest.mark.behaviour("claim-expiry")
def test_an_audit_expires_what_is_due(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.clock.forward(EXPIRY_SECONDS)
    harness.caller.call("update_available_resource").reply()
    assert harness.notified() == [("claim.begun", 2)]
    harness.clock.forward(1)
    harness.caller.cast("update_available_resource")
    assert harness.hear(1) == [("claim.expired", 3)]
    assert harness.caller.call("list_claims").reply() == []
    assert harness.charged() == [uuid(1)]


def test_a_fanout_is_for_all_hosts_and_a_call_of_it_waits_for_all(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=["host-1", "host-2"]).start()
    for driver in harness.drivers.values():
        driver.nodes[N1] = driver_resource_dict(vcpus=64)
    hang = harness.drivers["host-2"].hang(N1)
    call = harness.caller.call("update_available_resource", source=FANOUT)
    assert harness.hear(1) == [("node.updated", 2)]
    assert hang.entered.wait(SECONDS)
    assert not call.replied()
    hang.release()
    assert sorted((view["host"], view["vcpus"]) for view in call.reply()) == [("host-1", 64), ("host-2", 64)]


def test_a_call_whose_caller_is_gone_by_then_is_dropped(harness: EngineHarness, deadline_clock: DeadlineClock) -> None:
    hang = harness.drivers[HOST].hang(N1)
    call = harness.caller.call("update_available_resource", deadline=deadline_clock.now + 60)
    assert hang.entered.wait(SECONDS)
    deadline_clock.forward(60)
    hang.release()
    wait_until(lambda: harness.unsettled() == 0, "the call settled")
    assert not call.replied()


def test_a_report_that_cannot_be_decided_is_told(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller would wait for ever, and so would its heartbeats."""

    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    monkeypatch.setattr(unit_of_work, "render", broken)
    call = harness.caller.call("update_available_resource", timeout=60)
    assert call.reply().error == "RuntimeError"
    assert [monitor.cancelled for monitor in harness.monitors] == [True]
    harness.finish()
    assert harness.unsettled() == 0


def test_a_call_that_still_waits_when_the_worker_stops_comes_again(make_harness: MakeHarness) -> None:
    harness = make_harness().start()
    hang = harness.drivers[HOST].hang(N1)
    call = harness.caller.call("update_available_resource")
    assert hang.entered.wait(SECONDS)
    harness.stop()
    after = make_harness(store=harness.store.inner, broker=harness.broker)
    after.caller._calls.update(harness.caller._calls)
    after.start()
    assert [view["node"] for view in call.reply()] == [N1]


class TestPeriodic:
    def test_a_periodic_audit_expires_claims_and_reports_inventory(self, harness: EngineHarness) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.clock.forward(EXPIRY_SECONDS + 1)
        harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
        harness.engine.audit(HOST)
        assert harness.hear(3) == [("claim.begun", 2), ("claim.expired", 3), ("node.updated", 4)]

    @pytest.mark.behaviour("start-order")
    def test_a_driver_that_fails_is_asked_again_the_next_time(self, harness: EngineHarness) -> None:
        driver = harness.drivers[HOST]
        driver.nodes[N1] = OSError("gone")
        harness.engine.audit(HOST)
        wait_until(lambda: driver.calls == [N1], "the driver asked")
        driver.nodes[N1] = driver_resource_dict(vcpus=64)
        harness.engine.audit(HOST)
        assert harness.hear(1) == [("node.updated", 2)]

    def test_a_driver_that_hangs_is_asked_once(self, harness: EngineHarness) -> None:
        hang = harness.drivers[HOST].hang(N1)
        for _ in range(20):
            harness.engine.audit(HOST)
            harness.finish()
        assert hang.entered.wait(SECONDS)
        assert harness.drivers[HOST].calls == [N1]
        assert harness.caller.call("get_node").reply()["generation"] == 1

    def test_a_list_of_nodes_that_hangs_is_asked_for_once_and_holds_its_host_only(
        self, make_harness: MakeHarness
    ) -> None:
        harness = make_harness(hosts=["host-1", "host-2"]).start()
        asked: list[str] = []
        entered, released = threading.Event(), threading.Event()
        driver = harness.drivers["host-1"]

        def hanging() -> list[str]:
            asked.append("host-1")
            entered.set()
            released.wait(SECONDS)
            return [N1]

        driver.get_available_nodes = hanging  # type: ignore[method-assign]
        for _ in range(20):
            harness.engine.audit("host-1")
            harness.finish()
        assert entered.wait(SECONDS)
        assert len(harness.caller.call("update_available_resource", source="host-2").reply()) == 1
        assert asked == ["host-1"]
        released.set()
        wait_until(lambda: driver.calls != [], "the node asked")

    def test_expired_claims_are_released_where_the_policy_says_so(self, harness: EngineHarness) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.policy = type(harness.policy)(
            claim_timeout=TIMEOUT, capacity_limits=False, release_expired=True, reserved=harness.policy.reserved
        )
        harness.clock.forward(EXPIRY_SECONDS + 1)
        harness.engine.audit(HOST)
        assert harness.hear(2) == [("claim.begun", 2), ("claim.expired", 3)]
        assert harness.charged() == []
