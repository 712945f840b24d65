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
import re
from collections.abc import Callable
from typing import Any

import msgspec

from tracker_worker import threads

JSON = "application/json"
MSGPACK = "application/x-msgpack"
MAX_DEPTH = 100
"""Deepest nesting of a message that is served."""
CONTEXT = "_context_"
"""Prefix of the keys that carry the request context."""
ENVELOPE = b'{"oslo.version":"2.0","oslo.message":'
"""How an envelope begins; the inner message as a JSON text and a closing brace follow."""

_MAX_QUOTED_CHARACTERS = 1000

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
    reply."""

    def __init__(self, reason: str, reply_to: ReplyTo | None = None) -> None:
        super().__init__(reason)
        self.reply_to = reply_to


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


def sendable(text: str) -> str:
    """``text``, which may quote anything that a caller sent, as text that JSON and an AMQP header can hold.

    Lone surrogates are escaped, and the text is cut after 1000 characters: a header that exceeds a frame costs the connection.
    """
    short = text if len(text) <= _MAX_QUOTED_CHARACTERS else f"{text[:_MAX_QUOTED_CHARACTERS]}..."
    return short if short.isascii() else short.encode("utf-8", "backslashreplace").decode()


def decode_message(body: bytes, content_type: str = JSON) -> dict[str, Any]:
    """The inner message of a reply or notification. Raises Malformed."""
    message = read(body, content_type)
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    return message


def read(body: bytes, content_type: str) -> Any:
    """The inner message as Python values; MSGPACK is read as msgpack, any other content type as JSON. Raises Malformed."""
    reader: Callable[[bytes], Any] = msgspec.msgpack.decode if content_type == MSGPACK else _read_json
    try:
        return reader(body)
    except RecursionError:
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels", _scan_reply_to(body)) from None
    except (ValueError, UnicodeError, msgspec.DecodeError) as error:
        raise Malformed(f"undecodable: {error}") from None


def _read_json(body: bytes) -> Any:
    outer = _parse(body)
    if not isinstance(outer, dict) or "oslo.version" not in outer:
        return outer  # version 1: the message without an envelope
    if outer["oslo.version"] != "2.0":
        raise Malformed(f"envelope version {outer['oslo.version']!r} is not served")
    inner = outer.get("oslo.message")
    if not isinstance(inner, str):
        raise Malformed("oslo.message is not a text")
    return _parse(inner)


def _parse(text: bytes | str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        # Stock clients write NaN and lone surrogates, which are not JSON. The standard library reads both, so that the caller
        # gets an error that names the field.
        return json.loads(text)


def _scan_reply_to(body: bytes) -> ReplyTo | None:
    """Where a call that is nested too deeply to be parsed wants its error reply."""
    text = body.replace(b"\\", b"")
    msg_id = re.search(rb'"_msg_id": ?"([0-9a-f-]{1,64})"', text)
    queue = re.search(rb'"_reply_q": ?"([ !#-~]{1,255})"', text)
    return ReplyTo(queue[1].decode(), msg_id[1].decode()) if msg_id and queue else None
