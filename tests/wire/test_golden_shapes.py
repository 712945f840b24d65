# SPDX-License-Identifier: Apache-2.0
"""Facts of the wire format, asserted on the golden files with the standard library alone.

No code of the project decodes here: a recording of a changed oslo.messaging fails first in this module, in the test of the
changed fact.
"""

from __future__ import annotations

import bz2
import json
import re
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.wire.golden import Golden, load, names

CALLS = [name for name in names() if name.startswith("call_")]
CASTS = [name for name in names() if name.startswith("cast_")]
NOTIFICATIONS = [name for name in names() if name.startswith("notification_")]
REPLIES = [name for name in names() if name.startswith("reply_")]
FAILURES = {
    "reply_expected_error": ("tracker_worker.errors", "ComputeResourcesUnavailable"),
    "reply_value_error": ("builtins", "ValueError"),
    "reply_no_such_method": ("oslo_messaging.rpc.dispatcher", "NoSuchMethod"),
    "reply_private_method": ("oslo_messaging.rpc.dispatcher", "NoSuchMethod"),
    "reply_unsupported_version": ("oslo_messaging.rpc.dispatcher", "UnsupportedVersion"),
    "reply_unsupported_namespace": ("oslo_messaging.rpc.dispatcher", "UnsupportedVersion"),
}
HEX = re.compile(r"[0-9a-f]{32}")
DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "application/x-gzip": zlib.decompress,
    "application/x-bz2": bz2.decompress,
}


def outer_of(golden: Golden) -> dict[str, Any]:
    """The body after decompression."""
    compression = golden.headers.get("compression")
    outer: dict[str, Any] = json.loads(DECOMPRESS[compression](golden.body) if compression else golden.body)
    return outer


def message_of(golden: Golden) -> dict[str, Any]:
    """The message that the program sent, without compression and envelope."""
    outer = outer_of(golden)
    message: dict[str, Any] = json.loads(outer["oslo.message"]) if "oslo.message" in outer else outer
    return message


def without_context(message: dict[str, Any]) -> set[str]:
    return {key for key in message if not key.startswith("_context_")}


def test_every_shape_is_recorded() -> None:
    assert set(names()) == {
        "call_begin_resource_claim",
        "call_monitored",
        "call_timeout",
        "call_without_server",
        "call_namespace",
        "call_version_1_7",
        "call_without_version",
        "call_ping",
        "call_gzip",
        "call_bz2",
        "cast_update_usage",
        "cast_fanout_update_available_resource",
        "notification_info",
        "notification_warn",
        "notification_version_1",
        "reply_result",
        "reply_none",
        "reply_ping",
        "reply_heartbeat",
        "reply_monitored",
        *FAILURES,
    }


@pytest.mark.parametrize("name", names())
def test_every_body_is_declared_json_in_utf8(name: str) -> None:
    golden = load(name)
    assert (golden.content_type, golden.content_encoding) == ("application/json", "utf-8")


@pytest.mark.parametrize("name", [name for name in names() if name != "notification_version_1"])
def test_the_envelope_is_version_2_around_a_json_string(name: str) -> None:
    outer = outer_of(load(name))
    assert set(outer) == {"oslo.version", "oslo.message"}
    assert outer["oslo.version"] == "2.0"
    assert isinstance(outer["oslo.message"], str)


@pytest.mark.parametrize("name", [*CASTS, *NOTIFICATIONS, *REPLIES])
def test_a_message_without_a_timeout_has_no_expiration(name: str) -> None:
    assert load(name).properties == {"delivery_mode": 2, "priority": 0}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_expires_with_its_timeout_in_milliseconds_and_has_no_amqp_correlation(name: str) -> None:
    expiration = "2500" if name == "call_timeout" else "60000"
    assert load(name).properties == {"delivery_mode": 2, "priority": 0, "expiration": expiration}


@pytest.mark.parametrize("name", names())
def test_only_compression_sets_a_header(name: str) -> None:
    expected = {"call_gzip": "application/x-gzip", "call_bz2": "application/x-bz2"}
    assert load(name).headers == ({"compression": expected[name]} if name in expected else {})


