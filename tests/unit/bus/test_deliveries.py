# SPDX-License-Identifier: Apache-2.0
"""A delivery that is read directly from a buffer equals the delivery that py-amqp reads."""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp import spec
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps
from amqp.transport import TCPTransport
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from tests.support.channels import SETTINGS, RecordingConnection
from tests.support.clocked import clocked_system
from tracker_worker.bus.amqp import frames
from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.amqp.frames import Delivered, read_delivery
from tracker_worker.bus.amqp.internals import UNREADABLE, intercept_frames, take_frames
from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.base import Delivery

# Derandomized examples are the same in each run; the first example takes longer because it loads the tables of Unicode.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CHANNEL = 7
QUEUE = "tracker.host-1"
FRAME_MAX = 256  # small, so that bodies have several frames
PLAIN = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 0}
EVERY = {
    **PLAIN,
    "application_headers": {"x-text": "Žofie", "x-table": {"a": [1, None, True, 2**40]}, "x-bytes": b"\xff"},
    "correlation_id": "c",
    "reply_to": "r",
    "expiration": "60000",
    "message_id": "m",
    "timestamp": 2**40,
    "type": "t",
    "user_id": "guest",
    "app_id": "a",
    "cluster_id": "",
}
HEARTBEAT = struct.pack(">BHIB", 8, 0, 0, 0xCE)


def deliver(
    body: bytes = b"{}",
    properties: dict[str, Any] | None = None,
    *,
    tag: int = 1,
    exchange: str = "openstack",
    key: str = QUEUE,
    redelivered: bool = False,
) -> bytes:
    """The frames of one delivery, written by py-amqp."""
    arguments = dumps("sLbss", (QUEUE, tag, redelivered, exchange, key))
    return write(spec.Basic.Deliver, arguments, amqp.Message(body, **(properties or {})))


def write(method: tuple[int, int], arguments: bytes, content: amqp.Message | None = None) -> bytes:
    out = bytearray()
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    frame_writer(connection, SimpleNamespace(write=out.extend))(1, CHANNEL, method, arguments, content)
    return bytes(out)


def frame(kind: int, payload: bytes, *, channel: int = CHANNEL, end: int = 0xCE) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([end])


def split(data: bytes) -> list[bytes]:
    """The frames in ``data``."""
    found = []
    while data:
        size = 8 + struct.unpack_from(">I", data, 3)[0]
        found.append(data[:size])
        data = data[size:]
    return found


class Library:
    """An open py-amqp connection with channel 7. ``read`` provides its bytes."""

    def __init__(self, read: Any) -> None:
        self.connection = amqp.Connection()
        self.connection.transport = transport = TCPTransport("broker:5672")
        transport._read_buffer, transport._quick_recv = b"", read
        self.connection.on_inbound_frame = frame_handler(self.connection, self.connection.on_inbound_method)
        intercept_frames(self.connection)
        self.channel = amqp.Channel(self.connection, CHANNEL, auto_decode=False)


def by_library(data: bytes) -> dict[str, Any]:
    """The one delivery in ``data``, read by py-amqp."""
    messages: list[amqp.Message] = []
    rest = io.BytesIO(data)
    library = Library(rest.read)
    library.channel.callbacks[QUEUE] = messages.append
    library.connection.drain_events()
    assert not rest.read()
    (message,) = messages
    info = message.delivery_info
    return {
        "consumer_tag": info["consumer_tag"],
        "tag": info["delivery_tag"],
        "exchange": info["exchange"],
        "routing_key": info["routing_key"],
        "properties": {name: value for name, value in message.properties.items() if value != {}},  # an empty table
        "body": message.body or b"",  # py-amqp gives a str for an empty body
        "frames": library.connection.bytes_recv,
    }


def by_us(found: Delivered) -> dict[str, Any]:
    """The same of a delivery that we have read."""
    names = ("consumer_tag", "tag", "exchange", "routing_key", "body", "frames")
    return {**{name: getattr(found, name) for name in names}, "properties": all_properties(found)}


def all_properties(found: Delivered) -> dict[str, Any]:
    """The properties as py-amqp has them."""
    properties, table, headers = found.content
    return {**properties, **({"application_headers": dict(headers)} if table else {})}


