# SPDX-License-Identifier: Apache-2.0
"""The declarations of stock programs and the effect of the options, asserted on the recorded declarations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.wire.golden import declare_names, load_declares

QUORUM = {"x-queue-type": "quorum"}
LIMITED = QUORUM | {"x-delivery-limit": 3, "x-max-in-memory-length": 1000, "x-max-in-memory-bytes": 1000000}
EXPIRES = {"x-expires": 1800000}
# Options -> durable, auto_delete and arguments of the queues and exchanges that outlive their program.
SHARED: dict[str, tuple[bool, bool, dict[str, Any]]] = {
    "default": (False, False, {}),
    "durable": (True, False, {}),
    "quorum": (True, False, QUORUM),
    "quorum_limits": (True, False, LIMITED),
    "transient_quorum": (False, False, {}),
    "auto_delete": (False, True, {}),
}


def declared(name: str, program: str, operation: str) -> list[dict[str, Any]]:
    """The declarations of one kind, in order, without repetitions."""
    found = [one for one in load_declares(name)["programs"][program] if one["op"] == operation]
    return [one for position, one in enumerate(found) if one not in found[:position]]


def queue(name: str, durable: bool, auto_delete: bool, arguments: dict[str, Any]) -> dict[str, Any]:
    """A queue as stock programs declare it: never passive, never exclusive."""
    return {
        "op": "queue_declare",
        "queue": name,
        "passive": False,
        "durable": durable,
        "exclusive": False,
        "auto_delete": auto_delete,
        "arguments": arguments,
    }


def exchange(name: str, kind: str, durable: bool, auto_delete: bool) -> dict[str, Any]:
    """An exchange as stock programs declare it: never passive, no arguments."""
    return {
        "op": "exchange_declare",
        "exchange": name,
        "type": kind,
        "passive": False,
        "durable": durable,
        "auto_delete": auto_delete,
        "arguments": None,
    }


def bound(name: str, to: str, key: str) -> dict[str, Any]:
    return {"op": "queue_bind", "queue": name, "exchange": to, "routing_key": key, "arguments": None}


def test_every_set_of_options_is_recorded() -> None:
    assert set(declare_names()) == set(SHARED)


@pytest.mark.parametrize("name", SHARED)
def test_notifier_and_listener_declare_the_same_notification_queue(name: str) -> None:
    for program in ("notifier", "notification_listener"):
        assert declared(name, program, "queue_declare") == [queue("notifications.info", *SHARED[name])]
        assert declared(name, program, "queue_bind") == [bound("notifications.info", "openstack", "notifications.info")]


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("program", ["rpc_client", "notifier", "notification_listener"])
def test_the_control_exchange_is_a_topic_exchange_with_the_durability_of_the_options(name: str, program: str) -> None:
    durable, auto_delete, _ = SHARED[name]
    assert declared(name, program, "exchange_declare") == [exchange("openstack", "topic", durable, auto_delete)]


@pytest.mark.parametrize("name", SHARED)
def test_the_fanout_exchange_deletes_itself_and_is_durable_only_with_transient_quorum(name: str) -> None:
    expected = exchange("tracker_fanout", "fanout", name == "transient_quorum", True)
    assert declared(name, "rpc_client_fanout", "exchange_declare") == [expected]
    assert expected in declared(name, "rpc_server", "exchange_declare")


@pytest.mark.parametrize("name", SHARED)
def test_a_client_declares_no_queue_but_its_own_reply_queue(name: str) -> None:
    durable = name == "transient_quorum"
    arguments = (QUORUM if durable else {}) | EXPIRES
    assert declared(name, "rpc_client", "queue_declare") == [queue("reply_<random>", durable, False, arguments)]
    assert declared(name, "rpc_client", "queue_bind") == []
    assert declared(name, "rpc_client_fanout", "queue_declare") == []


@pytest.mark.parametrize("name", SHARED)
def test_a_stock_server_leaves_queues_and_bindings_on_the_broker(name: str) -> None:
    durable = name == "transient_quorum"
    assert declared(name, "rpc_server", "queue_declare") == [
        queue("tracker", *SHARED[name]),
        queue("tracker.compute-1", *SHARED[name]),
        queue("tracker_fanout_<random>", durable, False, (QUORUM if durable else {}) | EXPIRES),
    ]
    assert declared(name, "rpc_server", "queue_bind") == [
        bound("tracker", "openstack", "tracker"),
        bound("tracker.compute-1", "openstack", "tracker.compute-1"),
        bound("tracker_fanout_<random>", "tracker_fanout", "tracker"),
    ]