@pytest.mark.parametrize("name", ["call_gzip", "call_bz2"])
def test_a_compressed_body_is_the_whole_envelope_and_not_base64(name: str) -> None:
    golden, plain = load(name), load("call_begin_resource_claim")
    with pytest.raises(UnicodeDecodeError):
        golden.body.decode(golden.content_encoding)
    assert message_of(golden)["args"] == message_of(plain)["args"]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_exactly_the_expected_keys(name: str) -> None:
    optional = {"call_namespace": {"namespace"}}.get(name, set())
    absent = {"version"} if name == "call_without_version" else set()
    keys = {"method", "args", "version", "_unique_id", "_msg_id", "_reply_q", "_timeout"}
    assert without_context(message_of(load(name))) == (keys | optional) - absent


@pytest.mark.parametrize("name", CASTS)
def test_a_cast_has_no_reply_keys(name: str) -> None:
    assert without_context(message_of(load(name))) == {"method", "args", "version", "_unique_id"}


@pytest.mark.parametrize("name", CALLS)
def test_timeout_is_null_unless_the_client_monitors(name: str) -> None:
    timeout = message_of(load(name))["_timeout"]
    assert timeout == (10 if name == "call_monitored" else None)


def test_a_request_has_the_version_and_namespace_of_its_target() -> None:
    assert message_of(load("call_begin_resource_claim"))["version"] == "1.0"
    assert message_of(load("call_version_1_7"))["version"] == "1.7"
    assert message_of(load("call_namespace"))["namespace"] == "baseapi"
    assert message_of(load("call_ping"))["method"] == "oslo_rpc_server_ping"


@pytest.mark.parametrize("name", CALLS)
def test_the_ids_of_a_call_are_separate_hex_uuids(name: str) -> None:
    message = message_of(load(name))
    assert HEX.fullmatch(message["_msg_id"])
    assert HEX.fullmatch(message["_unique_id"])
    assert message["_msg_id"] != message["_unique_id"]
    assert HEX.fullmatch(message["_reply_q"].removeprefix("reply_"))


@pytest.mark.parametrize("name", [*CALLS, *CASTS])
def test_the_context_is_spread_over_prefixed_keys(name: str) -> None:
    message = message_of(load(name))
    assert message["_context_request_id"].startswith("req-")
    assert message["_context_traceparent"].startswith("00-")
    # oslo.context itself sends the user as `user`; services add `user_id`.
    assert message["_context_user"] == message["_context_user_id"]
    assert message["_context_project"] == message["_context_project_id"]


def test_arguments_arrive_by_name_with_their_types() -> None:
    arguments = message_of(load("call_begin_resource_claim"))["args"]
    assert set(arguments) == {"instance", "limits", "timeout"}
    assert arguments["instance"]["display_name"] == "wëb-1"
    assert isinstance(arguments["limits"]["memory_mb"], float)
    assert isinstance(arguments["limits"]["disk_gb"], int)


def test_a_request_is_published_to_the_exchange_and_routing_key_of_its_target() -> None:
    routes = {name: (load(name).exchange, load(name).routing_key) for name in [*CALLS, *CASTS]}
    fanout = routes.pop("cast_fanout_update_available_resource")
    shared = routes.pop("call_without_server")
    assert fanout == ("tracker_fanout", "")
    assert shared == ("openstack", "tracker")
    assert set(routes.values()) == {("openstack", "tracker.compute-1")}


@pytest.mark.parametrize("name", [*CALLS, *CASTS, *NOTIFICATIONS])
def test_requests_and_notifications_are_not_mandatory(name: str) -> None:
    assert load(name).mandatory is False


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_published_mandatory_to_the_default_exchange(name: str) -> None:
    golden = load(name)
    assert (golden.mandatory, golden.exchange) == (True, "")
    assert golden.routing_key.startswith("reply_")


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_has_exactly_the_expected_keys(name: str) -> None:
    message = message_of(load(name))
    assert set(message) == {"result", "failure", "ending", "_msg_id", "_unique_id"}
    assert message["ending"] is (name != "reply_heartbeat")
    assert HEX.fullmatch(message["_unique_id"])