@pytest.mark.parametrize("name", EVERY)
def test_each_property_equals_the_property_read_by_py_amqp(name: str) -> None:
    data = deliver(b"{}", {name: EVERY[name]})
    found = read_delivery(data, 0, CHANNEL)
    assert found is not None
    assert all_properties(found) == {name: EVERY[name]}
    assert by_us(found) == by_library(data)


@pytest.mark.parametrize("properties", [{}, PLAIN, EVERY], ids=["none", "plain", "every"])
@pytest.mark.parametrize("size", [0, 1, 100, FRAME_MAX - 8, FRAME_MAX - 7, 4 * FRAME_MAX])
def test_a_body_is_complete_for_any_number_of_frames(size: int, properties: dict[str, Any]) -> None:
    body = bytes(number % 251 for number in range(size))
    data = deliver(body, properties)
    found = read_delivery(data, 0, CHANNEL)
    assert found is not None
    assert found.body == body
    assert by_us(found) == by_library(data)


@pytest.mark.parametrize("exchange", ["", "öffentlich"])
@pytest.mark.parametrize("key", ["", "quéue", "ž" * 127])
@pytest.mark.parametrize("tag", [1, 2**63])
def test_names_and_tags_equal_those_read_by_py_amqp(exchange: str, key: str, tag: int) -> None:
    data = deliver(exchange=exchange, key=key, tag=tag, redelivered=True)
    found = read_delivery(data, 0, CHANNEL)
    assert found is not None
    assert (found.consumer_tag, found.tag, found.exchange, found.routing_key) == (QUEUE, tag, exchange, key)
    assert by_us(found) == by_library(data)


_text = st.text(st.characters(codec="utf-8"), max_size=60)
_numbers = st.integers(-(2**31) + 1, 2**31 - 1) | st.integers(-(2**63), 2**63 - 1)
_plain = (
    st.none()
    | st.booleans()
    | _numbers
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=300)
    | st.binary(max_size=20)
    | st.decimals(Decimal(-10000), Decimal(10000), places=2)
    | st.integers(0, 2**33).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
)
_headers = st.dictionaries(
    _text,
    st.recursive(_plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3)),
    max_size=6,
)
_kinds = {"s": _text, "o": st.integers(0, 255), "L": st.integers(0, 2**64 - 1), "F": _headers}
_properties = st.fixed_dictionaries({}, optional={name: _kinds[kind] for name, kind in amqp.Message.PROPERTIES})


@FUZZ
@given(_properties, st.binary(max_size=3 * FRAME_MAX), _text, _text, st.integers(0, 2**64 - 1), st.binary(max_size=20))
def test_any_delivery_anywhere_in_a_buffer_equals_the_delivery_read_by_py_amqp(
    properties: dict[str, Any], body: bytes, exchange: str, key: str, tag: int, around: bytes
) -> None:
    data = deliver(body, properties, tag=tag, exchange=exchange, key=key)
    found = read_delivery(around + data + around, len(around), CHANNEL)
    assert found is not None
    assert found.end == len(around) + len(data)
    assert by_us(found) == by_library(data)


@pytest.mark.parametrize("before", [b"", deliver(tag=3)], ids=["first", "second"])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * (FRAME_MAX + 100)], ids=["empty", "short", "long"])
def test_an_incomplete_delivery_is_left_to_py_amqp(body: bytes, before: bytes) -> None:
    data = deliver(body, EVERY)
    assert read_delivery(before + data, len(before), CHANNEL) is not None
    for cut in range(len(data)):
        assert read_delivery(before + data[:cut], len(before), CHANNEL) is None


def test_a_delivery_begins_where_the_delivery_before_it_ends() -> None:
    data = deliver(b"1", tag=1) + deliver(b"", tag=2) + deliver(b"3" * 300, tag=3)
    found, position = [], 0
    while delivery := read_delivery(data, position, CHANNEL):
        found.append((delivery.tag, delivery.body))
        position = delivery.end
    assert found == [(1, b"1"), (2, b""), (3, b"3" * 300)]
    assert position == len(data)


METHOD, HEADER, *BODY = split(deliver(b"x" * 300, EVERY))
FIRST, LAST = BODY
RETURNED = write(spec.Basic.Return, dumps("Bsss", (312, "NO_ROUTE", "", "q")), amqp.Message(b"x"))


def other(part: bytes, *, kind: int | None = None, channel: int = CHANNEL, end: int = 0xCE) -> bytes:
    """The same frame with one difference."""
    return frame(part[0] if kind is None else kind, part[7:-1], channel=channel, end=end)


