# SPDX-License-Identifier: Apache-2.0
"""The worker survives every input: a wrong call gets an error, and a wrong cast is parked with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.functional.conftest import HOST, HOST_TOPIC
from tests.support import raw
from tests.support.builders import instance_dict, uuid

NAN, INFINITY = float("nan"), float("inf")
DISPATCHER = "oslo_messaging.rpc.dispatcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A wrong request. ``facts`` are the error's kwargs that the test checks."""

    id: str
    error: str
    code: str
    method: str = "begin_resource_claim"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    topic: str = HOST_TOPIC
    module: str = "tracker_worker.errors"


def invalid(id: str, named: str, *, method: str = "begin_resource_claim", **arguments: Any) -> Case:
    return Case(
        id=id, error="InvalidInput", code="invalid_input", method=method, arguments=arguments, facts={"field": named}
    )


def size(id: str, value: Any) -> Case:
    return invalid(f"size {id}", "instance.memory_mb", instance=instance_dict(memory_mb=value))


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


OVER = {"k": "x" * (65536 + 1 - len('{"k":""}'))}
"""One byte more than a field of an instance may have, as JSON."""

CASES = [
    invalid("missing argument", "instance"),
    invalid("missing claim_id", "claim_id", method="finish_resource_claim"),
    invalid("extra argument", "colour", instance=instance_dict(), colour="blue"),
    invalid("instance is a text", "instance", instance="i1"),
    invalid("instance without uuid", "instance.uuid", instance={"memory_mb": 1}),
    invalid("instance without sizes", "instance.vcpus", instance={"uuid": "i1", "memory_mb": 1}),
    invalid("uuid is empty", "instance.uuid", instance=instance_dict(uuid="")),
    invalid("uuid is a number", "instance.uuid", instance=instance_dict(uuid=7)),
    invalid("unknown vm_state", "instance.vm_state", instance=instance_dict(vm_state="bogus")),
    invalid("claim of a deleted instance", "instance.vm_state", instance=instance_dict(vm_state="deleted")),
    invalid("node is a number", "instance.node", instance=instance_dict(node=5)),
    size("negative", -1),
    size("null", None),
    size("bool", True),
    size("float", 1.0),
    size("text", "4096"),
    size("NaN", NAN),
    size("infinite", INFINITY),
    size("above 2**53", 2**53 + 1),
    size("of 4000 digits", 10**4000),
    invalid("unknown limit", "limits.memory", instance=instance_dict(), limits={"memory": 1}),
    invalid("NaN limit", "limits.vcpu", instance=instance_dict(), limits={"vcpu": NAN}),
    invalid("infinite limit", "limits.disk_gb", instance=instance_dict(), limits={"disk_gb": INFINITY}),
    invalid("custom class is no name", "instance.resources.vgpu", instance=instance_dict(resources={"vgpu": 1})),
    invalid("standard class by name", "instance.resources.VCPU", instance=instance_dict(resources={"VCPU": 1})),
    invalid("custom class as a float", "instance.resources.VGPU", instance=instance_dict(resources={"VGPU": 1.0})),
    invalid("custom classes as a list", "instance.resources", instance=instance_dict(resources=["VGPU"])),
    invalid("one class limited twice", "limits", instance=instance_dict(), limits={"vcpu": 4, "VCPU": 4}),
    invalid("adopted as an object", "instances", method="adopt", instances={}),
    invalid("adopted without a uuid", "instances.1.uuid", method="adopt", instances=[instance_dict(), {"vcpus": 1}]),
    invalid("limits is a list", "limits", instance=instance_dict(), limits=[1]),
    invalid("negative timeout", "timeout", instance=instance_dict(), timeout=-1),
    invalid("timeout is a text", "timeout", instance=instance_dict(), timeout="soon"),
    invalid("metadata of 64 KiB and a byte", "instance.metadata", instance=instance_dict(metadata=OVER)),
    invalid("image_meta of 64 KiB and a byte", "instance.image_meta", instance=instance_dict(image_meta=OVER)),
    invalid(
        "update to 64 KiB and a byte",
        "instance.metadata",
        method="update_usage",
        instance={"uuid": "i", "metadata": OVER},
    ),
    invalid("metadata is a text", "instance.metadata", instance=instance_dict(metadata="x")),
    invalid("lone surrogate", "instance.display_name", instance=instance_dict(display_name="\ud800")),
    invalid("NUL", "instance.display_name", instance=instance_dict(display_name="a\0b")),
    invalid("claim_id is empty", "claim_id", method="abort_resource_claim", claim_id=""),
    invalid("claim_id is an object", "claim_id", method="finish_resource_claim", claim_id={}),
    invalid("update without uuid", "instance.uuid", method="update_usage", instance={"vm_state": "active"}),
    invalid(
        "update with a negative size", "instance.vcpus", method="update_usage", instance={"uuid": "i1", "vcpus": -2}
    ),
    invalid("uuid with white space", "instance.uuid", instance=instance_dict(uuid=f" {uuid()}")),
    invalid("claim_id with white space", "claim_id", method="finish_resource_claim", claim_id=f"{uuid()}\n"),
    invalid("PCI requests", "instance.pci_requests", instance=instance_dict(pci_requests=[{"count": 1}])),
    invalid("NUMA topology", "instance.numa_topology", instance=instance_dict(numa_topology={"cells": [0]})),
    invalid("unknown on_expiry", "on_expiry", instance=instance_dict(), on_expiry="forget"),
    invalid("chosen claim_id is a number", "claim_id", instance=instance_dict(), claim_id=7),
    invalid("renewal without a claim", "claim_id", method="renew_resource_claim"),
    invalid("negative renewal", "timeout", method="renew_resource_claim", claim_id=uuid(), timeout=-1),
    invalid("group is an object", "claims", method="begin_resource_claims", claims={}),
    invalid("group without a claim", "claims", method="begin_resource_claims", claims=[]),
    invalid(
        "group of 501 claims",
        "claims",
        method="begin_resource_claims",
        claims=[{"instance": instance_dict(number, metadata={}, image_meta={})} for number in range(501)],
    ),
    invalid(
        "bad size in a group",
        "claims.1.instance.vcpus",
        method="begin_resource_claims",
        claims=[{"instance": instance_dict(1)}, {"instance": instance_dict(2, vcpus="two")}],
    ),
    invalid(
        "instance twice in a group",
        "claims.1.instance.uuid",
        method="begin_resource_claims",
        claims=[{"instance": instance_dict(1)}, {"instance": instance_dict(uuid=uuid(1).upper())}],
    ),
    invalid("page of nothing", "limit", method="list_allocations", limit=0),
    invalid("page of a text", "limit", method="list_allocations", limit="10"),
    invalid("place that no page gave", "after", method="list_allocations", after="x"),
    invalid("page of no instances", "limit", method="get_instances", node="n1", limit=0),
    invalid("page of 501 instances", "limit", method="get_instances", node="n1", limit=501),
    invalid("instances behind a number", "after", method="get_instances", node="n1", after=7),
    invalid("instances of no node", "node", method="get_instances"),
    invalid("page of no notifications", "limit", method="get_notifications", node="n1", limit=0),
    invalid("number below 0", "after_sequence", method="get_notifications", node="n1", after_sequence=-1),
    invalid("notifications of no node", "node", method="get_notifications"),
    invalid("unknown role", "role", method="list_allocations", role="owner"),
    invalid("release without a reason", "reason", method="release_allocation", instance_uuid=uuid()),
    invalid("running instances as a text", "uuids", method="report_instances", uuids=uuid()),
    invalid("audited node is a list", "node", method="update_available_resource", node=["n1"]),
    invalid("another host on this host's topic", "host", method="get_node", host="h2"),
    invalid("body of 10 MB", "body", instance=instance_dict(metadata={"x": "y" * 10_000_000})),
    invalid("nested 150 levels", "body", instance=instance_dict(metadata=nested(150))),
    Case(
        id="unknown node",
        error="NodeNotFound",
        code="node_not_found",
        arguments={"instance": instance_dict(node="n9")},
        facts={"host": HOST, "node": "n9"},
    ),
    Case(
        id="audit of an unknown node",
        error="NodeNotFound",
        code="node_not_found",
        method="update_available_resource",
        arguments={"node": "n9"},
        facts={"host": HOST, "node": "n9"},
    ),
    Case(
        id="unknown host on the shared topic",
        error="HostNotServed",
        code="host_not_served",
        arguments={"instance": instance_dict(), "host": "h9"},
        facts={"host": "h9"},
        topic="tracker",
    ),
    Case(
        id="no host on the shared topic",
        error="InvalidInput",
        code="invalid_input",
        arguments={"instance": instance_dict()},
        facts={"field": "host"},
        topic="tracker",
    ),
    Case(id="unknown method", error="NoSuchMethod", code="NoSuchMethod", method="destroy", module=DISPATCHER),
    Case(id="private method", error="NoSuchMethod", code="NoSuchMethod", method="__init__", module=DISPATCHER),
    *(
        Case(
            id=f"version {version}",
            error="UnsupportedVersion",
            code="UnsupportedVersion",
            method=method,
            keys={"version": version},
            module=DISPATCHER,
        )
        for version, method in (("1.2", "get_node"), ("2.0", "get_node"), ("x", "get_node"), ("3.0", "destroy"))
    ),
    Case(
        id="a namespace",
        error="UnsupportedVersion",
        code="UnsupportedVersion",
        method="get_node",
        keys={"namespace": "baseapi"},
        module=DISPATCHER,
    ),
    *(
        Case(id=id, error="InvalidInput", code="invalid_input", keys=keys, facts={"field": "body"})
        for id, keys in {
            "args is a list": {"args": [1, 2]},
            "method is a number": {"method": 5},
            "_unique_id is a number": {"_unique_id": 5},
        }.items()
    ),
]

