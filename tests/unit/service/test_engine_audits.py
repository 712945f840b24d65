# SPDX-License-Identifier: Apache-2.0
"""Audits: drivers are asked elsewhere, a call waits for them, and nobody else does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.support.builders import HOST, TIMEOUT, TOTAL, driver_resource_dict, instance_dict, node_name, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import House, Refused
from tests.unit.service.conftest import DeadlineClock, MakeHouse
from tracker_worker.bus.base import FANOUT
from tracker_worker.domain.times import SECOND
from tracker_worker.service.loop import batch

N1, N2 = node_name(1), node_name(2)
EXPIRY_SECONDS = TIMEOUT // SECOND


def test_a_call_gets_the_nodes_as_they_are_afterwards(house: House) -> None:
    house.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    (view,) = house.caller.call("update_available_resource").reply()
    assert (view["node"], view["vcpus"], view["generation"]) == (N1, 64, 2)
    assert house.notified() == [("node.updated", 2)]
    assert house.unsettled() == 0


def test_an_inventory_that_did_not_change_is_committed_and_told_to_nobody(house: House) -> None:
    (view,) = house.caller.call("update_available_resource").reply()
    assert (view["vcpus"], view["generation"]) == (TOTAL["VCPU"], 1)
    assert house.notified() == []


def test_one_node_may_be_asked_for(make_house: MakeHouse) -> None:
    house = make_house(nodes=2).start()
    views = house.caller.call("update_available_resource", node=N2).reply()
    assert [view["node"] for view in views] == [N2]
    assert house.drivers[HOST].calls == [N2]


def test_an_unknown_node_is_not_found(house: House) -> None:
    told = house.caller.call("update_available_resource", node="node-9").reply()
    assert told == Refused("NodeNotFound", {"host": HOST, "node": "node-9"})
    del house.drivers[HOST].nodes[N1]
    # One that only the ledger knows.
    assert house.caller.call("update_available_resource", node=N1).reply().error == "NodeNotFound"


def test_a_node_that_the_driver_has_got_is_created(house: House) -> None:
    house.drivers[HOST].nodes[N2] = driver_resource_dict()
    views = house.caller.call("update_available_resource").reply()
    assert [(view["node"], view["disabled"], view["sequence"]) for view in views] == [(N1, False, 1), (N2, False, 1)]


def test_an_answer_of_nothing_disables_and_another_enables_again(house: House) -> None:
    house.drivers[HOST].nodes[N1] = None
    assert house.caller.call("update_available_resource").reply()[0]["disabled"] is True
    assert house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply() is None
    house.drivers[HOST].nodes[N1] = driver_resource_dict()
    assert house.caller.call("update_available_resource").reply()[0]["disabled"] is False


def test_a_driver_that_hangs_for_a_node_delays_nobody_else(make_house: MakeHouse) -> None:
    house = make_house(nodes=2).start()
    hang = house.drivers[HOST].hang(N1)
    audit = house.caller.call("update_available_resource")
    assert hang.entered.wait(SECONDS)
    for node, number in ((N1, 1), (N2, 2)):
        claim = house.caller.call("begin_resource_claim", instance=instance_dict(number, node=node)).reply()
        assert claim["node"] == node
    assert len(house.caller.call("update_available_resource", node=N2).reply()) == 1
    assert len(house.caller.call("list_nodes").reply()) == 2
    assert not audit.replied()
    assert house.unsettled() == 1
    hang.release()
    assert [view["running_vms"] for view in audit.reply()] == [1, 1]
    house.finish()
    assert house.unsettled() == 0


def test_audits_of_a_node_that_is_being_asked_share_the_answer(house: House) -> None:
    hang = house.drivers[HOST].hang(N1)
    calls = [house.caller.call("update_available_resource")]
    assert hang.entered.wait(SECONDS)
    calls += [house.caller.call("update_available_resource", node=node) for node in (N1, None)]
    house.caller.cast("update_available_resource")
    wait_until(lambda: len(house.auditor._asked[HOST, N1]) == 4, "all of them waiting")
    house.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    hang.release()
    assert [call.reply()[0]["vcpus"] for call in calls] == [64, 64, 64]
    assert house.drivers[HOST].calls == [N1]
    assert [event for event, _ in house.notified()] == ["node.updated"]


@pytest.mark.parametrize("where", ["node", "listing", "answer"])
def test_what_is_wrong_with_a_driver_is_told_and_what_was_known_stays(house: House, where: str) -> None:
    driver = house.drivers[HOST]
    if where == "node":
        driver.nodes[N1] = OSError("no connection to the hypervisor")
    elif where == "listing":
        driver.listing_error = OSError("no connection to the hypervisor")
    else:
        driver.nodes[N1] = {"vcpus": 1}
    told = house.caller.call("update_available_resource").reply()
    assert isinstance(told, Refused)
    if where == "answer":
        assert told.error == "InvalidInput"
        assert "memory_mb" in told.kwargs["field"]
    else:
        # Not its text: it may hold anything.
        assert told.error == "RuntimeError"
    assert house.caller.call("get_node").reply()["generation"] == 1
    assert house.unsettled() == 0


def test_of_two_nodes_the_healthy_one_is_reported_all_the_same(make_house: MakeHouse) -> None:
    house = make_house(nodes=2).start()
    house.drivers[HOST].nodes.update({N1: OSError("gone"), N2: driver_resource_dict(vcpus=64)})
    assert house.caller.call("update_available_resource").reply().error == "RuntimeError"
    assert house.caller.call("get_node", node=N2).reply()["vcpus"] == 64


def test_a_cast_is_done_with_before_the_driver_has_answered(house: House) -> None:
    hang = house.drivers[HOST].hang(N1)
    house.caller.cast("update_available_resource")
    assert hang.entered.wait(SECONDS)
    wait_until(lambda: house.unsettled() == 0, "the cast settled")
    house.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    hang.release()
    assert house.hear(1) == [("node.updated", 2)]


@pytest.mark.behaviour("claim-expiry")
def test_an_audit_expires_what_is_due(house: House) -> None:
    house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    house.clock.forward(EXPIRY_SECONDS)
    house.caller.call("update_available_resource").reply()
    assert house.notified() == [("claim.begun", 2)]
    house.clock.forward(1)
    house.caller.cast("update_available_resource")
    assert house.hear(1) == [("claim.expired", 3)]
    assert house.caller.call("list_claims").reply() == []
    assert house.charged() == [uuid(1)]


def test_a_fanout_is_for_all_hosts_and_a_call_of_it_waits_for_all(make_house: MakeHouse) -> None:
    house = make_house(hosts=["host-1", "host-2"]).start()
    for driver in house.drivers.values():
        driver.nodes[N1] = driver_resource_dict(vcpus=64)
    hang = house.drivers["host-2"].hang(N1)
    call = house.caller.call("update_available_resource", source=FANOUT)
    assert house.hear(1) == [("node.updated", 2)]
    assert hang.entered.wait(SECONDS)
    assert not call.replied()
    hang.release()
    assert sorted((view["host"], view["vcpus"]) for view in call.reply()) == [("host-1", 64), ("host-2", 64)]


def test_a_call_whose_caller_is_gone_by_then_is_dropped(house: House, deadline_clock: DeadlineClock) -> None:
    hang = house.drivers[HOST].hang(N1)
    call = house.caller.call("update_available_resource", deadline=deadline_clock.now + 60)
    assert hang.entered.wait(SECONDS)
    deadline_clock.forward(60)
    hang.release()
    wait_until(lambda: house.unsettled() == 0, "the call settled")
    assert not call.replied()


def test_a_report_that_cannot_be_decided_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller would wait for ever, and so would its heartbeats."""

    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    house.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    monkeypatch.setattr(batch, "render", broken)
    call = house.caller.call("update_available_resource", timeout=60)
    assert call.reply().error == "RuntimeError"
    assert [monitor.cancelled for monitor in house.monitors] == [True]
    house.finish()
    assert house.unsettled() == 0


