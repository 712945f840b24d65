# SPDX-License-Identifier: Apache-2.0
"""The codec, compared with the recorded bytes of stock programs (tests/wire/golden), and its limits."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import re
import zlib
from typing import Any

import msgspec
import pytest

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.wire import stock
from tests.wire.golden import Golden, load, names
from tracker_worker.errors import ComputeResourcesUnavailable
from tracker_worker.wire.message import JSON, MSGPACK, Malformed, ReplyTo, decode_message
from tracker_worker.wire.notification import encode_notification, renewed
from tracker_worker.wire.reply import encode_answer, encode_heartbeat, encode_reply, failure
from tracker_worker.wire.request import Request, decode_request, encode_request

REPLIES = [name for name in names() if name.startswith("reply_")]
NOTIFICATIONS = [name for name in names() if name.startswith("notification_")]
REQUESTS = [name for name in names() if name.startswith(("call_", "cast_"))]
BEGIN = {"instance": stock.INSTANCE, "limits": stock.LIMITS, "timeout": 600}
UPDATED = {**stock.INSTANCE, "vm_state": "active", "task_state": None, "host": stock.HOST, "node": stock.HOST}
# Name -> method, arguments, and the differences from a plain call of version 1.0.
EXPECTED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "call_begin_resource_claim": ("begin_resource_claim", BEGIN, {}),
    "call_gzip": ("begin_resource_claim", BEGIN, {}),
    "call_bz2": ("begin_resource_claim", BEGIN, {}),
    "call_monitored": ("begin_resource_claim", BEGIN, {"monitor_seconds": 10}),
    "call_timeout": ("get_node", {"node": None}, {}),
    "call_namespace": ("get_node", {"node": None}, {"namespace": "baseapi"}),
    "call_version_1_7": ("get_node", {"node": None}, {"version": "1.7"}),
    "call_without_version": ("get_node", {"node": None}, {}),
    "call_without_server": ("list_nodes", {}, {}),
    "call_ping": ("oslo_rpc_server_ping", {}, {}),
    "cast_update_usage": ("update_usage", {"instance": UPDATED}, {"reply_to": None}),
    "cast_fanout_update_available_resource": ("update_available_resource", {}, {"reply_to": None}),
}
REPLY_TO = ReplyTo("reply_1", "m1")


def decode(golden: Golden, **limits: int) -> Request:
    return decode_request(
        golden.body, content_type=golden.content_type, compression=golden.headers.get("compression"), **limits
    )


def inner_of(body: bytes) -> dict[str, Any]:
    """The message without its envelope, read by the standard library."""
    outer = json.loads(body)
    assert set(outer) == {"oslo.version", "oslo.message"}
    assert outer["oslo.version"] == "2.0"
    message: dict[str, Any] = json.loads(outer["oslo.message"])
    return message


def packed(message: Any) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def request(**keys: Any) -> dict[str, Any]:
    return {"method": "get_node", "args": {}, "version": "1.0", "_unique_id": "u1", **keys}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# --- requests --------------------------------------------------------------------------------------------------------


def test_every_recorded_request_is_expected() -> None:
    assert set(EXPECTED) == set(REQUESTS)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_recorded_request_is_decoded(name: str) -> None:
    golden = load(name)
    method, arguments, other = EXPECTED[name]
    plain = zlib.decompress if name == "call_gzip" else bz2.decompress if name == "call_bz2" else bytes
    sent = inner_of(plain(golden.body))
    expected = {
        "method": method,
        "args": arguments,
        "version": "1.0",
        "namespace": None,
        "context": stock.rpc_context(),
        "unique_id": sent["_unique_id"],
        "reply_to": ReplyTo(sent["_reply_q"], sent["_msg_id"], JSON) if "_msg_id" in sent else None,
        "monitor_seconds": None,
        **other,
    }

    assert decode(golden) == Request(**expected)


def test_numbers_keep_their_types() -> None:
    limits = decode(load("call_begin_resource_claim")).args["limits"]

    assert [type(limits[name]) for name in ("memory_mb", "disk_gb", "vcpu")] == [float, int, float]


def test_a_message_without_an_envelope_is_version_1() -> None:
    sent = inner_of(load("cast_update_usage").body)

    bare = decode_request(json.dumps(sent).encode(), content_type=JSON)

    assert bare == decode(load("cast_update_usage"))


@pytest.mark.parametrize("content_type", [None, ""])
def test_a_body_without_a_content_type_is_json(content_type: str | None) -> None:
    assert decode_request(packed(request()), content_type=content_type).method == "get_node"


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
@pytest.mark.parametrize("reply_to", [None, REPLY_TO])
def test_a_request_encoded_by_the_worker_is_decoded_in_either_format(
    content_type: str, reply_to: ReplyTo | None
) -> None:
    if reply_to is not None:
        reply_to = ReplyTo(reply_to.queue, reply_to.msg_id, content_type)
    body = encode_request(
        "begin_resource_claim",
        BEGIN,
        context=stock.rpc_context(),
        unique_id="u1",
        reply_to=reply_to,
        content_type=content_type,
    )

    understood = decode_request(body, content_type=content_type)

    assert (understood.method, understood.args, understood.unique_id) == ("begin_resource_claim", BEGIN, "u1")
    assert (understood.context, understood.reply_to) == (stock.rpc_context(), reply_to)


def test_a_request_encoded_by_the_worker_has_the_keys_of_a_stock_request() -> None:
    ours = encode_request("begin_resource_claim", BEGIN, context=stock.rpc_context(), unique_id="u1", reply_to=REPLY_TO)

    assert set(inner_of(ours)) == set(inner_of(load("call_begin_resource_claim").body))


def test_values_that_only_python_writes_as_json_are_decoded() -> None:
    understood = decode_request(packed(request(args={"nan": float("nan"), "x": "\ud800"})), content_type=JSON)

    assert understood.args["nan"] != understood.args["nan"]
    assert understood.args["x"] == "\ud800"


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(None, None), (1, None), (2, 2), (10, 10), (True, None), (2.5, None), ("9", None), (10**400, 3600)]
)  # fmt: skip
def test_only_a_timeout_in_whole_seconds_asks_for_heartbeats(timeout: Any, seconds: int | None) -> None:
    assert decode_request(packed(request(_timeout=timeout)), content_type=JSON).monitor_seconds == seconds


# --- malformed requests -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"", JSON, "undecodable"),
        (b"\xff", JSON, "undecodable"),
        (b"5", JSON, "not an object"),
        (b'{"oslo.version": "2.1", "oslo.message": "{}"}', JSON, "version"),
        (b'{"oslo.version": "2.0", "oslo.message": {}}', JSON, "not a text"),
        (b'{"oslo.version": "2.0"}', JSON, "not a text"),
        (packed({"args": {}}), JSON, "method"),
        (packed(request(args=[1])), JSON, "args"),
        (packed(request(_unique_id="")), JSON, "_unique_id"),
        (packed(request(_msg_id="m", _reply_q=5)), JSON, "_reply_q"),
        (b"\xc1", MSGPACK, "undecodable"),
        (packed(request()), "application/x-python-serialize", "content type"),
    ],
)
def test_a_body_that_is_not_a_request_is_malformed(body: bytes, content_type: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason) as caught:
        decode_request(body, content_type=content_type)

    assert caught.value.reply_to is None


@pytest.mark.parametrize("keys", [{"method": 5}, {"args": [1]}, {"_unique_id": 7}, {"args": {"deep": nested(150)}}])
def test_a_malformed_call_has_its_reply_address(keys: dict[str, Any]) -> None:
    with pytest.raises(Malformed) as caught:
        decode_request(packed(request(_msg_id="m1", _reply_q="reply_1", **keys)), content_type=JSON)

    assert caught.value.reply_to == REPLY_TO


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_100_levels_are_decoded_and_101_levels_are_malformed(content_type: str) -> None:
    def body(levels: int) -> bytes:
        # These are the levels below the message; its args are the first.
        message = request(args={"deep": nested(levels - 1)}, _msg_id="m1", _reply_q="reply_1")
        return packed(message) if content_type == JSON else msgspec.msgpack.encode(message)

    assert decode_request(body(100), content_type=content_type).args["deep"]
    with pytest.raises(Malformed, match="100 levels") as caught:
        decode_request(body(101), content_type=content_type)
    assert caught.value.reply_to == ReplyTo("reply_1", "m1", content_type)


def test_nesting_that_no_parser_can_read_is_malformed_with_its_reply_address() -> None:
    text = json.dumps(request(args=None, _msg_id="ab-1", _reply_q="reply_1")).replace("null", "[" * 100_000, 1)

    with pytest.raises(Malformed, match="100 levels") as caught:
        decode_request(json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode(), content_type=JSON)

    assert caught.value.reply_to == ReplyTo("reply_1", "ab-1")


def test_a_body_of_the_maximum_size_is_decoded_and_a_larger_one_is_malformed() -> None:
    golden = load("call_begin_resource_claim")

    assert decode(golden, max_bytes=len(golden.body)).method == "begin_resource_claim"
    with pytest.raises(Malformed, match="bytes") as caught:
        decode(golden, max_bytes=len(golden.body) - 1)
    assert caught.value.reply_to is not None


# --- compression -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["call_gzip", "call_bz2"])
def test_the_size_limit_applies_to_the_decompressed_body(name: str) -> None:
    with pytest.raises(Malformed):
        decode(load(name), max_bytes=len(load(name).body))


@pytest.mark.parametrize(
    ("compression", "bomb"),
    [
        ("application/x-gzip", zlib.compress(b" " * 200_000_000, 9)),
        ("application/x-bz2", bz2.compress(b" " * 20_000_000)),
    ],
)
def test_a_decompression_bomb_is_malformed(compression: str, bomb: bytes) -> None:
    with pytest.raises(Malformed):
        decode_request(bomb, content_type=JSON, compression=compression)


@pytest.mark.parametrize(
    ("body", "compression"),
    [
        (packed(request()), "application/x-gzip"),
        (packed(request()), "application/x-bz2"),
        (gzip.compress(packed(request())), "application/x-gzip"),  # kombu's gzip is zlib
        (zlib.compress(packed(request()))[:-20], "application/x-gzip"),
        (packed(request()), "application/x-lzma"),
    ],
)
def test_a_body_that_cannot_be_decompressed_is_malformed(body: bytes, compression: str) -> None:
    with pytest.raises(Malformed):
        decode_request(body, content_type=JSON, compression=compression)


# --- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_encoded_by_the_worker_has_the_shape_of_a_stock_reply(name: str) -> None:
    stock_reply = inner_of(load(name).body)
    reply_to = ReplyTo(load(name).routing_key, stock_reply["_msg_id"])
    if stock_reply["ending"]:
        failed = None
        if stock_reply["failure"] is not None:
            failed = json.loads(stock_reply["failure"])
        body = encode_reply(encode_answer(JSON, result=stock_reply["result"], failed=failed), reply_to)
    else:
        body = encode_heartbeat(reply_to)

    ours = inner_of(body)

    for reply in (ours, stock_reply):
        assert re.fullmatch("[0-9a-f]{32}", reply.pop("_unique_id"))
        if reply["failure"] is not None:
            reply["failure"] = json.loads(reply["failure"])
    assert ours == stock_reply
    assert list(ours) == list(stock_reply)


def test_a_failure_encoded_by_the_worker_has_the_keys_of_a_stock_failure() -> None:
    stock_failure = json.loads(inner_of(load("reply_expected_error").body)["failure"])
    error = ComputeResourcesUnavailable(shortfalls=stock_failure["kwargs"]["shortfalls"])

    ours = failure(error)

    assert list(ours) == list(stock_failure)
    for key in ("class", "module", "message", "kwargs"):
        assert ours[key] == stock_failure[key]


@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_every_reply_has_its_own_unique_id(content_type: str) -> None:
    answer = encode_answer(content_type, result={"n": 1})
    reply_to = ReplyTo("reply_1", "m1", content_type)

    first, second = (decode_message(encode_reply(answer, reply_to), content_type) for _ in range(2))

    assert first.pop("_unique_id") != second.pop("_unique_id")
    assert first == second == {"result": {"n": 1}, "failure": None, "ending": True, "_msg_id": "m1"}


def test_long_texts_and_surrogates_in_a_failure_are_made_encodable() -> None:
    class Quoting(Exception):
        kwargs = {"field": "\ud800" * 5000, "number": 5}  # noqa: RUF012

    failed = failure(Quoting("x" * 5000 + "ü"), args=("\ud800", 7))

    body = encode_reply(encode_answer(JSON, failed=failed), REPLY_TO)
    assert len(body) < 20_000
    assert failed["args"] == ["\\ud800", 7]
    assert failed["kwargs"]["number"] == 5


# --- notifications ---------------------------------------------------------------------------------------------------


def notification(stock_message: dict[str, Any], **changes: Any) -> bytes:
    facts = {name: stock_message[name] for name in ("message_id", "publisher_id", "event_type", "priority")}
    payload = json.dumps(stock_message["payload"]).encode()
    return encode_notification(**{**facts, "payload": payload, "occurred_at": 1_768_478_400_000_001, **changes})


@pytest.mark.parametrize("name", ["notification_info", "notification_warn"])
def test_a_notification_encoded_by_the_worker_has_the_shape_of_a_stock_notification(name: str) -> None:
    stock_message = {key: value for key, value in inner_of(load(name).body).items() if not key.startswith("_context_")}

    ours = inner_of(notification(stock_message))

    assert ours.pop("timestamp") == "2026-01-15 12:00:00.000001"
    assert re.fullmatch("[0-9a-f]{32}", ours.pop("_unique_id"))
    del stock_message["timestamp"], stock_message["_unique_id"]
    assert ours == stock_message


def test_a_renewed_notification_differs_only_in_the_unique_id() -> None:
    # These values contain the text of the key.
    told = {**inner_of(load("notification_info").body), "publisher_id": 'x"_unique_id":"' + "a" * 32 + '"'}
    told["payload"] = {"_unique_id": "b" * 32, "deep": ['\\"_unique_id\\":\\"' + "c" * 32]}
    first = notification(told)

    second = renewed(first)

    one, other = inner_of(first), inner_of(second)
    assert one.pop("_unique_id") != other.pop("_unique_id")
    assert one == other
    assert len(first) == len(second)


def test_decode_message_reads_every_recorded_body() -> None:
    for name in [*REPLIES, "notification_info", "notification_warn"]:
        assert decode_message(load(name).body) == inner_of(load(name).body)
    assert decode_message(load("notification_version_1").body)["event_type"] == "tracker.claim.begun"
    with pytest.raises(Malformed):
        decode_message(base64.b64encode(b"x"))
