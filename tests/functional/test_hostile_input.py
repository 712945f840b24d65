# SPDX-License-Identifier: Apache-2.0
"""Input that could stop a worker permanently, because it is redelivered after each restart; none of it stops the worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.functional.conftest import HOST_TOPIC
from tests.support import raw
from tests.support.builders import instance_dict

# Longer than a frame (128 KiB), shorter than the largest accepted body.
LONG = "x" * 300_000
# JSON and Python strings may hold a surrogate; UTF-8, and therefore an AMQP header, may not.
SURROGATE = "\ud800"

# Each text becomes part of an error's text, which goes into a reply and into the header of a parked message.
QUOTED: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
    "method": ("{}", {}, {}),
    "version": ("get_node", {}, {"version": "{}"}),
    "name of an argument": ("get_node", {"{}": 1}, {}),
    "host": ("get_node", {"host": "{}"}, {}),
    "node": ("get_node", {"node": "{}"}, {}),
    "limit": ("begin_resource_claim", {"instance": instance_dict(), "limits": {"{}": 1}}, {}),
    "vm_state": ("begin_resource_claim", {"instance": instance_dict(vm_state="{}")}, {}),
    "key of metadata": ("begin_resource_claim", {"instance": instance_dict(metadata={"{}": 2**70})}, {}),
    "context": ("begin_resource_claim", {"instance": instance_dict(user_id=None)}, {"_context_user_id": "{}"}),
}


def quoting(what: str, text: str) -> tuple[str, Any, Any]:
    """Method, arguments and other keys of the request that holds ``text`` at ``what``."""

    def put(value: Any) -> Any:
        if isinstance(value, dict):
            return {put(key): put(item) for key, item in value.items()}
        return text if value == "{}" else value

    method, arguments, keys = QUOTED[what]
    return put(method), put(arguments), put(keys)


@pytest.mark.parametrize("text", [LONG, SURROGATE, "\0"], ids=["long", "surrogate", "NUL"])
@pytest.mark.parametrize("what", QUOTED)
def test_an_error_may_quote_any_text_of_the_request(raw_connection: raw.RawConnection, what: str, text: str) -> None:
    method, arguments, keys = quoting(what, text)
    request = raw_connection.request(method, arguments, call=True, keys=keys)
    cast = raw.packed(raw_connection.request(method, arguments, keys=keys))
    raw_connection.publish(HOST_TOPIC, raw.packed(request))
    raw_connection.publish(HOST_TOPIC, cast)

    failure = json.loads(raw_connection.reply(request["_msg_id"])["failure"])
    parked = raw_connection.take(raw.DEAD_LETTERS)

    assert failure["class"] in ("InvalidInput", "NodeNotFound", "NoSuchMethod", "UnsupportedVersion")
    raw.check_parked(parked, cast, topic=HOST_TOPIC)


@pytest.mark.parametrize("value", ["ü" * 200, SURROGATE, "a\0b", "x" * 256, "", 5])
@pytest.mark.parametrize("key", ["_reply_q", "_msg_id"])
def test_a_call_that_cannot_be_answered_is_parked(raw_connection: raw.RawConnection, key: str, value: Any) -> None:
    body = raw.packed(raw_connection.request("get_node", {}, call=True, keys={key: value}))
    raw_connection.publish(HOST_TOPIC, body)

    raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), body, topic=HOST_TOPIC)


@pytest.mark.parametrize("queue", [HOST_TOPIC, raw.DEAD_LETTERS, "notifications.info", "amq.gen-1", "nova.compute"])
def test_a_call_that_wants_its_reply_in_no_clients_queue_is_parked(
    raw_connection: raw.RawConnection, queue: str
) -> None:
    body = raw.packed(raw_connection.request("get_node", {}, call=True, keys={"_reply_q": queue}))
    raw_connection.publish(HOST_TOPIC, body)

    parked = raw_connection.take(raw.DEAD_LETTERS)

    raw.check_parked(parked, body, topic=HOST_TOPIC)
    assert parked.properties["application_headers"]["x-tracker-reason"].startswith("invalid_input: _reply_q: ")


@pytest.mark.parametrize("call", [True, False], ids=["call", "cast"])
@pytest.mark.parametrize("unique_id", [SURROGATE, "a\0b", "x" * 256, "", 5, {}])
def test_a_unique_id_that_a_store_cannot_hold_is_refused(
    raw_connection: raw.RawConnection, unique_id: Any, call: bool
) -> None:
    request = raw_connection.request(
        "begin_resource_claim", {"instance": instance_dict()}, call=call, keys={"_unique_id": unique_id}
    )
    body = raw.packed(request)
    raw_connection.publish(HOST_TOPIC, body)

    if call:
        failure = json.loads(raw_connection.reply(request["_msg_id"])["failure"])
        assert (failure["class"], failure["kwargs"]["field"]) == ("InvalidInput", "body")
    else:
        raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), body, topic=HOST_TOPIC)


@pytest.mark.parametrize("seconds", [10**400, 2**70, 2**40, -1, 0, 1, True, 1.5, "10", {}], ids=str)
def test_a_call_with_any_heartbeat_timeout_is_answered(raw_connection: raw.RawConnection, seconds: Any) -> None:
    request = raw_connection.request("get_node", {}, call=True, keys={"_timeout": seconds})
    raw_connection.publish(HOST_TOPIC, raw.packed(request))

    reply = raw_connection.reply(request["_msg_id"])

    assert reply["ending"] is True
    assert reply["result"]["node"] == "n1"


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-7", "idna", "hex", "no such"])
def test_a_body_is_parked_byte_by_byte_whatever_its_content_encoding(
    raw_connection: raw.RawConnection, encoding: str
) -> None:
    body = b"\xff\xfe+AGE-\x00\x80"
    raw_connection.publish(HOST_TOPIC, body, content_encoding=encoding)

    raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), body, topic=HOST_TOPIC, content_encoding=encoding)


def test_a_parked_message_keeps_every_property(raw_connection: raw.RawConnection) -> None:
    properties = {
        "priority": 7,
        "correlation_id": "c-1",
        "reply_to": "somewhere",
        "message_id": "m-1",
        "timestamp": 1_768_478_400,
        "type": "t",
        "app_id": "scheduler",
        "headers": {"table": {"a": [1, True, None, 1.5]}, "text": "wëb", "big": 2**40},
    }
    raw_connection.publish(HOST_TOPIC, b"{", **properties)

    raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), b"{", topic=HOST_TOPIC, **properties)


def test_headers_that_fill_a_frame_are_dropped_in_favour_of_the_reason(raw_connection: raw.RawConnection) -> None:
    raw_connection.publish(HOST_TOPIC, b"{", headers={"x-large": "x" * 130_900})

    left_out = {"x-tracker-headers-left-out": "130913 bytes"}
    raw.check_parked(raw_connection.take(raw.DEAD_LETTERS), b"{", topic=HOST_TOPIC, headers=left_out)
