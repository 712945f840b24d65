# SPDX-License-Identifier: Apache-2.0
"""Audits: drivers are read on other threads, and only calls for the audit wait for them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.builders import HOST, TIMEOUT, TOTAL, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tracker_worker import unit_of_work
from tracker_worker.bus.base import FANOUT
from tracker_worker.domain.values import SECOND

N1, N2 = node_name(1), node_name(2)
EXPIRY_SECONDS = TIMEOUT // SECOND


def test_an_audit_call_returns_the_nodes_after_the_audit(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["node"], view["vcpus"], view["generation"]) == (N1, 64, 2)
    assert harness.notified() == [("node.updated", 2)]
    assert harness.unsettled() == 0


def test_an_unchanged_inventory_gives_no_notification(harness: EngineHarness) -> None:
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["vcpus"], view["generation"]) == (TOTAL["VCPU"], 1)
    assert harness.notified() == []


def test_an_audit_may_be_for_one_node(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    views = harness.caller.call("update_available_resource", node=N2).reply()
    assert [view["node"] for view in views] == [N2]
    assert harness.drivers[HOST].calls == [N2]


def test_an_unknown_node_is_not_found(harness: EngineHarness) -> None:
    told = harness.caller.call("update_available_resource", node="node-9").reply()
    assert told == Refused("NodeNotFound", {"host": HOST, "node": "node-9"})
    del harness.drivers[HOST].nodes[N1]
    # Only the ledger knows this node.
    assert harness.caller.call("update_available_resource", node=N1).reply().error == "NodeNotFound"


def test_a_new_node_of_the_driver_is_created(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N2] = driver_resource_dict()
    views = harness.caller.call("update_available_resource").reply()
    assert [(view["node"], view["disabled"], view["sequence"]) for view in views] == [(N1, False, 1), (N2, False, 1)]


def test_an_empty_answer_makes_a_new_node_unsupported_and_an_inventory_opens_it(make_harness: MakeHarness) -> None:
    harness = make_harness(settled=False).start()
    harness.drivers[HOST].nodes[N1] = None
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["state"], view["disabled"]) == ("unsupported", True)
    assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply() is None
    harness.drivers[HOST].nodes[N1] = driver_resource_dict()
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["state"], view["disabled"]) == ("open", False)


def test_an_empty_answer_leaves_a_node_its_last_inventory(harness: EngineHarness) -> None:
    harness.drivers[HOST].nodes[N1] = None
    (view,) = harness.caller.call("update_available_resource").reply()
    assert (view["state"], view["disabled"], view["vcpus"]) == ("stale", False, 32)


def test_a_driver_that_hangs_for_a_node_delays_only_the_audit_of_that_node(make_harness: MakeHarness) -> None:
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
    assert harness.unsettled() == 0
    hang.release()
    assert [view["running_vms"] for view in audit.reply()] == [1, 1]
    harness.finish()
    assert harness.unsettled() == 0


def test_calls_during_a_look_wait_for_the_next_one_and_share_its_answer(harness: EngineHarness) -> None:
    hang = harness.drivers[HOST].hang(N1)
    first = harness.caller.call("update_available_resource")
    assert hang.entered.wait(SECONDS)
    # The driver has been asked: its answer may be older than the calls that follow.
    others = [harness.caller.call("update_available_resource", node=node) for node in (None, None, N1)]
    harness.caller.cast("update_available_resource")
    harness.finish()
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=48)
    hang.release()
    assert first.reply()[0]["vcpus"] == 48
    assert [call.reply()[0]["vcpus"] for call in others] == [48, 48, 48]
    wait_until(lambda: not harness.inventories._waiting, "nothing left to ask")
    # At most one for the first call, one for the cast and the call that names the node, and one for the other calls.
    assert harness.drivers[HOST].calls in ([N1] * 2, [N1] * 3)
    assert [event for event, _ in harness.notified()] == ["node.updated"]


@pytest.mark.parametrize("where", ["node", "listing", "answer"])
def test_a_failed_audit_returns_the_error_and_keeps_the_inventory(harness: EngineHarness, where: str) -> None:
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
        # The reply must not hold the text of the driver's error, which may contain any data.
        assert told.error == "RuntimeError"
    view = harness.caller.call("get_node").reply()
    assert (view["generation"], view["state"], view["vcpus"]) == (2, "stale", TOTAL["VCPU"])
    assert harness.unsettled() == 0


def test_an_audit_updates_one_node_although_another_node_fails(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=2).start()
    harness.drivers[HOST].nodes.update({N1: OSError("gone"), N2: driver_resource_dict(vcpus=64)})
    assert harness.caller.call("update_available_resource").reply().error == "RuntimeError"
    assert harness.caller.call("get_node", node=N2).reply()["vcpus"] == 64


def test_an_audit_cast_is_settled_before_the_driver_has_answered(harness: EngineHarness) -> None:
    hang = harness.drivers[HOST].hang(N1)
    harness.caller.cast("update_available_resource")
    assert hang.entered.wait(SECONDS)
    wait_until(lambda: harness.unsettled() == 0, "the cast settled")
    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    hang.release()
    assert harness.hear(1) == [("node.updated", 2)]


@pytest.mark.behaviour("claim-expiry")
def test_an_audit_expires_claims_after_their_expiry_time(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    harness.clock.forward(EXPIRY_SECONDS)
    harness.caller.call("update_available_resource").reply()
    assert harness.notified() == [("claim.begun", 2)]
    harness.clock.forward(1)
    harness.caller.cast("update_available_resource")
    assert harness.hear(1) == [("claim.expired", 3)]
    assert harness.caller.call("list_claims").reply() == []
    assert harness.charged() == [uuid(1)]


def test_a_fanout_audit_is_for_all_hosts_and_its_call_waits_for_all(make_harness: MakeHarness) -> None:
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


def test_an_audit_call_that_has_expired_by_its_end_is_dropped(
    harness: EngineHarness, deadline_clock: DeadlineClock
) -> None:
    hang = harness.drivers[HOST].hang(N1)
    call = harness.caller.call("update_available_resource", deadline=deadline_clock.now + 60)
    assert hang.entered.wait(SECONDS)
    deadline_clock.forward(60)
    hang.release()
    wait_until(lambda: harness.unsettled() == 0, "the call settled")
    assert not call.replied()


def test_an_audit_whose_report_cannot_be_decided_returns_an_error(
    harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the error, the caller would wait until its timeout and its heartbeats would not end."""

    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    monkeypatch.setattr(unit_of_work, "render", broken)
    call = harness.caller.call("update_available_resource", timeout=60)
    assert call.reply().error == "RuntimeError"
    assert [monitor.cancelled for monitor in harness.monitors] == [True]
    harness.finish()
    assert harness.unsettled() == 0