@pytest.mark.parametrize("name", REPLIES)
def test_failure_is_null_or_a_json_string_with_the_expected_keys(name: str) -> None:
    message = message_of(load(name))
    if name not in FAILURES:
        assert message["failure"] is None
        return
    assert message["result"] is None
    assert isinstance(message["failure"], str)
    failure = json.loads(message["failure"])
    assert list(failure) == ["class", "module", "message", "tb", "args", "kwargs"]
    assert (failure["module"], failure["class"]) == FAILURES[name]
    assert all(isinstance(line, str) for line in failure["tb"])


def test_an_errors_facts_travel_in_kwargs_and_its_text_in_args() -> None:
    failure = json.loads(message_of(load("reply_expected_error"))["failure"])
    assert failure["kwargs"] == {
        "shortfalls": [{"resource": "MEMORY_MB", "requested": 2048, "used": 3584, "limit": 4096}]
    }
    assert failure["args"] == [failure["message"]]


def test_a_builtin_exceptions_args_keep_their_types() -> None:
    failure = json.loads(message_of(load("reply_value_error"))["failure"])
    assert (failure["args"], failure["kwargs"]) == (["no such thing", 42], {})


def test_a_dispatch_failure_has_its_message_as_its_only_argument() -> None:
    method = json.loads(message_of(load("reply_no_such_method"))["failure"])
    version = json.loads(message_of(load("reply_unsupported_version"))["failure"])
    namespace = json.loads(message_of(load("reply_unsupported_namespace"))["failure"])
    assert method["args"] == ["Endpoint does not support RPC method unknown"]
    assert version["args"] == ["Endpoint does not support RPC version 1.7. Attempted method: result"]
    # The refusal of a namespace names the version, although the version is supported.
    assert namespace["args"] == ["Endpoint does not support RPC version 1.0. Attempted method: result"]
    assert method["kwargs"] == version["kwargs"] == namespace["kwargs"] == {}


def test_a_heartbeat_and_the_final_reply_share_only_the_msg_id() -> None:
    assert message_of(load("reply_heartbeat"))["result"] is None
    assert message_of(load("reply_monitored"))["result"] == "done"
    assert message_of(load("reply_heartbeat"))["_unique_id"] != message_of(load("reply_monitored"))["_unique_id"]
    assert message_of(load("reply_heartbeat"))["_msg_id"] == message_of(load("reply_monitored"))["_msg_id"]


@pytest.mark.parametrize("name", NOTIFICATIONS)
def test_a_notification_has_exactly_the_expected_keys(name: str) -> None:
    message = message_of(load(name))
    keys = {"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp", "_unique_id"}
    assert without_context(message) == keys
    assert message["publisher_id"] == "tracker.compute-1"
    # str() of a datetime leaves out the fraction when it is zero, once in a million times.
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{6})?", message["timestamp"])
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", message["message_id"])


def test_the_priority_is_upper_case_in_the_body_and_lower_case_in_the_routing_key() -> None:
    for priority in ("info", "warn"):
        golden = load(f"notification_{priority}")
        assert message_of(golden)["priority"] == priority.upper()
        assert (golden.exchange, golden.routing_key) == ("openstack", f"notifications.{priority}")


def test_a_notifier_sends_no_context_if_the_context_is_a_dict() -> None:
    assert "_context_request_id" in message_of(load("notification_info"))
    assert not [key for key in message_of(load("notification_warn")) if key.startswith("_context_")]


def test_a_version_1_notification_has_no_envelope() -> None:
    assert "message_id" in json.loads(load("notification_version_1").body)


@pytest.mark.parametrize("name", names())
def test_no_recording_names_a_directory_of_the_recording_machine(name: str) -> None:
    golden = load(name)
    if "compression" not in golden.headers:
        assert not re.search(rb'File \\*"/', golden.body)
