# SPDX-License-Identifier: Apache-2.0
"""Hundreds of requests with random changes in their bytes over the real bus: each is answered, executed or parked."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.functional.conftest import HOST_TOPIC
from tests.support import raw
from tests.support.builders import instance_dict
from tests.support.deadline import wait_until

MESSAGES = 400
# These fields have more errors than a few changed bytes could correct: no request can become a claim.
WRONG = {"memory_mb": -1, "vcpus": "many", "root_gb": None, "vm_state": "imagined"}
REQUESTS: list[tuple[str, Mapping[str, Any]]] = [
    ("begin_resource_claim", {"instance": instance_dict(**WRONG), "limits": {"memory": 1}, "timeout": -1}),
    ("finish_resource_claim", {"claim_id": instance_dict()["uuid"]}),
    ("abort_resource_claim", {"claim_id": instance_dict()["uuid"]}),
    ("update_usage", {"instance": {"uuid": "unknown", "vm_state": "active", "metadata": {"a": [1, {"b": None}]}}}),
    ("get_node", {"node": "n1"}),
    ("list_claims", {}),
    ("get_usage", {"project_id": "p"}),
]
# Properties and headers that contradict the body.
PROPERTIES: list[Mapping[str, Any]] = [
    {"content_type": "application/x-msgpack"},
    {"content_type": "application/\ud7ff"},
    {"content_encoding": "binary"},
    {"headers": {"compression": "application/x-gzip"}},
    {"headers": {"compression": "application/x-bz2"}},
    {"expiration": "60000"},
]


def _flip(draw: random.Random, body: bytearray) -> None:
    for _ in range(draw.randint(1, 4)):
        body[draw.randrange(len(body))] = draw.randrange(256)


def _cut(draw: random.Random, body: bytearray) -> None:
    del body[draw.randrange(len(body)) :]


def _remove(draw: random.Random, body: bytearray) -> None:
    start = draw.randrange(len(body))
    del body[start : start + draw.randint(1, 20)]


def _repeat(draw: random.Random, body: bytearray) -> None:
    start = draw.randrange(len(body))
    body[start:start] = body[start : start + draw.randint(1, 50)] * draw.randint(1, 3)


def _insert(draw: random.Random, body: bytearray) -> None:
    what = draw.choice([b"\0", b"\xff\xfe", b'"', b"}", b"[" * 200, b"1e999", b"\\ud800", b"NaN", b",", b"\\"])
    start = draw.randrange(len(body))
    body[start:start] = what


MUTATIONS: list[Callable[[random.Random, bytearray], None]] = [_flip, _cut, _remove, _repeat, _insert]
ODD: list[Any] = [None, True, -1, 2**70, 1.5, "", "\0", "\ud800", "x" * 5000, [], {}, [[[]]], {"": {"a": [None]}}]


def _mangle(draw: random.Random, value: Any) -> Any:
    """``value`` with one part replaced, added or removed; the result is still JSON."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        chance = draw.random()
        if chance < 0.1:
            return {name: item for name, item in value.items() if name != key}
        if chance < 0.2:
            return {**value, str(draw.choice(ODD)): draw.choice(ODD)}
        return {**value, key: _mangle(draw, value[key])}
    return draw.choice(ODD)


def _parsed(body: bytes) -> dict[str, Any]:
    """The request in ``body``, as an independent reader decodes it, or {}."""
    try:
        inner = json.loads(json.loads(body)["oslo.message"])
        return inner if isinstance(inner, dict) else {}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


@pytest.mark.parametrize("seed", range(2))
def test_every_mangled_message_is_answered_executed_or_parked(raw_connection: raw.RawConnection, seed: int) -> None:
    """The fixture checks that the worker still runs and answers and that its ledger is unchanged."""
    draw = random.Random(seed)
    sent: list[bytes] = []
    for number in range(MESSAGES):
        method, arguments = draw.choice(REQUESTS)
        request = raw_connection.request(method, arguments, call=number % 2 == 0)
        if draw.random() < 0.5:
            body = bytearray(raw.packed(_mangle(draw, request)))
        else:
            body = bytearray(raw.packed(request))
            draw.choice(MUTATIONS)(draw, body)
            body = body or bytearray(b"{")
        properties = draw.choice(PROPERTIES) if draw.random() < 0.1 else {}
        raw_connection.publish(HOST_TOPIC, bytes(body), **properties)
        sent.append(bytes(body))
    last = raw_connection.request("get_node", {}, call=True)
    raw_connection.publish(HOST_TOPIC, raw.packed(last))

    told: set[str] = set()
    while last["_msg_id"] not in told:
        told.add(raw.unpacked(raw_connection.take(raw_connection.reply_queue).body)["_msg_id"])
    parked: list[bytes] = []

    def ended() -> bool:
        while (message := raw_connection.channel.basic_get(raw.DEAD_LETTERS, no_ack=True)) is not None:
            parked.append(bytes(message.body or b""))
        while (message := raw_connection.channel.basic_get(raw_connection.reply_queue, no_ack=True)) is not None:
            told.add(raw.unpacked(message.body)["_msg_id"])
        return not lost()

    def lost() -> list[bytes]:
        return [body for body in sent if body not in parked and not _told_or_done(body)]

    def _told_or_done(body: bytes) -> bool:
        request = _parsed(body)
        if request.get("_reply_q") == raw_connection.reply_queue and isinstance(request.get("_msg_id"), str):
            return request["_msg_id"] in told
        # A cast that is still decodable is executed; so is a call whose reply queue does not exist.
        return bool(request)

    wait_until(ended, lambda: f"each has an end; {len(lost())} have none, such as {lost()[0]!r}")
    assert set(parked) <= set(sent)
    # Both outcomes must occur often.
    assert len(parked) > MESSAGES // 4
    assert len(told) > MESSAGES // 8
