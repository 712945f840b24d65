# SPDX-License-Identifier: Apache-2.0
"""Decoding on the bus's thread: no input raises there, and every caller with a readable reply address gets an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import inf
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.builders import HOST
from tests.support.engine import POLICY
from tests.support.scripted import ManualTimer
from tracker_worker.bus.base import Delivery
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.domain.queries import GetNode
from tracker_worker.errors import InvalidInput
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.wire.message import JSON, MSGPACK, Malformed, ReplyTo, decode_message
from tracker_worker.wire.reply import answer, parking_reason, parks

# Derandomized examples are the same in each run; the first example takes longer because it loads the tables of Unicode.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CALL = {"method": "get_node", "args": {}, "_msg_id": "m-1", "_reply_q": "reply_1", "_unique_id": "u-1"}


def read(
    body: bytes,
    content_type: str | None = JSON,
    headers: dict[str, Any] | None = None,
    deadline: float | None = None,
) -> PendingRequest:
    submitted: list[PendingRequest] = []
    reader = RequestReader(
        bus=MemoryBus(MemoryBroker()),
        served=[HOST],
        policy=lambda: POLICY,
        max_body_bytes=10_000,
        every=ManualTimer,
        submit=submitted.extend,
    )
    delivery = Delivery(body=body, source=HOST, content_type=content_type, headers=headers or {}, deadline=deadline)
    reader.received([delivery])
    (work,) = submitted
    return work


def told(work: PendingRequest) -> list[Any]:
    """The outcome of a refused request: its replies, or the reasons of its dead letters."""
    broker = MemoryBroker()
    replies: list[Any] = []
    bus = MemoryBus(broker)
    if work.reply_to is not None:
        content_type = work.reply_to.content_type
        broker.open_replies(work.reply_to.queue, lambda body: replies.append(decode_message(body, content_type)))
    assert work.refusal is not None
    reason = parking_reason(work.refusal) if parks(work.refusal) else ""
    bus.send([work.conclusion(answer(work.reply_to, error=work.refusal), reason)])
    while not broker.parked.empty():
        replies.append(broker.parked.get().headers["x-tracker-reason"])
    return replies


def enveloped(message: Any) -> bytes:
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def test_a_request_is_decoded_checked_and_submitted() -> None:
    work = read(enveloped({**CALL, "_context_request_id": "req-1", "_timeout": 30}))
    assert work.operation is not None
    assert (work.operation.hosts, work.operation.action) == ((HOST,), GetNode(node=None))
    assert (work.refusal, work.unique_id, work.asked.request_id) == (None, "u-1", "req-1")
    assert work.reply_to == ReplyTo("reply_1", "m-1")
    assert isinstance(work.heartbeat, ManualTimer)
    assert work.heartbeat.interval_seconds == 15


@pytest.mark.parametrize("deadline", [None, 1000.5])
def test_heartbeats_end_with_the_deadline_of_their_call(deadline: float | None) -> None:
    submitted: list[PendingRequest] = []
    reader = RequestReader(
        bus=MemoryBus(MemoryBroker()),
        served=[HOST],
        policy=lambda: POLICY,
        max_body_bytes=10_000,
        every=ManualTimer,
        submit=submitted.extend,
    )
    body = enveloped({**CALL, "_timeout": 30})
    reader.received([Delivery(body=body, source=HOST, content_type=JSON, deadline=deadline)])
    (work,) = submitted
    assert isinstance(work.heartbeat, ManualTimer)
    assert work.heartbeat.until == (inf if deadline is None else deadline)


def test_deliveries_that_arrive_together_are_submitted_together_in_order() -> None:
    batches: list[Sequence[PendingRequest]] = []
    reader = RequestReader(
        bus=MemoryBus(MemoryBroker()),
        served=[HOST],
        policy=lambda: POLICY,
        max_body_bytes=10_000,
        every=ManualTimer,
        submit=batches.append,
    )
    bodies = [enveloped(CALL), b"no request", enveloped({**CALL, "method": "nonsense"})]
    reader.received([Delivery(body=body, source=HOST, content_type=JSON) for body in bodies])
    assert [[work.delivery.body for work in batch] for batch in batches] == [bodies]


def test_a_call_that_is_too_large_gets_an_error_and_a_cast_is_parked() -> None:
    large = {**CALL, "args": {"node": "n" * 10_000}}
    (reply,) = told(read(enveloped(large)))
    assert json.loads(reply["failure"])["class"] == "InvalidInput"
    (reason,) = told(read(enveloped({key: value for key, value in large.items() if key != "_msg_id"})))
    assert reason.startswith("invalid_input: ")


@pytest.mark.parametrize("body", [b"[" * 20_000, enveloped({**CALL, "_reply_q": None, "args": {"node": "n" * 10_000}})])
def test_a_body_that_is_too_large_and_has_no_address_is_parked_or_dropped_if_it_expires(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (reason,) = told(read(body))
    assert reason.startswith("invalid_input: the body has")
    assert caplog.messages == []

    assert told(read(body, deadline=1e12)) == []
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert str(len(body)) in warning.message


def test_a_body_that_is_too_large_is_answered_also_if_it_expires() -> None:
    (reply,) = told(read(enveloped({**CALL, "args": {"node": "n" * 10_000}}), deadline=1e12))
    assert json.loads(reply["failure"])["class"] == "InvalidInput"


def test_nothing_of_the_context_is_kept_but_who_asked() -> None:
    work = read(enveloped({**CALL, "_context_request_id": "req\n\u202e" + "x" * 300, "_context_big": ["y"] * 100}))
    assert work.asked.request_id == "req\\n\\u202e" + "x" * 241 + "..."
    assert not hasattr(work, "context")


@pytest.mark.parametrize("where", ["message", "args", "context"])
def test_keys_that_are_not_texts_are_invalid_input(where: str) -> None:
    """Only msgpack has such keys."""
    message: dict[Any, Any] = {**CALL}
    if where == "message":
        message[7] = 1
    elif where == "args":
        message["args"] = {b"node": "n"}
    else:
        message[b"_context_user"] = "u"
    work = read(msgspec.msgpack.encode(message), MSGPACK)
    assert isinstance(work.refusal, Malformed)
    (reply,) = told(work)
    assert msgspec.json.decode(reply["failure"])["class"] == "InvalidInput"


def test_values_that_only_msgpack_has_are_refused_by_their_field() -> None:
    for value in (b"bytes", msgspec.msgpack.Ext(5, b"x"), msgspec.msgpack.decode(b"\xd6\xff\x00\x00\x00\x01")):
        work = read(msgspec.msgpack.encode({**CALL, "args": {"node": value}}), MSGPACK)
        assert isinstance(work.refusal, InvalidInput)
        assert work.refusal.kwargs["field"] == "node"
        assert len(told(work)) == 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(-5, 5), inner, max_size=3)
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    ["method", "args", "version", "namespace", "_unique_id", "_msg_id", "_reply_q", "_timeout", "_context_user", "x", 7]
)
messages = st.builds(lambda changed: {**CALL, **changed}, st.dictionaries(keys, values, max_size=4))


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return not isinstance(value, bytes)


@FUZZ
@given(st.binary(max_size=40), st.sampled_from([JSON, MSGPACK, None, "", "text/plain"]))
def test_no_body_raises_on_the_thread_of_the_bus(body: bytes, content_type: str | None) -> None:
    work = read(body, content_type)
    assert work.refusal is not None
    assert len(told(work)) == 1


@FUZZ
@given(messages, st.booleans())
def test_every_wrong_message_gives_one_reply_or_one_dead_letter(message: dict[Any, Any], packed: bool) -> None:
    if packed or not is_json(message):
        work = read(msgspec.msgpack.encode(message), MSGPACK)
    else:
        work = read(enveloped(message))
    if work.refusal is not None:
        assert len(told(work)) == 1
    else:
        assert work.operation is not None


@FUZZ
@given(st.text(st.characters(), max_size=30))
def test_a_refusal_is_readable_for_every_name_of_an_argument(name: str) -> None:
    work = read(enveloped({**CALL, "args": {name: 1}}))
    if work.refusal is None:
        assert name in ("node", "host")
        return
    (reply,) = told(work)
    assert json.loads(reply["failure"])["class"] == "InvalidInput"


@pytest.mark.parametrize("behind", [b'"_reply_q": "\xff"', b'"_reply_q": "\xc3\xa9"', b'"_msg_id": "\xff"'])
def test_a_message_nested_too_deeply_is_refused_whatever_follows_the_nesting(behind: bytes) -> None:
    body = b'{"_msg_id": "0a", "args": ' + b"[" * 4000 + b"]" * 4000 + b", " + behind + b"}"
    assert isinstance(read(body).refusal, Malformed)


def test_nesting_with_escaped_brackets_is_found() -> None:
    """The envelope's text may escape its brackets."""
    inner = json.dumps({**CALL, "version": None}).replace("null", "[" * 600 + "]" * 600)
    escaped = json.dumps(inner).replace("[", "\\u005b").replace("]", "\\u005d")
    work = read(b'{"oslo.version": "2.0", "oslo.message": ' + escaped.encode() + b"}")
    assert isinstance(work.refusal, Malformed)
    assert "100 levels" in str(work.refusal)
    assert len(told(work)) == 1
