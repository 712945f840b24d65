# SPDX-License-Identifier: Apache-2.0
"""What a body costs is bounded: one that is too large is not built, and one that would become too large is not either."""

from __future__ import annotations

import bz2
import json
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.support.memory import measure
from tracker_worker.wire.message import JSON, MSGPACK, Malformed, ReplyTo
from tracker_worker.wire.request import MAX_VALUES, decode_request

LIMIT = 1 << 20
LARGE = 30_000_000
IDS = b'"_msg_id":"m1","_reply_q":"reply_1"'
PACKED_IDS = b"".join(map(msgspec.msgpack.encode, ("_msg_id", "m1", "_reply_q", "reply_1")))
GZIP, BZ2 = "application/x-gzip", "application/x-bz2"


def bare(args: bytes) -> bytes:
    return b'{"method":"x","args":{"a":%b},%b}' % (args, IDS)


def enveloped(message: bytes) -> bytes:
    """``message`` in an envelope, as stock clients write it, also if it is no text."""
    inner = message.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'{"oslo.version": "2.0", "oslo.message": "%b"}' % inner


def packed(args: bytes) -> bytes:
    return b"\x84\xa6method\xa1x\xa4args\x81\xa1a%b%b" % (args, PACKED_IDS)


def array(items: bytes, count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + items * count


def outcome(body: bytes, content_type: str, compression: str | None = None, max_bytes: int = LIMIT) -> Any:
    """The reason of the refusal and whether it reaches the caller; a body that is a request: the method."""
    try:
        return decode_request(body, content_type=content_type, compression=compression, max_bytes=max_bytes).method
    except Malformed as error:
        return str(error), error.reply_to == ReplyTo("reply_1", "m1", content_type)


EMPTY_LISTS = b"[" + b",".join([b"[]"] * (LARGE // 3)) + b"]"
DEEP = b"[" * (LARGE // 2) + b"]" * (LARGE // 2)


def too_large() -> dict[str, Callable[[], Any]]:
    """Bodies of about 30 MB, all of them calls."""
    text = b'"' + b"x" * LARGE + b'"'
    context = b",".join(b'"_context_%d":{}' % number for number in range(LARGE // 20))
    bodies = {
        "empty lists": (bare(EMPTY_LISTS), JSON),
        "empty lists in an envelope": (enveloped(bare(EMPTY_LISTS)), JSON),
        "quotes in an envelope": (enveloped(bare(b'"' + b'\\"' * (LARGE // 6) + b'"')), JSON),
        "one wide character in an envelope": (enveloped(bare(text.replace(b"x", "\U0001f600".encode(), 1))), JSON),
        "escaped characters": (bare(b'"' + b"\\ud83d\\ude00" * (LARGE // 12) + b'"'), JSON),
        "escaped characters in an envelope": (
            b'{"oslo.version":"2.0","oslo.message":"%b"}'
            % bare(b'"' + b"\\ud83d\\ude00" * (LARGE // 12) + b'"').replace(b'"', b'\\"'),
            JSON,
        ),
        "one text": (bare(text), JSON),
        "one key": (bare(b"{%b:1}" % text), JSON),
        "one number": (bare(b"1" * LARGE), JSON),
        "one fraction": (bare(b"0." + b"1" * LARGE), JSON),
        "one key many times": (b"{%b%b}" % (b'"_msg_id":"no",' * (LARGE // 15), IDS), JSON),
        "many keys of the context": (b'{"method":"x",%b,%b}' % (context, IDS), JSON),
        "nested": (bare(DEEP), JSON),
        "nested in an envelope": (enveloped(bare(DEEP)), JSON),
        "a number that only Python writes": (bare(b"[NaN,%b]" % text), JSON),
        "the same in an envelope": (enveloped(bare(b"[NaN,%b]" % text)), JSON),
        "half a character": (bare(b'["\\ud800",%b]' % text), JSON),
        "empty objects in msgpack": (packed(array(b"\x80", LARGE)), MSGPACK),
        "one binary in msgpack": (packed(b"\xc6" + LARGE.to_bytes(4, "big") + b"x" * LARGE), MSGPACK),
        "nested in msgpack": (packed(b"\x91" * LARGE + b"\xc0"), MSGPACK),
        "a key that is no text in msgpack": (b"\x83\x07" + array(b"\x80", LARGE) + PACKED_IDS, MSGPACK),
    }
    return {name: partial(outcome, *body) for name, body in bodies.items()}


def test_of_a_body_that_is_too_large_only_the_address_is_read() -> None:
    for name, found in measure(too_large).items():
        reason, answered = found.result
        assert reason.endswith(f"bytes; at most {LIMIT} are served"), name
        assert answered, name
        # The text in an envelope is unescaped: as much memory again as the body.
        assert found.megabytes < (45 if "in an envelope" in name else 8), (name, found)
        assert found.seconds < 2, (name, found)


def bombs() -> dict[str, Callable[[], Any]]:
    body = bare(b'"' + b" " * 200_000_000 + b'"')
    return {
        "gzip": partial(outcome, zlib.compress(body, 9), JSON, GZIP),
        "bz2": partial(outcome, bz2.compress(body), JSON, BZ2),
    }


def test_decompression_stops_at_four_times_the_limit() -> None:
    for name, found in measure(bombs).items():
        reason, answered = found.result
        assert f"the body has {4 * LIMIT + 1} bytes" in reason, name
        assert not answered, name  # the address stands behind the place where decompression stopped
        assert found.megabytes < 30, (name, found)


def test_a_call_that_is_too_large_once_it_is_decompressed_gets_an_answer() -> None:
    body = bare(b'"' + b" " * (2 * LIMIT) + b'"')

    for compressed, compression in ((zlib.compress(body), GZIP), (bz2.compress(body), BZ2)):
        reason, answered = outcome(compressed, JSON, compression)
        assert f"has {len(body)} bytes" in reason
        assert answered


def within_the_limit() -> dict[str, Callable[[], Any]]:
    """Bodies of just under the limit that are made of as many objects as possible."""
    size = LIMIT - 200
    context = b"".join(msgspec.msgpack.encode(f"_context_{number}") + b"\x80" for number in range(60_000))
    bodies = {
        "empty objects in msgpack": (packed(array(b"\x80", size)), MSGPACK),
        "objects of one key in msgpack": (packed(array(b"\x81\xa0\xc0", size // 3)), MSGPACK),
        "the most empty objects in msgpack": (packed(array(b"\x80", MAX_VALUES - 20)), MSGPACK),
        "the most objects of one key in msgpack": (packed(array(b"\x81\xa0\xc0", MAX_VALUES // 3 - 20)), MSGPACK),
        "a large context in msgpack": (
            b"\xdf" + (60_003).to_bytes(4, "big") + b"\xa6method\xa1x" + context + PACKED_IDS,
            MSGPACK,
        ),
        "empty lists": (bare(EMPTY_LISTS[: size // 3 * 3 - 1] + b"]"), JSON),
        "empty objects in an envelope": (enveloped(bare(b"[" + b",".join([b"{}"] * (size // 3)) + b"]")), JSON),
        "objects of one key": (bare(b"[" + b",".join([b'{"":1}'] * (size // 8)) + b"]"), JSON),
        "texts": (bare(b"[" + b",".join([b'""'] * (size // 3)) + b"]"), JSON),
        "escapes": (bare(b'"' + b"\\n" * (size // 2) + b'"'), JSON),
    }
    return {name: partial(outcome, *body) for name, body in bodies.items()}


def test_no_body_within_the_limit_needs_much_memory() -> None:
    for name, found in measure(within_the_limit).items():
        assert found.megabytes < 60, (name, found)
        assert found.seconds < 2, (name, found)
        if found.result != "x":
            reason, answered = found.result
            assert "values" in reason, name
            assert answered, name


@pytest.mark.parametrize("count", [MAX_VALUES - 12, MAX_VALUES + 1])
def test_the_values_of_a_message_are_counted_exactly(count: int) -> None:
    zeros = b"[" + b",".join([b"0"] * count) + b"]"
    large = 1 << 24
    expected = count < MAX_VALUES

    found = [
        outcome(bare(zeros), JSON, max_bytes=large),
        outcome(enveloped(bare(zeros)), JSON, max_bytes=large),
        outcome(packed(array(b"\x00", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xcd\x01\x00", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xa3abc", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xc4\x01a", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xd6\xff\x00\x00\x00\x01", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xc7\x01\x05a", count)), MSGPACK, max_bytes=large),
        outcome(packed(array(b"\xcb" + b"\x00" * 8, count)), MSGPACK, max_bytes=large),
    ]

    for result in found:
        assert (result == "x") is expected, result


def test_marks_inside_of_texts_are_no_values() -> None:
    assert outcome(bare(b'"' + b',\\"[{:' * MAX_VALUES + b'"'), JSON, max_bytes=1 << 24) == "x"


def test_a_call_with_one_undecodable_value_is_answered() -> None:
    """The digits are more than Python reads."""
    reason, answered = outcome(bare(b"1" * 5000), JSON)
    assert reason.startswith("undecodable")
    assert answered


@pytest.mark.parametrize("padding", range(40))
def test_the_text_of_an_envelope_may_be_cut_into_pieces_anywhere(padding: int) -> None:
    """The pieces end after 65536 bytes: inside of an escape, or of a character of several bytes."""
    inner = json.dumps({"a": "x" * (65_500 + padding), "b": 'é\U0001f600\\"\n\U0001f600' * 5000}, ensure_ascii=False)
    inner = inner[:-1] + "," + IDS.decode() + "}"
    for ascii_only in (True, False):
        body = json.dumps({"oslo.version": "2.0", "oslo.message": inner}, ensure_ascii=ascii_only).encode()
        assert outcome(body, JSON, max_bytes=1024)[1]
