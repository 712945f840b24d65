# SPDX-License-Identifier: Apache-2.0
"""Bytes <-> requests."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from tracker_worker.wire.address import MAX_ID_CHARACTERS, find_ids, read_ids
from tracker_worker.wire.message import (
    CONTEXT,
    JSON,
    MAX_DEPTH,
    MSGPACK,
    Malformed,
    ReplyTo,
    Unbuilt,
    Undecodable,
    in_envelope,
    read,
    to_json,
)
from tracker_worker.wire.message import to_msgpack as _to_msgpack
from tracker_worker.wire.reply_queues import ANY_QUEUE, ReplyQueues

MAX_VALUES = 250_000
"""The most values and keys of a request: at most 25 MB once they are built."""
# A decompressed body that is larger than the limit is read for the address of its sender, up to this many times the limit.
_MOST_DECOMPRESSED = 4
# A caller that asks for heartbeats less often than this gets them this often.
_MAX_MONITOR_SECONDS = 3600


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One RPC. ``reply_to`` is None for a cast. ``monitor_seconds``: the caller wants a heartbeat at least that often."""

    method: str
    args: Mapping[str, Any]
    version: str
    namespace: str | None
    context: Mapping[str, Any]
    unique_id: str | None
    reply_to: ReplyTo | None
    monitor_seconds: int | None


def decode_request(
    body: bytes,
    *,
    content_type: str | None,
    compression: str | None = None,
    max_bytes: int = 1 << 20,
    reply_queues: ReplyQueues = ANY_QUEUE,
) -> Request:
    """The request in ``body``. Its reply goes to one of ``reply_queues``.

    Raises Malformed: the body is undecodable, is no envelope or request, is larger than ``max_bytes`` (packed or unpacked), is
    nested deeper than 100 levels, has more than MAX_VALUES values, or wants its reply in another queue. A body that is too
    large is not built: it is only read for the address of its sender.
    """
    if compression:
        body = _decompress(body, compression, max_bytes)
    content_type = content_type or JSON
    if content_type not in (JSON, MSGPACK):
        raise Malformed(f"content type {content_type} is not served")
    if len(body) > max_bytes:
        raise _too_large(body, content_type, max_bytes, reply_queues)
    packed = content_type == MSGPACK
    try:
        message = read(body, content_type, most_values=MAX_VALUES)
    except Unbuilt as error:
        ids = find_ids(body, packed=packed)
        raise Malformed(str(error), _reply_to(*ids, content_type, reply_queues)) from None
    except Undecodable as error:
        # Perhaps it is only one value of a call.
        ids = _readable_ids(body, packed=packed)
        raise Malformed(str(error), _reply_to(*ids, content_type, reply_queues)) from None
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    reply_to = _reply_to(message.get("_msg_id"), message.get("_reply_q"), content_type, reply_queues)
    # JSON has a bracket for each level, and the text in an envelope may spell a bracket as \u005b. Counting brackets is cheap
    # and nearly always enough.
    brackets = body.count(b"{") + body.count(b"[") + body.count(b"\\u")
    deep = packed or brackets > MAX_DEPTH
    if deep and _too_deep(message):
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels", reply_to)
    return _request(message, reply_to)


def _decompress(body: bytes, compression: Any, max_bytes: int) -> bytes:
    """The decompressed body, or the beginning of it that is just over ``_MOST_DECOMPRESSED`` times ``max_bytes``."""
    most = _MOST_DECOMPRESSED * max_bytes + 1
    try:
        if compression == "application/x-gzip":  # the name that kombu gives to zlib
            return zlib.decompressobj().decompress(body, most)
        if compression in ("application/x-bz2", "application/x-bzip2"):
            return bz2.BZ2Decompressor().decompress(body, most)
    except (zlib.error, OSError, ValueError) as error:
        raise Malformed(f"undecodable: {error}") from None
    name = compression if isinstance(compression, str) else type(compression).__name__
    raise Malformed(f"compression {name} is not served")


def _too_large(body: bytes, content_type: str, max_bytes: int, reply_queues: ReplyQueues) -> Malformed:
    msg_id, queue = find_ids(body, packed=content_type == MSGPACK)
    readable = _is_id(msg_id) and _is_id(queue)
    reply_to = _reply_to(msg_id, queue, content_type, reply_queues) if readable else None
    return Malformed(f"the body has {len(body)} bytes; at most {max_bytes} are served", reply_to, too_large=True)


def _readable_ids(body: bytes, *, packed: bool) -> tuple[Any, Any]:
    try:
        return read_ids(body, packed=packed)
    except (ValueError, RecursionError):
        return None, None


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


def _reply_to(msg_id: Any, queue: Any, content_type: str, reply_queues: ReplyQueues) -> ReplyTo | None:
    """None for a cast. Raises Malformed, without an address: the request is a call that cannot be answered."""
    if msg_id is None:
        return None
    for name, value in (("_msg_id", msg_id), ("_reply_q", queue)):
        if not _is_id(value):
            raise Malformed(f"{name}: must be 1 to {MAX_ID_CHARACTERS} printable ASCII characters")
    if not reply_queues.allows(queue):
        raise Malformed(f"_reply_q: {queue} is no queue of an RPC client")
    return ReplyTo(queue, msg_id, content_type)


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS and value.isascii() and value.isprintable()


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
    if not {*map(type, message), *map(type, args or ())} <= {str}:  # msgpack allows other keys
        raise Malformed("a key is not a text", reply_to)
    if unique_id is not None and not _is_id(unique_id):
        raise Malformed(f"_unique_id must be 1 to {MAX_ID_CHARACTERS} printable ASCII characters", reply_to)
    return Request(
        method=method,
        args=args or {},
        version="1.0" if version is None else str(version),
        namespace=None if namespace is None else str(namespace),
        context={key[len(CONTEXT) :]: value for key, value in message.items() if key.startswith(CONTEXT)},
        unique_id=unique_id,
        reply_to=reply_to,
        monitor_seconds=min(monitor, _MAX_MONITOR_SECONDS) if type(monitor) is int and monitor >= 2 else None,
    )


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
    """A request as a stock client writes it, or the same keys as msgpack."""
    message: dict[str, Any] = {"method": method, "args": args, "version": version, "_unique_id": unique_id}
    message.update({CONTEXT + key: value for key, value in context.items()})
    if reply_to is not None:
        message.update({"_msg_id": reply_to.msg_id, "_reply_q": reply_to.queue, "_timeout": None})
    return _to_msgpack(message) if content_type == MSGPACK else in_envelope(to_json(message))
