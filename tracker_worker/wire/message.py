# SPDX-License-Identifier: Apache-2.0
"""What every message on the wire shares: content types, the envelope, ids, and reading bytes as JSON or msgpack.

Facts of the format were observed with oslo.messaging 18.3.1; the golden bytes in tests/wire hold them. Stock clients send JSON
in an envelope whose inner message is a JSON text. Our own client may send the same keys as msgpack, packed once, and gets its
reply as msgpack too.
"""

from __future__ import annotations

import itertools
import json
import os
from typing import Any

import msgspec

from tracker_worker import threads
from tracker_worker.text import MAX_CHARACTERS, printable
from tracker_worker.wire.values import json_values_exceed, packed_values_exceed

JSON = "application/json"
MSGPACK = "application/x-msgpack"
MAX_DEPTH = 100
"""Deepest nesting of a message that is served."""
CONTEXT = "_context_"
"""Prefix of the keys that carry the request context."""
ENVELOPE = b'{"oslo.version":"2.0","oslo.message":'
"""How an envelope begins; the inner message as a JSON text and a closing brace follow."""

_series = threads.random_bytes(10).hex()
_numbers = itertools.count(1)

to_json = msgspec.json.Encoder().encode
to_msgpack = msgspec.msgpack.Encoder().encode


class ReplyTo(msgspec.Struct, frozen=True, gc=False):
    """The queue that a call wants its reply in, the call's id, and the content type that the caller reads."""

    queue: str
    msg_id: str
    content_type: str = JSON


class Malformed(Exception):
    """The bytes are no request. ``reply_to`` is set when the bytes are recognisably a call, whose caller gets an error
    reply. ``too_large``: the bytes are more than the worker reads."""

    def __init__(self, reason: str, reply_to: ReplyTo | None = None, *, too_large: bool = False) -> None:
        super().__init__(printable(reason))
        self.reply_to = reply_to
        self.too_large = too_large


class Unbuilt(Malformed):
    """The bytes may be a message, which is not built because that would cost too much."""


class Undecodable(Malformed):
    """The bytes cannot be decoded."""


def fresh_id() -> str:
    """An id that no other message has, 32 hexadecimal digits: 80 random bits of this process, and a number."""
    return f"{_series}{next(_numbers):012x}"


def begin_series(series: str) -> None:
    """Make the ids that follow from ``series`` (20 hexadecimal digits), numbered from 1: for runs that are to be repeatable."""
    global _series, _numbers
    _series, _numbers = series, itertools.count(1)


# A forked child must not number on where its parent does too: the worker would take its requests for copies of the parent's.
os.register_at_fork(after_in_child=lambda: begin_series(threads.random_bytes(10).hex()))


def in_envelope(message: bytes) -> bytes:
    """``message``, which is JSON, inside a version 2.0 envelope."""
    return ENVELOPE + to_json(message.decode()) + b"}"


def sendable(fact: str) -> str:
    """``fact``, which may quote anything that a caller sent, as text that JSON can hold: lone surrogates are escaped, and the
    text is cut after 1000 characters. Unlike a text for people it is otherwise what the caller sent."""
    short = fact if len(fact) <= MAX_CHARACTERS else f"{fact[:MAX_CHARACTERS]}..."
    return short if short.isascii() else short.encode("utf-8", "backslashreplace").decode()


def decode_message(body: bytes, content_type: str = JSON, *, most_values: int | None = None) -> dict[str, Any]:
    """The inner message of a reply or notification. Raises Malformed; Unbuilt: it has more than ``most_values`` values."""
    message = read(body, content_type, most_values=most_values)
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    return message


def read(body: bytes, content_type: str, *, most_values: int | None = None) -> Any:
    """The inner message as Python values; MSGPACK is read as msgpack, any other content type as JSON.

    Raises Unbuilt: the message is nested too deeply for a decoder, or has more than ``most_values`` values and keys (a value
    of one byte becomes an object of ninety). Raises Undecodable and Malformed.
    """
    try:
        if content_type == MSGPACK:
            if most_values is not None and packed_values_exceed(body, most_values):
                raise _too_many(most_values)
            return msgspec.msgpack.decode(body)
        return _read_json(body, most_values)
    except RecursionError:
        raise Unbuilt(f"nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:  # of both decoders, and of UTF-8
        raise Undecodable(f"undecodable: {error}") from None


def _too_many(most_values: int) -> Unbuilt:
    return Unbuilt(f"the message has more than {most_values} values")


def _read_json(body: bytes, most_values: int | None) -> Any:
    outer = _parse(body, most_values)
    if not isinstance(outer, dict) or "oslo.version" not in outer:
        return outer  # version 1: the message without an envelope
    if outer["oslo.version"] != "2.0":
        version = outer["oslo.version"]
        raise Malformed(f"envelope version {version if isinstance(version, str) else '?'} is not served")
    inner = outer.get("oslo.message")
    if not isinstance(inner, str):
        raise Malformed("oslo.message is not a text")
    return _parse(inner, most_values)


def _parse(text: bytes | str, most_values: int | None) -> Any:
    if most_values is not None and json_values_exceed(text, most_values):
        raise _too_many(most_values)
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # Stock clients write NaN and lone surrogates, which are not JSON. The standard library reads both, so that the caller
        # gets an error that names the field.
        return json.loads(text)
