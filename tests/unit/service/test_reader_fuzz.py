# SPDX-License-Identifier: Apache-2.0
"""Whatever arrives, and whatever reading it raises, concerns that one message; the same mutations in each run."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from tests.support.builders import HOST, instance_dict
from tests.support.engine import POLICY, EngineHarness
from tests.support.scripted import ManualTimer
from tests.unit.service.conftest import MakeHarness
from tracker_worker.bus.base import FANOUT, SHARED, DeadLetter, Delivery, Reply, Settlement
from tracker_worker.bus.memory import MemoryBroker, MemoryBus
from tracker_worker.service.requests import reader as reading
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.reader import RequestReader
from tracker_worker.wire.message import JSON, MSGPACK, decode_message
from tracker_worker.wire.reply import answer, parking_reason, parks
from tracker_worker.wire.reply_queues import ReplyQueues

CLIENTS = ReplyQueues.of_clients(
    ["reply_"], topic="tracker", dead_letter_queue="tracker.dead", notification_topics=["notifications"]
)
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("begin_resource_claim", {"instance": instance_dict(), "limits": {"vcpu": 4, "memory_mb": 8192.5}, "timeout": 60}),
    ("finish_resource_claim", {"claim_id": "c1"}),
    ("abort_resource_claim", {"claim_id": "c1", "host": HOST}),
    ("update_usage", {"instance": {"uuid": "u1", "vm_state": "active", "metadata": {"a": [1, {"b": None}]}}}),
    ("update_available_resource", {"node": None}),
    ("get_node", {"node": "node-1"}),
    ("list_claims", {}),
    ("get_usage", {"project_id": "p1"}),
]
ODD_VALUES: list[Any] = [
    *(None, True, False, 0, -1, 2**31, 2**63, 2**64 - 1, 0.5, 1e308, float("nan"), float("inf"), "", "\0", "\ud800"),
    *("\x1b[2J", "\u202e", "x" * 300, "x" * 70_000, [], {}, [[]], {"": {}}, ["x"] * 50, {"a": float("nan")}),
]
ODD_BYTES = [
    *(b"", b"\0", b"\xff", b'"', b"\\", b"{", b"}", b"[" * 200, b"]" * 200, b"[" * 3000, b"NaN", b"1" * 5000, b"1e999"),
    *(b"\\ud800", b"\\u0000", b"\xed\xa0\x80", b'"_msg_id":"x",', b"\x80", b"\x81", b"\xc1", b"\xdd\xff\xff\xff\xff"),
    *(
        b"\x91" * 200,
        b"\x91" * 3000,
        b"\xdf\x00\x00\xff\xff",
        b"\xc7\xff\x05",
        b"\xd6\xff\xff\xff\xff\xff",
        b"\xcf" * 9,
    ),
]


def request(draw: random.Random) -> dict[Any, Any]:
    method, args = draw.choice(REQUESTS)
    message: dict[Any, Any] = {
        "method": method,
        "args": json.loads(json.dumps(args)),
        "version": "1.0",
        "_unique_id": f"u-{draw.random()}",
        "_context_request_id": "req-1",
        "_context_project_id": "p1",
    }
    if draw.random() < 0.7:
        message |= {"_msg_id": "m1", "_reply_q": "reply_1", "_timeout": draw.choice([None, 30])}
    return message


def change_a_value(draw: random.Random, message: Any) -> None:
    """Replace, add or remove one value somewhere in ``message``."""
    place = message
    while draw.random() < 0.6:
        inner = [
            value for value in (place.values() if isinstance(place, dict) else place) if isinstance(value, dict | list)
        ]
        inner = [value for value in inner if value]
        if not inner:
            break
        place = draw.choice(inner)
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    kind, key = draw.randrange(3), draw.choice(keys)
    if kind == 0:
        place[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    elif kind == 1 and isinstance(place, dict):
        place[draw.choice(["x", "", "\ud800", "k" * 300, "_reply_q", "_timeout"])] = copy.deepcopy(
            draw.choice(ODD_VALUES)
        )
    else:
        del place[key]


def change_bytes(draw: random.Random, body: bytes) -> bytes:
    start = draw.randrange(len(body) + 1)
    end = min(len(body), start + draw.choice([0, 0, 1, 1, 2, 10, 100]))
    kind = draw.randrange(4)
    if kind == 0:
        return body[:start] + draw.choice(ODD_BYTES) + body[end:]
    if kind == 1:
        return body[:start] + draw.randbytes(end - start) + body[end:]
    if kind == 2:
        return body[:start] + body[start:end] * 2 + body[end:]
    return body[:start]


def mutated(draw: random.Random) -> Delivery:
    message, packed = request(draw), draw.random() < 0.5
    for _ in range(draw.choice([0, 0, 1, 2])):
        if message:
            change_a_value(draw, message)
    text = json.dumps(message)
    if packed:
        # msgpack has no lone surrogates.
        body = msgspec.msgpack.encode(json.loads(text.encode().replace(b"\\ud800", b"?")))
    else:
        body = (
            json.dumps({"oslo.version": "2.0", "oslo.message": text}).encode() if draw.random() < 0.7 else text.encode()
        )
    for _ in range(draw.choice([0, 0, 0, 1, 1, 4])):
        body = change_bytes(draw, body)
    return Delivery(
        body=body,
        source=draw.choice([HOST, HOST, HOST, HOST, SHARED, FANOUT]),
        content_type=draw.choice([MSGPACK if packed else JSON] * 9 + [MSGPACK, JSON, None, "text/plain"]),
        headers=draw.choice(
            [{}] * 9 + [{"compression": value} for value in ("application/x-gzip", "x", 5, [[]], None)]
        ),
        deadline=draw.choice([None, 1e12]),
    )


def received(deliveries: Sequence[Delivery]) -> list[PendingRequest]:
    submitted: list[PendingRequest] = []
    reader = RequestReader(
        bus=MemoryBus(MemoryBroker()),
        served=[HOST],
        policy=lambda: POLICY,
        max_body_bytes=60_000,
        every=ManualTimer,
        submit=submitted.extend,
        reply_queues=CLIENTS,
    )
    reader.received(deliveries)
    return submitted


def check_refusal(request: PendingRequest) -> None:
    """The refusal can go out, and can be read."""
    error = request.refusal
    assert error is not None
    reason = parking_reason(error) if parks(error) else ""
    assert reason.isprintable()
    assert len(reason) <= 1000
    outgoing = request.conclusion(answer(request.reply_to, error=error), reason)
    if isinstance(outgoing, Reply):
        assert len(outgoing.body) < 65536
        failed = msgspec.json.decode(decode_message(outgoing.body, outgoing.reply_to.content_type)["failure"])
        assert failed["message"].isprintable()
        assert outgoing.reply_to.queue.startswith("reply_")
    else:
        assert isinstance(outgoing, DeadLetter | Settlement)


@pytest.mark.parametrize("seed", range(8))
def test_no_mutation_of_a_request_raises_on_the_thread_of_the_bus(seed: int) -> None:
    draw = random.Random(seed)
    deliveries = [mutated(draw) for _ in range(1000)]

    requests = received(deliveries)

    assert [request.delivery for request in requests] == deliveries
    done = [request for request in requests if request.operation is not None]
    assert 150 < len(done) < 700  # neither all of them nor none
    for request in requests:
        assert (request.operation is None) is (request.refusal is not None)
        if request.refusal is not None:
            check_refusal(request)
            # The outcome is a refusal that says what is wrong, not a failure of the reader.
            assert type(request.refusal).__module__ != "builtins", request.delivery


def test_the_engine_goes_on_after_any_mutation(make_harness: MakeHarness) -> None:
    harness: EngineHarness = make_harness().start()
    draw = random.Random(99)
    for _ in range(300):
        delivery = mutated(draw)
        harness.broker.publish(
            HOST, delivery.body, content_type=delivery.content_type or JSON, headers=delivery.headers, deadline=1e12
        )
    assert harness.caller.call("oslo_rpc_server_ping").reply() == "pong"
    assert harness.deaths.empty()


ERRORS: list[Callable[[], BaseException]] = [
    RecursionError,
    MemoryError,
    lambda: ValueError("\x1b[2J\n\ud800" * 1000),
    lambda: KeyError("x"),
    lambda: UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate"),
]


@pytest.mark.parametrize("where", ["decode_request", "resolve"])
@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.parametrize("call", [True, False], ids=["call", "cast"])
def test_an_error_of_one_message_fails_only_that_message(
    call: bool,
    make: Callable[[], Exception],
    where: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = {"_msg_id": "m1", "_reply_q": "reply_1"} if call else {}
    bodies = [
        json.dumps({"method": "get_node", "version": version, **ids}).encode() for version in ("1.0", "0.0", "1.0")
    ]
    real = getattr(reading, where)

    def fail(first: Any, **arguments: Any) -> Any:
        if b"0.0" in first if isinstance(first, bytes) else first.version == "0.0":
            raise make()
        return real(first, **arguments)

    monkeypatch.setattr(reading, where, fail)

    before, failing, after = received([Delivery(body=body, source=HOST, content_type=JSON) for body in bodies])

    assert before.operation is not None
    assert after.operation is not None
    assert failing.operation is None
    assert type(failing.refusal) is type(make())
    # A message that could not even be decoded says no address.
    assert (failing.reply_to is not None) is (call and where == "resolve")
    check_refusal(failing)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert all(line.isprintable() for line in record.getMessage().split("\n"))
    assert len(record.getMessage()) < 5000


def test_a_real_lack_of_stack_fails_only_that_message(monkeypatch: pytest.MonkeyPatch) -> None:
    real = reading.resolve

    def deep(request: Any, **arguments: Any) -> Any:
        return deep(request, **arguments) if request.method == "deep" else real(request, **arguments)

    monkeypatch.setattr(reading, "resolve", deep)
    bodies = [json.dumps({"method": method}).encode() for method in ("list_nodes", "deep", "list_nodes")]

    first, failing, last = received([Delivery(body=body, source=HOST, content_type=JSON) for body in bodies])

    assert first.operation is not None
    assert last.operation is not None
    assert isinstance(failing.refusal, RecursionError)
    check_refusal(failing)
