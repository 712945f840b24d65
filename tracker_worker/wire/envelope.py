# SPDX-License-Identifier: Apache-2.0
"""Bytes <-> requests, replies and notifications, as stock oslo.messaging clients send and expect them.

Facts of the format were observed with oslo.messaging 18.3.1; the golden bytes in tests/wire hold them. Stock clients
speak JSON in an envelope whose inner message is a JSON text; our own client may send the same keys as msgpack, packed
once, and is answered in it.
"""

from __future__ import annotations

import bz2
import itertools
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeGuard

import msgspec

JSON = "application/json"
MSGPACK = "application/x-msgpack"
MAX_DEPTH = 100
_MAX_ID = 255
_MAX_QUOTED = 1000
# A caller may ask for heartbeats less often than that; it gets them so often.
_MAX_MONITOR_SECONDS = 3600
_CONTEXT = "_context_"
# Within the text of the message, whose quotes are escaped once; no value can look so, its quotes are escaped more.
_UNIQUE_ID = re.compile(rb'((?<!\\)\\"_unique_id\\":\\")[0-9a-f]{32}')
_OPEN = b'{"oslo.version":"2.0","oslo.message":'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_PROCESS = os.urandom(10).hex()
_numbers = itertools.count(1)

_to_json = msgspec.json.Encoder().encode
_to_msgpack = msgspec.msgpack.Encoder().encode


class Malformed(Exception):
    """The bytes are no request. ``reply_to`` is set when they are recognisably a call, which can then be told."""

    def __init__(self, reason: str, reply_to: ReplyTo | None = None) -> None:
        super().__init__(reason)
        self.reply_to = reply_to


def fresh_id() -> str:
    """A ``_unique_id`` that no other message has: 80 random bits of this process and a number, 32 hexadecimal digits."""
    return f"{_PROCESS}{next(_numbers):012x}"


