# SPDX-License-Identifier: Apache-2.0
"""A caller that asks for heartbeats gets them until its call ends, in whatever way the call ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.builders import HOST, instance_dict, node_name, uuid
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tracker_worker import unit_of_work
from tracker_worker.errors import StoreUnavailable

MONITORED: dict[str, Any] = {"timeout": 60}
AWAY = StoreUnavailable(reason="away")


def test_heartbeats_are_sent_twice_per_timeout_of_the_caller(harness: EngineHarness) -> None:
    hang = harness.drivers[HOST].hang(node_name(1))
    call = harness.caller.call("update_available_resource", timeout=10)
    assert hang.entered.wait(SECONDS)
    (monitor,) = harness.monitors
    assert monitor.interval_seconds == 5
    for _ in range(3):
        monitor.fire()
    assert len(harness.caller.heartbeats) == 3
    assert not call.replied()
    hang.release()
    call.reply()


@pytest.mark.parametrize("timeout", [None, 0, 1, -5, True, 2.5, "60"])
def test_a_call_that_does_not_ask_for_heartbeats_gets_none(harness: EngineHarness, timeout: Any) -> None:
    assert harness.caller.call("oslo_rpc_server_ping", timeout=timeout).reply() == "pong"
    assert harness.monitors == []


def answered(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()


def read(harness: EngineHarness) -> None:
    harness.caller.call("get_node", **MONITORED).reply()


def refused(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1), limits={"vcpu": 0}, **MONITORED).reply()


def not_understood(harness: EngineHarness) -> None:
    harness.caller.call("nonsense", **MONITORED).reply()


def known(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1), **MONITORED).reply()


def audited(harness: EngineHarness) -> None:
    harness.caller.call("update_available_resource", **MONITORED).reply()


def audited_in_vain(harness: EngineHarness) -> None:
    harness.drivers[HOST].listing_error = OSError("gone")
    harness.caller.call("update_available_resource", **MONITORED).reply()


def audit_of_an_unknown_node(harness: EngineHarness) -> None:
    harness.caller.call("update_available_resource", node="node-9", **MONITORED).reply()


@pytest.mark.parametrize(
    "ends",
    [answered, read, refused, not_understood, known, audited, audited_in_vain, audit_of_an_unknown_node],
    ids=lambda ends: ends.__name__,
)
def test_heartbeats_end_with_the_reply(harness: EngineHarness, ends: Callable[[EngineHarness], None]) -> None:
    ends(harness)
    assert [monitor.cancelled for monitor in harness.monitors] == [True]


def test_heartbeats_end_when_the_decision_fails(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(unit_of_work, "render", broken)
    harness.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()
    assert [monitor.cancelled for monitor in harness.monitors] == [True]


def test_heartbeats_end_when_the_call_gets_store_unavailable(
    harness: EngineHarness, deadline_clock: DeadlineClock
) -> None:
    harness.store.script["commit"] = [AWAY]
    call = harness.caller.call(
        "begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 0.1, **MONITORED
    )
    assert call.reply().error == "StoreUnavailable"
    assert [monitor.cancelled for monitor in harness.monitors] == [True]


def test_heartbeats_continue_while_the_store_is_unavailable(harness: EngineHarness) -> None:
    seen: list[bool] = []

    def away() -> None:
        seen.append(harness.monitors[0].cancelled)
        raise AWAY

    harness.store.script["commit"] = [away, away]
    harness.caller.call("begin_resource_claim", instance=instance_dict(1), **MONITORED).reply()
    assert seen == [False, False]
    assert harness.monitors[0].cancelled


@pytest.mark.parametrize("method", ["get_node", "begin_resource_claim"])
def test_heartbeats_end_when_the_call_expires_before_it_is_decided(
    harness: EngineHarness, deadline_clock: DeadlineClock, method: str
) -> None:
    args = {} if method == "get_node" else {"instance": instance_dict(1)}
    harness.caller.call(method, deadline=deadline_clock.now - 1, **MONITORED, **args)
    harness.finish()
    assert [monitor.cancelled for monitor in harness.monitors] == [True]


def test_heartbeats_end_when_the_call_expires_while_the_store_is_unavailable(
    harness: EngineHarness, deadline_clock: DeadlineClock
) -> None:
    def away() -> None:
        deadline_clock.forward(60)
        raise AWAY

    harness.store.script["commit"] = [away]
    harness.caller.call(
        "begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 60, **MONITORED
    )
    harness.finish()
    assert [monitor.cancelled for monitor in harness.monitors] == [True]


def test_heartbeats_end_when_an_audit_ends_after_its_call_has_expired(
    harness: EngineHarness, deadline_clock: DeadlineClock
) -> None:
    hang = harness.drivers[HOST].hang(node_name(1))
    harness.caller.call("update_available_resource", deadline=deadline_clock.now + 60, **MONITORED)
    assert hang.entered.wait(SECONDS)
    deadline_clock.forward(60)
    hang.release()
    wait_until(lambda: harness.monitors[0].cancelled, "the end of the heartbeats")


def test_the_heartbeats_of_each_call_end_with_that_call(make_harness: MakeHarness) -> None:
    harness = make_harness().start()
    hang = harness.drivers[HOST].hang(node_name(1))
    waiting = harness.caller.call("update_available_resource", **MONITORED)
    assert hang.entered.wait(SECONDS)
    for number in range(1, 4):
        harness.caller.call("begin_resource_claim", instance=instance_dict(number), **MONITORED).reply()
    assert [monitor.cancelled for monitor in harness.monitors] == [False, True, True, True]
    hang.release()
    waiting.reply()
    assert harness.monitors[0].cancelled
    assert harness.charged() == [uuid(1), uuid(2), uuid(3)]