# These bodies name no reply address: the worker parks them, whether they were calls or casts.
UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "no UTF-8": b"\xff\xfe\x00\x80",
    "no JSON": b"{",
    "a number": b"5",
    "a list": b"[]",
    "envelope without message": b'{"oslo.version": "2.0"}',
    "message that is no text": b'{"oslo.version": "2.0", "oslo.message": {"method": "get_node"}}',
    "message that is no JSON": b'{"oslo.version": "2.0", "oslo.message": "{"}',
    "envelope 2.1": b'{"oslo.version": "2.1", "oslo.message": "{\\"method\\": \\"get_node\\"}"}',
    "no method": raw.packed({"args": {}}),
    "an integer of 5000 digits": b'{"oslo.version": "2.0", "oslo.message": "{\\"method\\": 1' + b"0" * 5000 + b'}"}',
    "nested 100000 levels": b'{"oslo.version": "2.0", "oslo.message": "' + b"[" * 100_000 + b'"}',
}


@pytest.mark.behaviour("poison-message")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_wrong_call_gets_the_typed_error(raw_connection: raw.RawConnection, case: Case) -> None:
    request = raw_connection.request(case.method, case.arguments, call=True, keys=case.keys)
    raw_connection.publish(case.topic, raw.packed(request), expiration="60000")

    reply = raw_connection.reply(request["_msg_id"])

    failure = json.loads(reply["failure"])
    assert reply["result"] is None
    assert (failure["class"], failure["module"]) == (case.error, case.module)
    assert case.facts.items() <= failure["kwargs"].items()


