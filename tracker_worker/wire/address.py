# SPDX-License-Identifier: Apache-2.0
"""Where a call whose message is not built wants its error reply.

A message that is larger than the worker serves, or that would cost too much memory once it is built, is skipped over for the
two keys that its error reply needs: ``_msg_id`` and ``_reply_q``. Nothing else of it is built.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

MAX_ID_CHARACTERS = 255
"""The most characters of ``_msg_id``, ``_reply_q`` and ``_unique_id``."""

_NOTHING = msgspec.Raw(b"")
_MOST_ID_BYTES = MAX_ID_CHARACTERS * len("\\u0041") + len('""')
# The text inside of an envelope is read in pieces of this size, so that it is never held as a Python text: that takes four
# bytes for every character if one of them needs four.
_PIECE_BYTES = 65536
_LONGEST_ESCAPE_BYTES = len("\\ud83d\\ude00")  # one character
_MOST_PLACES = 100
# What follows a key in JSON, or in JSON that is the text of a JSON string.
_QUOTED_ID = re.compile(rb'\\{0,3}" ?: ?\\{0,3}"([ !#-\[\]-~]{1,255})\\{0,3}"')
_PACKED_ID = re.compile(rb"[\xa1-\xbf]|\xd9[\x01-\xff]")  # msgpack specification: fixstr, str 8


class _Skeleton(
    msgspec.Struct,
    rename={"version": "oslo.version", "message": "oslo.message", "msg_id": "_msg_id", "reply_q": "_reply_q"},
):
    """The keys that are read, as parts of the message's own bytes; the decoder skips every other value."""

    version: msgspec.Raw = _NOTHING
    message: msgspec.Raw = _NOTHING
    msg_id: msgspec.Raw = _NOTHING
    reply_q: msgspec.Raw = _NOTHING


_json_skeleton = msgspec.json.Decoder(_Skeleton).decode
_read_text = msgspec.json.Decoder(str).decode
_msgpack_skeleton = msgspec.msgpack.Decoder(_Skeleton).decode


def read_ids(body: bytes, *, packed: bool) -> tuple[Any, Any]:
    """``_msg_id`` and ``_reply_q`` as the message has them, None for one that is missing. ``packed``: the message is msgpack.

    Beyond ``body`` this needs nothing but, for an envelope, as much memory as the text in it. Raises ValueError,
    RecursionError: no decoder can read the message.
    """
    if packed:
        return _values(_msgpack_skeleton(body), msgspec.msgpack.decode)
    skeleton = _json_skeleton(body)
    if len(skeleton.version):
        if bytes(skeleton.version) != b'"2.0"' or bytes(memoryview(skeleton.message)[:1]) != b'"':
            return None, None
        skeleton = _json_skeleton(_unescaped(memoryview(skeleton.message)[1:-1]))
    return _values(skeleton, msgspec.json.decode)


def find_ids(body: bytes, *, packed: bool) -> tuple[Any, Any]:
    """The same, also for a message that no decoder can read because it is nested too deeply, is cut off, or has numbers that
    only Python writes: then the last places that look like the two keys count."""
    try:
        return read_ids(body, packed=packed)
    except (ValueError, RecursionError):
        look = _packed_id if packed else _quoted_id
        return look(body, b"_msg_id"), look(body, b"_reply_q")


def _values(skeleton: _Skeleton, decode: Callable[[msgspec.Raw], Any]) -> tuple[Any, Any]:
    ids: list[Any] = []
    for raw in (skeleton.msg_id, skeleton.reply_q):
        if len(raw) > _MOST_ID_BYTES:
            ids.append("")  # too long to be an id, and not worth building
        else:
            ids.append(decode(raw) if len(raw) else None)
    return ids[0], ids[1]


def _unescaped(text: memoryview) -> memoryview:
    """What stands between the quotes of a JSON string, as UTF-8. Raises msgspec.DecodeError."""
    plain = bytearray(len(text))  # never longer; growing step by step would leave holes in the heap
    start = size = 0
    while start < len(text):
        piece, start = _piece(text, start)
        plain[size : size + len(piece)] = piece
        size += len(piece)
    return memoryview(plain)[:size]


def _piece(text: memoryview, start: int) -> tuple[bytes, int]:
    """The next piece of ``text``, unescaped, and where it ends. Raises msgspec.DecodeError."""
    longest = min(start + _PIECE_BYTES, len(text))
    shortest = longest if longest == len(text) else longest - _LONGEST_ESCAPE_BYTES
    for end in range(longest, shortest, -1):
        # A piece that ends inside of an escape or of a character is no JSON string: it has to end a little earlier.
        with suppress(msgspec.DecodeError):
            return _read_text(b"".join((b'"', text[start:end], b'"'))).encode(), end
    return _read_text(b"".join((b'"', text[start:shortest], b'"'))).encode(), shortest


def _quoted_id(body: bytes, key: bytes) -> str | None:
    place = len(body)
    for _ in range(_MOST_PLACES):
        place = body.rfind(b'"' + key, 0, place)
        if place < 0:
            return None
        found = _QUOTED_ID.match(body, place + 1 + len(key))
        if found is not None:
            return found[1].decode()
    return None


def _packed_id(body: bytes, key: bytes) -> str | None:
    place = body.rfind(bytes([0xA0 + len(key)]) + key)
    found = None if place < 0 else _PACKED_ID.match(body, place + 1 + len(key))
    if found is None:
        return None
    head = found[0]
    size = head[1] if len(head) == 2 else head[0] - 0xA0
    return body[found.end() : found.end() + size].decode("utf-8", "replace")