def test_an_audit_call_that_waits_when_the_worker_stops_gets_an_error_and_is_not_redelivered(
    make_harness: MakeHarness,
) -> None:
    harness = make_harness().start()
    hang = harness.drivers[HOST].hang(N1)
    call = harness.caller.call("update_available_resource", timeout=60)
    assert hang.entered.wait(SECONDS)
    harness.stop()
    assert call.reply() == Refused("InventoryUnavailable", {"host": HOST, "reason": "the worker stops"})
    assert [monitor.cancelled for monitor in harness.monitors] == [True]
    after = make_harness(store=harness.store.inner, broker=harness.broker).start()
    after.finish()
    assert after.drivers[HOST].calls == []


class TestPeriodic:
    def test_a_periodic_audit_expires_claims_and_reports_inventory(self, harness: EngineHarness) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.clock.forward(EXPIRY_SECONDS + 1)
        harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
        harness.engine.audit(HOST)
        assert harness.hear(3) == [("claim.begun", 2), ("claim.expired", 3), ("node.updated", 4)]

    @pytest.mark.behaviour("start-order")
    def test_a_driver_that_fails_is_read_again_by_the_next_audit(self, harness: EngineHarness) -> None:
        driver = harness.drivers[HOST]
        driver.nodes[N1] = OSError("gone")
        harness.engine.audit(HOST)
        wait_until(lambda: driver.calls == [N1], "the driver asked")
        driver.nodes[N1] = driver_resource_dict(vcpus=64)
        harness.engine.audit(HOST)
        assert harness.hear(1) == [("node.updated", 2)]

    def test_a_driver_that_hangs_is_read_once(self, harness: EngineHarness) -> None:
        hang = harness.drivers[HOST].hang(N1)
        for _ in range(20):
            harness.engine.audit(HOST)
            harness.finish()
        assert hang.entered.wait(SECONDS)
        assert harness.drivers[HOST].calls == [N1]
        assert harness.caller.call("get_node").reply()["generation"] == 1

    def test_a_list_of_nodes_that_hangs_is_read_once_and_delays_only_its_host(self, make_harness: MakeHarness) -> None:
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

    def test_expired_claims_are_released_if_the_policy_says_so(self, harness: EngineHarness) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.policy = type(harness.policy)(
            claim_timeout=TIMEOUT, capacity_limits=False, release_expired=True, reserved=harness.policy.reserved
        )
        harness.clock.forward(EXPIRY_SECONDS + 1)
        harness.engine.audit(HOST)
        assert harness.hear(2) == [("claim.begun", 2), ("claim.expired", 3)]
        assert harness.charged() == []