class ReplyTo(msgspec.Struct, frozen=True, gc=False):
    """Where a call wants its reply, and in which format."""

    queue: str
    msg_id: str
    content_type: str = JSON


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One RPC. ``reply_to`` is None for a cast. ``monitor_seconds``: the caller wants a heartbeat at least that
    often."""

    method: str
    args: Mapping[str, Any]
    version: str
    namespace: str | None
    context: Mapping[str, Any]
    unique_id: str | None
    reply_to: ReplyTo | None
    monitor_seconds: int | None


def decode_request(
    body: bytes, *, content_type: str | None, compression: str | None = None, max_bytes: int = 1 << 20
) -> Request:
    """Raises Malformed: undecodable, no envelope or request, larger than ``max_bytes`` (packed or unpacked), nested
    deeper than 100 levels."""
    if compression:
        body = _decompress(body, compression, max_bytes)
    if content_type == MSGPACK:
        message = _read(_read_msgpack, body, max_bytes)
    elif content_type in (JSON, None, ""):
        message = _read(_read_json, body, max_bytes)
    else:
        raise Malformed(f"content type {content_type} is not served")
    content_type = content_type or JSON
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    reply_to = _reply_to(message, content_type)
    if len(body) > max_bytes:
        raise Malformed(f"the body has {len(body)} bytes; at most {max_bytes} are served", reply_to)
    # JSON has a bracket for each level, which the text in an envelope may spell \u005b: counting is cheap, and almost always
    # enough.
    brackets = body.count(b"{") + body.count(b"[") + body.count(b"\\u")
    deep = content_type == MSGPACK or brackets > MAX_DEPTH
    if deep and _too_deep(message):
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels", reply_to)
    return _request(message, reply_to)


def _read(reader: Callable[[bytes], Any], body: bytes, max_bytes: int) -> Any:
    try:
        return reader(body)
    except RecursionError:
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels", _scan_reply_to(body)) from None
    except (ValueError, UnicodeError, msgspec.DecodeError) as error:
        raise Malformed(f"undecodable: {error}") from None


def _read_json(body: bytes) -> Any:
    outer = _parse(body)
    if not isinstance(outer, dict) or "oslo.version" not in outer:
        return outer  # version 1: the bare message
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
        # Stock clients write NaN and lone surrogates, which JSON does not know; they deserve an error that names the
        # field.
        return json.loads(text)


def _read_msgpack(body: bytes) -> Any:
    return msgspec.msgpack.decode(body)


def _decompress(body: bytes, compression: str, max_bytes: int) -> bytes:
    try:
        if compression == "application/x-gzip":  # kombu calls zlib so
            return zlib.decompressobj().decompress(body, max_bytes + 1)
        if compression in ("application/x-bz2", "application/x-bzip2"):
            return bz2.BZ2Decompressor().decompress(body, max_bytes + 1)
    except (zlib.error, OSError, ValueError) as error:
        raise Malformed(f"undecodable: {error}") from None
    raise Malformed(f"compression {compression} is not served")


def _too_deep(message: dict[str, Any]) -> bool:
    level: list[Any] = [message]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            for value in item.values() if isinstance(item, dict) else item:
                if isinstance(value, dict | list):
                    below.append(value)
        if not below:
            return False
        level = below
    return True


def _reply_to(message: dict[str, Any], content_type: str) -> ReplyTo | None:
    msg_id, queue = message.get("_msg_id"), message.get("_reply_q")
    if msg_id is None:
        return None
    if not _is_id(msg_id) or not _is_id(queue):
        raise Malformed(f"_msg_id and _reply_q must both be 1 to {_MAX_ID} printable ASCII characters")
    return ReplyTo(queue, msg_id, content_type)


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MAX_ID and value.isascii() and value.isprintable()


def _scan_reply_to(body: bytes) -> ReplyTo | None:
    """A call that is nested too deeply to be parsed still wants to be told: find where."""
    text = body.replace(b"\\", b"")
    msg_id = re.search(rb'"_msg_id": ?"([0-9a-f-]{1,64})"', text)
    queue = re.search(rb'"_reply_q": ?"([ !#-~]{1,255})"', text)
    return ReplyTo(queue[1].decode(), msg_id[1].decode()) if msg_id and queue else None


def _request(message: dict[str, Any], reply_to: ReplyTo | None) -> Request:
    method = message.get("method")
    args = message.get("args")
    version = message.get("version")
    namespace = message.get("namespace")
    unique_id = message.get("_unique_id")
    monitor = message.get("_timeout")
    if not isinstance(method, str):
        raise Malformed("method is not a text", reply_to)
    if not isinstance(args or {}, dict):
        raise Malformed("args is not an object", reply_to)
    if not all(isinstance(key, str) for key in (*message, *(args or ()))):  # msgpack knows others
        raise Malformed("a key is not a text", reply_to)
    if unique_id is not None and not _is_id(unique_id):
        raise Malformed(f"_unique_id must be 1 to {_MAX_ID} printable ASCII characters", reply_to)
    return Request(
        method=method,
        args=args or {},
        version="1.0" if version is None else str(version),
        namespace=None if namespace is None else str(namespace),
        context={key[len(_CONTEXT) :]: value for key, value in message.items() if key.startswith(_CONTEXT)},
        unique_id=unique_id,
        reply_to=reply_to,
        monitor_seconds=min(monitor, _MAX_MONITOR_SECONDS) if type(monitor) is int and monitor >= 2 else None,
    )


# --- replies ---------------------------------------------------------------------------------------------------------


def failure(error: BaseException, *, module: str | None = None, args: tuple[Any, ...] = ()) -> dict[str, Any]:
    """An error as the client rebuilds it: ``class(*args, **kwargs)`` of ``module`` (default: the error's own)."""
    kind = type(error)
    return {
        "class": kind.__name__,
        "module": module or kind.__module__,
        "message": sendable(str(error)),
        "tb": [],
        "args": [_sendable_value(value) for value in args],
        "kwargs": {name: _sendable_value(value) for name, value in getattr(error, "kwargs", {}).items()},
    }


def sendable(text: str) -> str:
    """``text``, which may quote whatever was sent to us, as what JSON and an AMQP header can hold: no lone surrogates, and
    no longer than it takes to recognise it. A header that exceeds a frame costs the connection."""
    short = text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}..."
    return short if short.isascii() else short.encode("utf-8", "backslashreplace").decode()


def _sendable_value(value: Any) -> Any:
    return sendable(value) if isinstance(value, str) else value


def encode_answer(content_type: str, *, result: Any = None, failed: dict[str, Any] | None = None) -> bytes:
    """What a call is told, without the ids of one message: this is what the inbox keeps."""
    return _encoded(content_type, {"result": result, "failure": None if failed is None else _to_json(failed).decode()})