@pytest.mark.behaviour("poison-message")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_a_wrong_cast_is_parked_with_the_reason(raw_connection: raw.RawConnection, case: Case) -> None:
    body = raw.packed(raw_connection.request(case.method, case.arguments, keys=case.keys))
    raw_connection.publish(case.topic, body, headers={"x-from": "a scheduler"})

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, body, topic=case.topic, headers={"x-from": "a scheduler"})
    reason = parked.headers["x-tracker-reason"]
    assert reason.startswith(f"{case.code}: ")
    assert str(case.facts.get("field", "")).removeprefix("body") in reason


@pytest.mark.behaviour("poison-message")
@pytest.mark.parametrize("name", UNREADABLE)
def test_a_body_that_is_not_a_request_is_parked(raw_connection: raw.RawConnection, name: str) -> None:
    raw_connection.publish(HOST_TOPIC, UNREADABLE[name])

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, UNREADABLE[name], topic=HOST_TOPIC)
    assert parked.headers["x-tracker-reason"].startswith("invalid_input: ")


@pytest.mark.parametrize(
    "properties",
    [
        {"content_type": "application/x-python-serialize"},
        {"headers": {"compression": "application/x-lzma"}},
        {"headers": {"compression": "application/x-gzip"}},
        {"content_type": "application/x-msgpack", "content_encoding": "binary"},
    ],
    ids=["pickle", "unknown compression", "not compressed as it says", "not msgpack as it says"],
)
def test_a_body_that_contradicts_its_properties_is_parked_with_them(
    raw_connection: raw.RawConnection, properties: dict[str, Any]
) -> None:
    body = raw.packed(raw_connection.request("get_node", {}))
    raw_connection.publish(HOST_TOPIC, body, **properties)

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, body, topic=HOST_TOPIC, **properties)


@pytest.mark.parametrize("levels", [150, 100_000])
def test_a_call_that_is_nested_too_deeply_gets_an_error(raw_connection: raw.RawConnection, levels: int) -> None:
    request = raw_connection.request("get_node", {"node": None}, call=True)
    # json.dumps cannot nest this deep.
    text = json.dumps(request).replace("null", '{"a":' * levels + "1" + "}" * levels, 1)
    raw_connection.publish(HOST_TOPIC, json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode())

    failure = json.loads(raw_connection.reply(request["_msg_id"])["failure"])

    assert failure["class"] == "InvalidInput"
    assert "100 levels" in failure["kwargs"]["reason"]


def test_a_parked_message_does_not_expire_in_the_dead_letter_queue(raw_connection: raw.RawConnection) -> None:
    raw_connection.publish(HOST_TOPIC, b"{", expiration="60000", message_id="m-1", app_id="scheduler")

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, b"{", topic=HOST_TOPIC, message_id="m-1", app_id="scheduler")


def test_a_fanout_for_a_host_of_another_worker_is_ignored(raw_connection: raw.RawConnection) -> None:
    body = raw.packed(raw_connection.request("update_available_resource", {"host": "h9"}))
    raw_connection.publish("", body, exchange="tracker_fanout")
    # The second message is after the first in the same queue, so the worker has read the first when it parks the second.
    behind = raw.packed(raw_connection.request("destroy", {}))
    raw_connection.publish("", behind, exchange="tracker_fanout")

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, behind, topic="", exchange="tracker_fanout")