@pytest.mark.parametrize(
    "parts",
    {
        "another method: return": [RETURNED],
        "another method: ack": [write(spec.Basic.Ack, dumps("Lb", (1, False)))],
        "another class": [frame(1, struct.pack(">HH", 85, 60) + METHOD[11:-1]), HEADER, FIRST, LAST],
        "a heartbeat": [HEARTBEAT],
        "a header alone": [HEADER, FIRST, LAST],
        "a body alone": [FIRST, LAST],
        "a heartbeat before the header": [METHOD, HEARTBEAT, HEADER, FIRST, LAST],
        "a heartbeat before the body": [METHOD, HEADER, HEARTBEAT, FIRST, LAST],
        "a heartbeat within the body": [METHOD, HEADER, FIRST, HEARTBEAT, LAST],
        "a method within the body": [METHOD, HEADER, FIRST, METHOD, LAST],
        "another channel's method": [other(METHOD, channel=8), HEADER, FIRST, LAST],
        "another channel's header": [METHOD, other(HEADER, channel=8), FIRST, LAST],
        "another channel's body": [METHOD, HEADER, FIRST, other(LAST, channel=8)],
        "a wrong end of the method": [other(METHOD, end=0), HEADER, FIRST, LAST],
        "a wrong end of the header": [METHOD, other(HEADER, end=0), FIRST, LAST],
        "a wrong end of the body": [METHOD, HEADER, FIRST, other(LAST, end=0)],
        "another kind": [other(METHOD, kind=4), HEADER, FIRST, LAST],
    }.items(),
    ids=lambda named: named[0],
)
def test_frames_that_are_not_a_delivery_are_left_to_py_amqp(parts: tuple[str, list[bytes]]) -> None:
    assert read_delivery(METHOD + HEADER + FIRST + LAST, 0, CHANNEL) is not None
    # A valid delivery follows; it must not be read either.
    assert read_delivery(b"".join(parts[1]) + deliver(), 0, CHANNEL) is None


def test_a_delivery_on_another_channel_is_not_read() -> None:
    assert read_delivery(deliver(), 0, CHANNEL + 1) is None


def test_a_property_that_is_not_utf_8_is_unreadable_as_in_py_amqp() -> None:
    header = struct.pack(">HHQ", 60, 0, 1) + b"\x80\x00\x02\xff\xfe"  # a content type that is not UTF-8
    data = METHOD + frame(2, header) + frame(3, b"x")
    found = read_delivery(data, 0, CHANNEL)
    assert found is not None
    assert found.content.properties == {"content_type": UNREADABLE}
    assert by_us(found) == by_library(data)


def test_only_properties_of_a_usual_size_are_cached() -> None:
    frames._usual_content.cache_clear()
    usual, large = deliver(b"", PLAIN), deliver(b"", {"application_headers": {"x": "y" * frames._MOST_KEPT_BYTES}})
    for _ in range(3):
        assert read_delivery(large, 0, CHANNEL) is not None
    assert frames._usual_content.cache_info().currsize == 0
    for _ in range(3):
        assert read_delivery(usual, 0, CHANNEL) is not None
    assert frames._usual_content.cache_info()[:2] == (2, 1)


class Case:
    """A consumer without its thread, on a real py-amqp channel over a socket. The clock stands still."""

    def __init__(self) -> None:
        self.received: list[Delivery] = []
        self.consumer = Consumer(
            SETTINGS,
            ["host-1"],
            received=self.received.extend,
            lost=lambda: None,
            died=self._died,
            system=clocked_system(lambda: 1000.0),
        )
        declared = RecordingConnection()
        self.consumer.opened(declared)
        sock, self.broker = socket.socketpair()
        library = Library(sock.recv)
        self.connection = library.connection
        self.connection.transport.sock = sock
        take_frames(library.connection, CHANNEL, self.consumer._pieces.take)
        self.consumer._channel = library.channel
        self.stream = Stream(self.connection)

    def _died(self, error: BaseException) -> None:
        raise AssertionError from error

    def read(self) -> Sequence[Delivery]:
        """Read all arrived bytes as the link does. Return the deliveries that are passed on."""
        self.received.clear()
        while True:
            if not self.stream.take(self.consumer.read):
                self.connection.blocking_read()
            if not self.stream.unread():
                break
        self.consumer.work()
        return list(self.received)

    def close(self) -> None:
        self.consumer.stop(0)
        self.connection.transport.sock.close()
        self.broker.close()


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.close()