def _encoded(content_type: str, answer: dict[str, Any]) -> bytes:
    return _to_msgpack(answer) if content_type == MSGPACK else _to_json(answer)


def failure_reason(answer: bytes) -> str:
    """The ``reason`` of a failure that ``encode_answer`` made; '' where there is none."""
    failed = _decode_answer(answer)["failure"]
    return "" if failed is None else str(msgspec.json.decode(failed).get("reason", ""))


def encode_reply(answer: bytes, reply_to: ReplyTo) -> bytes:
    """The body of a reply with ``answer``; every call of this makes a message of its own.

    What was recorded for one message may be for a copy that wants it in the other format, or be nothing because the first
    was a cast: whoever reuses a ``_unique_id`` so gets an answer that it can read, and null for nothing.
    """
    packed = answer[:1] != b"{"
    if not answer or packed is not (reply_to.content_type == MSGPACK):
        answer = _encoded(reply_to.content_type, _decode_answer(answer))
    return _with_ids(answer, reply_to, ending=True)


def _decode_answer(answer: bytes) -> dict[str, Any]:
    if not answer:
        return {"result": None, "failure": None}
    decoded: dict[str, Any] = (msgspec.json if answer.startswith(b"{") else msgspec.msgpack).decode(answer)
    return decoded


def encode_heartbeat(reply_to: ReplyTo) -> bytes:
    """Tells a monitoring caller that its call is still being worked on."""
    return _with_ids(encode_answer(reply_to.content_type), reply_to, ending=False)


def _with_ids(answer: bytes, reply_to: ReplyTo, *, ending: bool) -> bytes:
    ids = {"ending": ending, "_msg_id": reply_to.msg_id, "_unique_id": fresh_id()}
    if reply_to.content_type == MSGPACK:
        # Both are maps of fewer than 16 entries: one header byte, 0x80 + entries, then the entries (msgpack spec,
        # fixmap).
        return bytes([answer[0] + len(ids)]) + answer[1:] + _to_msgpack(ids)[1:]
    return _OPEN + _to_json((answer[:-1] + b"," + _to_json(ids)[1:]).decode()) + b"}"


# --- notifications ---------------------------------------------------------------------------------------------------


def encode_notification(
    *, message_id: str, publisher_id: str, event_type: str, priority: str, payload: bytes, occurred_at: int
) -> bytes:
    """A version 2 notification. ``payload`` is JSON, ``occurred_at`` microseconds. Stable but for ``_unique_id``,
    which is fresh: a listener that sees one again within its last 16 messages never acknowledges it."""
    head = {
        "message_id": message_id,
        "publisher_id": publisher_id,
        "event_type": event_type,
        "priority": priority,
        "timestamp": _timestamp(occurred_at),
        "_unique_id": fresh_id(),
    }
    return _OPEN + _to_json((_to_json(head)[:-1] + b',"payload":' + payload + b"}").decode()) + b"}"


@lru_cache(maxsize=256)  # what is decided together has the same time
def _timestamp(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%S.%f")


def renewed(notification: bytes) -> bytes:
    """The same notification for another attempt or another queue: with a fresh ``_unique_id``."""
    return _UNIQUE_ID.sub(lambda found: found[1] + fresh_id().encode(), notification, count=1)


# --- the other side: what the in-memory client and listener, and our own client, need ---------------------------------


def encode_request(
    method: str,
    args: Mapping[str, Any],
    *,
    context: Mapping[str, Any],
    unique_id: str,
    version: str = "1.0",
    reply_to: ReplyTo | None = None,
    content_type: str = JSON,
) -> bytes:
    """A request as a stock client writes it, or the same keys in msgpack."""
    message: dict[str, Any] = {"method": method, "args": args, "version": version, "_unique_id": unique_id}
    message.update({_CONTEXT + key: value for key, value in context.items()})
    if reply_to is not None:
        message.update({"_msg_id": reply_to.msg_id, "_reply_q": reply_to.queue, "_timeout": None})
    if content_type == MSGPACK:
        return _to_msgpack(message)
    return _OPEN + _to_json(_to_json(message).decode()) + b"}"


def decode_message(body: bytes, content_type: str = JSON) -> dict[str, Any]:
    """The inner message of a reply or notification. Raises Malformed."""
    message = _read(_read_msgpack if content_type == MSGPACK else _read_json, body, len(body))
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    return message
