# SPDX-License-Identifier: Apache-2.0
"""AMQP 0-9-1 in bytes, as the broker reads and writes it. Formats are those of ``amqp.serialization``."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any

from amqp.serialization import dumps, loads

FRAME_MAX = 131072
METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
END = b"\xce"
FRAME = struct.Struct(">BHI")
CONTENT = struct.Struct(">HHQ")
PUBLISH = struct.pack(">HH", 60, 40)
ACK = struct.pack(">HH", 60, 80)
CHANNEL_CLOSE_OK = struct.pack(">HH", 20, 41)
SETTLED = struct.Struct(">QB")
_NUMBER = struct.Struct(">HH")
_DELIVER = _NUMBER.pack(60, 60)


def method(channel: int, number: tuple[int, int], format: str, arguments: tuple[Any, ...]) -> bytes:
    """The frame of a method without content."""
    payload = _NUMBER.pack(*number) + (dumps(format, arguments) if format else b"")
    return FRAME.pack(METHOD, channel, len(payload)) + payload + END


def acknowledged(channel: int, number: int, *, multiple: bool) -> bytes:
    payload = ACK + SETTLED.pack(number, multiple)
    return FRAME.pack(METHOD, channel, len(payload)) + payload + END


def delivery(
    channel: int, consumer: str, tag: int, redelivered: bool, exchange: str, key: str, properties: bytes, body: bytes
) -> bytes:
    head = _DELIVER + _short(consumer) + SETTLED.pack(tag, redelivered) + _short(exchange) + _short(key)
    return content(channel, head, properties, body)


def content(channel: int, head: bytes, properties: bytes, body: bytes) -> bytes:
    """The frames of a method with content."""
    header = CONTENT.pack(60, 0, len(body)) + properties
    frames = [FRAME.pack(METHOD, channel, len(head)), head, END, FRAME.pack(HEADER, channel, len(header)), header, END]
    most = FRAME_MAX - 8
    for start in range(0, len(body), most):
        part = body[start : start + most]
        frames += (FRAME.pack(BODY, channel, len(part)), part, END)
    return b"".join(frames)


def head(number: tuple[int, int], format: str, arguments: tuple[Any, ...]) -> bytes:
    """The payload of a method with content."""
    return _NUMBER.pack(*number) + dumps(format, arguments)


@lru_cache(maxsize=4096)
def published(payload: bytes) -> tuple[str, str, bool]:
    """The exchange, the routing key and ``mandatory`` of a basic.publish."""
    (_, exchange, key, mandatory, _), _ = loads("Bssbb", payload, 4)
    return exchange, key, mandatory


@lru_cache(maxsize=4096)
def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