def test_deliveries_keep_their_order_between_the_fast_reader_and_py_amqp(case: Case) -> None:
    # Only py-amqp can read the third delivery, because of the heartbeat within it; the end of the sixth has not arrived yet.
    third = split(deliver(b"3" * 300, tag=3))
    *sixth, end = split(deliver(b"6" * 300, tag=6))
    data = [deliver(b"1", tag=1), deliver(b"", tag=2), *third[:-1], HEARTBEAT, third[-1]]
    data += [deliver(b"4", tag=4), HEARTBEAT, deliver(b"5", tag=5), *sixth]

    case.broker.sendall(b"".join(data))
    assert [delivery.body for delivery in case.read()] == [b"1", b"", b"3" * 300, b"4", b"5"]
    # Each frame must be counted: otherwise py-amqp's heartbeat check would consider the broker dead.
    assert case.connection.bytes_recv == sum(len(split(part)) for part in data)

    case.broker.sendall(end + deliver(b"7", tag=7))
    assert [(delivery.token[1], delivery.body) for delivery in case.read()] == [(6, b"6" * 300), (7, b"7")]


def test_the_fast_reader_reads_exactly_the_complete_deliveries(case: Case) -> None:
    whole = deliver(b"1" * 300, EVERY, tag=1) + deliver(b"", tag=2)
    for rest in (b"", HEARTBEAT, deliver(tag=3)[:-1]):
        before = case.connection.bytes_recv
        assert case.consumer.read(b"-" + whole + rest, 1) == 1 + len(whole)
        assert case.connection.bytes_recv - before == len(split(whole))
    assert case.consumer.read(HEARTBEAT + whole, 0) == 0


@pytest.mark.parametrize("properties", [{}, PLAIN, EVERY], ids=["none", "plain", "every"])
@pytest.mark.parametrize("body", [b"", b"\xff{}", b"x" * 600], ids=["empty", "short", "long"])
def test_a_delivery_is_equal_with_and_without_py_amqp(case: Case, body: bytes, properties: dict[str, Any]) -> None:
    data = deliver(body, properties, tag=5, exchange="", key="quéue")
    case.broker.sendall(data)
    (at_once,) = case.read()
    # A frame at a time is read by py-amqp.
    found: Sequence[Delivery] = ()
    for part in split(data):
        assert not found
        case.broker.sendall(part)
        found = case.read()
    (by_the_library,) = found

    assert asdict(at_once) == asdict(by_the_library)
    assert at_once.deadline == (1060.0 if properties is EVERY else None)
    assert at_once.headers == properties.get("application_headers", {})
    assert "application_headers" not in at_once.properties


@pytest.mark.parametrize("name", [b"\xff", b"\xed\xa0\x80"], ids=["no UTF-8", "a lone surrogate"])
def test_names_that_are_not_utf_8_are_replaced_with_and_without_py_amqp(case: Case, name: bytes) -> None:
    """The names are only logged; py-amqp raises for the first name, and the second could not be encoded again."""
    _, header, *body = split(deliver(b"1"))
    method = frame(1, b"\0\x3c\0\x3c" + dumps("sLbs", (QUEUE, 1, False, "openstack")) + bytes([len(name)]) + name)
    case.broker.sendall(b"".join((method, header, *body)))
    (at_once,) = case.read()
    for part in (method, header, *body):
        case.broker.sendall(part)
        by_the_library = case.read()
    assert [asdict(delivery) for delivery in by_the_library] == [asdict(at_once)]
    assert at_once.routing_key.replace("\ufffd", "") == ""


def test_nobody_can_change_the_properties_that_deliveries_share(case: Case) -> None:
    case.broker.sendall(deliver(b"1", EVERY, tag=1) + deliver(b"2", EVERY, tag=2))
    first, second = case.read()
    with pytest.raises(TypeError):
        first.properties["type"] = "another"  # type: ignore[index]
    with pytest.raises(TypeError):
        first.headers["x-text"] = "another"  # type: ignore[index]
    assert second.headers == EVERY["application_headers"]
    assert second.properties == first.properties == {n: v for n, v in EVERY.items() if n != "application_headers"}
