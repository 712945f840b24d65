# SPDX-License-Identifier: Apache-2.0
"""Application headers of any form: their bytes are kept, and neither reading nor keeping them can fail or grow."""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import MappingProxyType

import pytest
from amqp.exceptions import FrameSyntaxError

from tests.unit.bus.test_deliveries import CHANNEL, QUEUE, deliver, frame, split
from tracker_worker.bus.amqp import internals
from tracker_worker.bus.amqp.frames import Delivered, Pieces, read_delivery
from tracker_worker.bus.amqp.internals import UNREADABLE, decode_content, encode_properties

FRAME_BYTES = 8192  # the least that RabbitMQ agrees to is 4096; an operator who lowers it takes this
CONTENT_TYPE = b"\x10application/json"


def array(*values: bytes) -> bytes:
    return b"A" + struct.pack(">I", sum(map(len, values))) + b"".join(values)


def nested(levels: int) -> bytes:
    """A field with a value of so many levels."""
    value = b"V"
    for _ in range(levels):
        value = array(value)
    return b"\x01k" + value


WIDE = b"\x01k" + array(b"b\x01" * 39_000)
TABLES = {
    "600 levels": nested(600),
    "5000 levels": nested(5000),
    "39000 one-byte integers": WIDE,
    "a value of no type": b"\x01k?",
    "a date after the year 9999": b"\x01kT" + struct.pack(">Q", 2**38),
    "a date that no platform knows": b"\x01kT" + struct.pack(">Q", 2**60),
    "a value that is cut off": b"\x01kS\0",
    "an array longer than its table": b"\x01kA\xff\xff\xff\xffb\1b\2",
}


def message(table: bytes, body: bytes = b"{}") -> list[bytes]:
    """The frames of a delivery with a content type and these headers, its body in pieces of 8 KB frames."""
    method = split(deliver())[0]
    properties = struct.pack(">H", 0xA000) + CONTENT_TYPE + struct.pack(">I", len(table)) + table
    header = struct.pack(">HHQ", 60, 0, len(body)) + properties
    parts = [body[at : at + FRAME_BYTES - 8] for at in range(0, len(body), FRAME_BYTES - 8)]
    return [method, frame(2, header), *(frame(3, part) for part in parts)]


def at_once(frames: list[bytes]) -> Delivered:
    found = read_delivery(b"".join(frames), 0, CHANNEL)
    assert found is not None
    return found


def in_pieces(frames: list[bytes]) -> Delivered:
    found: list[Delivered] = []
    pieces = Pieces(found.append)
    for each in frames:
        assert not found
        assert pieces.take(each[0], each[7:-1])
    assert pieces.size == 0
    return found[0]


@pytest.mark.parametrize("read", [at_once, in_pieces])
@pytest.mark.parametrize("body", [b"", b"{}", b"x" * 50_000], ids=["empty", "short", "long"])
@pytest.mark.parametrize("name", TABLES)
def test_the_bytes_of_any_table_are_kept_and_hide_no_other_property(
    name: str, body: bytes, read: Callable[[list[bytes]], Delivered]
) -> None:
    found = read(message(TABLES[name], body))
    assert found.content.header_table == TABLES[name]
    assert found.content.properties == {"content_type": "application/json"}
    assert (found.consumer_tag, found.body) == (QUEUE, body)
    assert dict(found.content.headers) == ({"k": [1] * 39_000} if TABLES[name] is WIDE else {})


@pytest.mark.parametrize(("levels", "kept"), [(1, True), (31, True), (32, False), (600, False)])
def test_headers_of_many_levels_are_not_decoded_and_of_few_they_are(levels: int, kept: bool) -> None:
    assert bool(at_once(message(nested(levels))).content.headers) == kept


@pytest.mark.parametrize("read", [at_once, in_pieces])
@pytest.mark.parametrize(
    "encoded",
    {
        "nothing": b"",
        "half the flags": b"\x20",
        "a table without a length": b"\x20\0",
        "a table longer than the frame": b"\x20\0\0\0\1\0\1kV",
        "a content type without its length": b"\xa0\0",
        "a content type that reaches behind the end": b"\xa0\0\xff12",
        "a content type that is not UTF-8": b"\x80\x00\x02\xff\xfe",
    }.items(),
    ids=lambda named: named[0],
)
def test_properties_that_cannot_be_read_concern_only_their_message(
    encoded: tuple[str, bytes], read: Callable[[list[bytes]], Delivered]
) -> None:
    method, _, body = message(b"")
    found = read([method, frame(2, struct.pack(">HHQ", 60, 0, 2) + encoded[1]), body])
    assert found.content.properties == {"content_type": UNREADABLE}
    assert (found.tag, found.body, dict(found.content.headers)) == (1, b"{}", {})


def test_a_short_table_is_decoded_once_and_a_long_one_is_kept_as_its_bytes() -> None:
    short, long = {"compression": "x-gzip"}, {f"name-{number}": number for number in range(1000)}
    assert isinstance(decode_content(encode_properties({"application_headers": short})).headers, MappingProxyType)
    headers = decode_content(encode_properties({"application_headers": long})).headers
    assert dict(headers) == long
    assert {**headers} == long
    assert (headers.get("name-7"), headers.get("another"), len(headers)) == (7, None, 1000)
    assert [type(getattr(headers, name)) for name in type(headers).__slots__] == [bytes]  # type: ignore[attr-defined]


def test_going_through_a_long_table_decodes_it_once() -> None:
    table = {f"{number}": number for number in range(8000)}
    headers = decode_content(encode_properties({"application_headers": table})).headers
    before = internals._last_table.cache_info().misses
    assert {name: headers[name] for name in headers} == table
    assert internals._last_table.cache_info().misses == before + 1


@pytest.mark.parametrize("cut", range(4, 30))
def test_a_method_without_its_tag_is_an_error_of_the_connection(cut: int) -> None:
    method, header, body = message(b"")
    short = frame(1, method[7 : 7 + cut])
    with pytest.raises(FrameSyntaxError):
        read_delivery(short + header + body, 0, CHANNEL)
    with pytest.raises(FrameSyntaxError):
        in_pieces([short, header, body])


@pytest.mark.parametrize("wrong", [([0], 0), ([0], 2), ([0, 1], 0), ([0, 1], 1)])
def test_another_frame_within_a_delivery_is_an_error_of_the_connection(wrong: tuple[list[int], int]) -> None:
    frames = message(b"")
    pieces = Pieces(lambda found: None)
    right, last = wrong
    for number in right:
        pieces.take(frames[number][0], frames[number][7:-1])
    with pytest.raises(FrameSyntaxError):
        pieces.take(frames[last][0], frames[last][7:-1])


def test_the_size_of_an_incomplete_delivery_counts_what_has_arrived_and_not_what_is_announced() -> None:
    pieces = Pieces(lambda found: None)
    sizes = []
    for each in message(b"x" * 100, b"y" * 20_000)[:-1]:
        pieces.take(each[0], each[7:-1])
        sizes.append(pieces.size)
    assert sizes == sorted(sizes)
    assert 16_000 < sizes[-1] < 17_000
    pieces.forget()
    assert pieces.size == 0
    assert internals.decode_table(b"") == {}
