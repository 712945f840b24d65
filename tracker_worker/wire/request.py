# SPDX-License-Identifier: Apache-2.0
"""Bytes <-> requests."""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from tracker_worker.wire.message import (
    CONTEXT,
    JSON,
    MAX_DEPTH,
    MSGPACK,
    Malformed,
    ReplyTo,
    in_envelope,
    read,
    to_json,
)
from tracker_worker.wire.message import to_msgpack as _to_msgpack

_MAX_ID_CHARACTERS = 255
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
    body: bytes, *, content_type: str | None, compression: str | None = None, max_bytes: int = 1 << 20
) -> Request:
    """The request in ``body``.

    Raises Malformed: the body is undecodable, is no envelope or request, is larger than ``max_bytes`` (packed or unpacked),
    or is nested deeper than 100 levels.
    """
    if compression:
        body = _decompress(body, compression, max_bytes)
    content_type = content_type or JSON
    if content_type not in (JSON, MSGPACK):
        raise Malformed(f"content type {content_type} is not served")
    message = read(body, content_type)
    if not isinstance(message, dict):
        raise Malformed("the message is not an object")
    reply_to = _reply_to(message, content_type)
    if len(body) > max_bytes:
        raise Malformed(f"the body has {len(body)} bytes; at most {max_bytes} are served", reply_to)
    # JSON has a bracket for each level, and the text in an envelope may spell a bracket as \u005b. Counting brackets is cheap
    # and nearly always enough.
    brackets = body.count(b"{") + body.count(b"[") + body.count(b"\\u")
    deep = content_type == MSGPACK or brackets > MAX_DEPTH
    if deep and _too_deep(message):
        raise Malformed(f"nested deeper than {MAX_DEPTH} levels", reply_to)
    return _request(message, reply_to)


def _decompress(body: bytes, compression: str, max_bytes: int) -> bytes:
    try:
        if compression == "application/x-gzip":  # the name that kombu gives to zlib
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
        raise Malformed(f"_msg_id and _reply_q must both be 1 to {_MAX_ID_CHARACTERS} printable ASCII characters")
    return ReplyTo(queue, msg_id, content_type)


def _is_id(value: Any) -> TypeGuard[str]:
    return isinstance(value, str) and 0 < len(value) <= _MAX_ID_CHARACTERS and value.isascii() and value.isprintable()


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
    if not all(isinstance(key, str) for key in (*message, *(args or ()))):  # msgpack allows other keys
        raise Malformed("a key is not a text", reply_to)
    if unique_id is not None and not _is_id(unique_id):
        raise Malformed(f"_unique_id must be 1 to {_MAX_ID_CHARACTERS} printable ASCII characters", reply_to)
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
