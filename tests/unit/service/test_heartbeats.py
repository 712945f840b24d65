# SPDX-License-Identifier: Apache-2.0
"""A caller that asks for heartbeats gets them for as long as its call is worked on, and not for longer, however it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.builders import HOST, instance_dict, node_name, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import House
from tests.unit.service.conftest import DeadlineClock, MakeHouse
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.loop import batch

MONITORED: dict[str, Any] = {"timeout": 60}
AWAY = StoreUnavailable(reason="away")


def test_they_are_sent_twice_as_often_as_asked_for(house: House) -> None:
    hang = house.drivers[HOST].hang(node_name(1))
    call = house.caller.call("update_available_resource", timeout=10)
    assert hang.entered.wait(SECONDS)
    (monitor,) = house.monitors
    assert monitor.interval_seconds == 5
    for _ in range(3):
        monitor.fire()
    assert len(house.caller.heartbeats) == 3
    assert not call.replied()
    hang.release()
    call.reply()


@pytest.mark.parametrize("timeout", [None, 0, 1, -5, True, 2.5, "60"])
def test_nobody_gets_them_who_has_not_asked_for_them(house: House, timeout: Any) -> None:
    assert house.caller.call("oslo_rpc_server_ping", timeout=timeout).reply() == "pong"
    assert house.monitors == []


def answered(house: House) -> None:
    house.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()


def read(house: House) -> None:
    house.caller.call("get_node", **MONITORED).reply()


def refused(house: House) -> None:
    house.caller.call("begin_resource_claim", instance=instance_dict(1), limits={"vcpu": 0}, **MONITORED).reply()


def not_understood(house: House) -> None:
    house.caller.call("nonsense", **MONITORED).reply()


def known(house: House) -> None:
    house.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    house.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1), **MONITORED).reply()


def audited(house: House) -> None:
    house.caller.call("update_available_resource", **MONITORED).reply()


def audited_in_vain(house: House) -> None:
    house.drivers[HOST].listing_error = OSError("gone")
    house.caller.call("update_available_resource", **MONITORED).reply()


def audit_of_an_unknown_node(house: House) -> None:
    house.caller.call("update_available_resource", node="node-9", **MONITORED).reply()


@pytest.mark.parametrize(
    "ends",
    [answered, read, refused, not_understood, known, audited, audited_in_vain, audit_of_an_unknown_node],
    ids=lambda ends: ends.__name__,
)
def test_they_end_with_the_reply(house: House, ends: Callable[[House], None]) -> None:
    ends(house)
    assert [monitor.cancelled for monitor in house.monitors] == [True]


def test_they_end_when_deciding_fails(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(batch, "render", broken)
    house.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()
    assert [monitor.cancelled for monitor in house.monitors] == [True]


def test_they_end_when_the_store_is_away_for_too_long(house: House, deadline_clock: DeadlineClock) -> None:
    house.store.script["commit"] = [AWAY]
    call = house.caller.call(
        "begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 0.1, **MONITORED
    )
    assert call.reply().error == "StoreUnavailable"
    assert [monitor.cancelled for monitor in house.monitors] == [True]


def test_they_go_on_while_the_store_is_away(house: House) -> None:
    seen: list[bool] = []

    def away() -> None:
        seen.append(house.monitors[0].cancelled)
        raise AWAY

    house.store.script["commit"] = [away, away]
    house.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()
    assert seen == [False, False]
    assert house.monitors[0].cancelled


@pytest.mark.parametrize("method", ["get_node", "begin_resource_claim"])
def test_they_end_when_the_call_expires_before_it_is_decided(
    house: House, deadline_clock: DeadlineClock, method: str
) -> None:
    args = {} if method == "get_node" else {"instance": instance_dict(1)}
    house.caller.call(method, deadline=deadline_clock.now - 1, **MONITORED, **args)
    house.finish()
    assert [monitor.cancelled for monitor in house.monitors] == [True]


def test_they_end_when_the_call_expires_while_the_store_is_away(house: House, deadline_clock: DeadlineClock) -> None:
    def away() -> None:
        deadline_clock.forward(60)
        raise AWAY

    house.store.script["commit"] = [away]
    house.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 60, **MONITORED)
    house.finish()
    assert [monitor.cancelled for monitor in house.monitors] == [True]


def test_they_end_when_an_audit_outlives_its_caller(house: House, deadline_clock: DeadlineClock) -> None:
    hang = house.drivers[HOST].hang(node_name(1))
    house.caller.call("update_available_resource", deadline=deadline_clock.now + 60, **MONITORED)
    assert hang.entered.wait(SECONDS)
    deadline_clock.forward(60)
    hang.release()
    wait_until(lambda: house.monitors[0].cancelled, "the end of the heartbeats")


def test_those_of_many_calls_end_each_with_its_own(make_house: MakeHouse) -> None:
    house = make_house().start()
    hang = house.drivers[HOST].hang(node_name(1))
    waiting = house.caller.call("update_available_resource", **MONITORED)
    assert hang.entered.wait(SECONDS)
    for number in range(1, 4):
        house.caller.call("begin_resource_claim", instance=instance_dict(number), **MONITORED).reply()
    assert [monitor.cancelled for monitor in house.monitors] == [False, True, True, True]
    hang.release()
    waiting.reply()
    assert house.monitors[0].cancelled
    assert house.charged() == [uuid(1), uuid(2), uuid(3)]