def test_a_call_that_still_waits_when_the_worker_stops_comes_again(make_house: MakeHouse) -> None:
    house = make_house().start()
    hang = house.drivers[HOST].hang(N1)
    call = house.caller.call("update_available_resource")
    assert hang.entered.wait(SECONDS)
    house.stop()
    after = make_house(store=house.store.inner, broker=house.broker)
    after.caller._calls.update(house.caller._calls)
    after.start()
    assert [view["node"] for view in call.reply()] == [N1]


class TestPeriodic:
    def test_it_expires_and_reports(self, house: House) -> None:
        house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        house.clock.forward(EXPIRY_SECONDS + 1)
        house.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
        house.engine.audit(HOST)
        assert house.hear(3) == [("claim.begun", 2), ("claim.expired", 3), ("node.updated", 4)]

    @pytest.mark.behaviour("start-order")
    def test_a_driver_that_fails_is_asked_again_the_next_time(self, house: House) -> None:
        driver = house.drivers[HOST]
        driver.nodes[N1] = OSError("gone")
        house.engine.audit(HOST)
        wait_until(lambda: driver.calls == [N1], "the driver asked")
        driver.nodes[N1] = driver_resource_dict(vcpus=64)
        house.engine.audit(HOST)
        assert house.hear(1) == [("node.updated", 2)]

    def test_a_driver_that_hangs_is_asked_once(self, house: House) -> None:
        hang = house.drivers[HOST].hang(N1)
        for _ in range(20):
            house.engine.audit(HOST)
            house.finish()
        assert hang.entered.wait(SECONDS)
        assert house.drivers[HOST].calls == [N1]
        assert house.caller.call("get_node").reply()["generation"] == 1

    def test_a_list_of_nodes_that_hangs_is_asked_for_once_and_holds_its_host_only(self, make_house: MakeHouse) -> None:
        house = make_house(hosts=["host-1", "host-2"]).start()
        asked: list[str] = []
        entered, released = threading.Event(), threading.Event()
        driver = house.drivers["host-1"]

        def hanging() -> list[str]:
            asked.append("host-1")
            entered.set()
            released.wait(SECONDS)
            return [N1]

        driver.get_available_nodes = hanging  # type: ignore[method-assign]
        for _ in range(20):
            house.engine.audit("host-1")
            house.finish()
        assert entered.wait(SECONDS)
        assert len(house.caller.call("update_available_resource", source="host-2").reply()) == 1
        assert asked == ["host-1"]
        released.set()
        wait_until(lambda: driver.calls != [], "the node asked")

    def test_expired_claims_are_released_where_the_policy_says_so(self, house: House) -> None:
        house.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        house.policy = type(house.policy)(
            claim_timeout=TIMEOUT, capacity_limits=False, release_expired=True, reserved=house.policy.reserved
        )
        house.clock.forward(EXPIRY_SECONDS + 1)
        house.engine.audit(HOST)
        assert house.hear(2) == [("claim.begun", 2), ("claim.expired", 3)]
        assert house.charged() == []
