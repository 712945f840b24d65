# SPDX-License-Identifier: Apache-2.0
"""basic.publish in AMQP frames.

py-amqp makes them field by field, in about ten times as long, and a worker publishes two messages for each request. Frame
layout: AMQP 0-9-1 specification, section 4.2.3; basic.publish: its class reference, 1.8.3.7.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import amqp

_FRAME = struct.Struct(">BHI")  # type, channel, size
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size
_END = b"\xce"
_OVERHEAD = _FRAME.size + len(_END)
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC = 60
_PUBLISH = struct.pack(">HHH", _BASIC, 40, 0)


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Names and types as py-amqp has them. Raises FrameSyntaxError: a value that AMQP does not know."""
    encoded: bytes = amqp.Message(b"", **properties)._serialize_properties()
    return encoded


def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    *,
    mandatory: bool = True,
    frame_max: int,
) -> bytes:
    """The frames of one message. ``frame_max`` is the connection's, in bytes; names have at most 255 bytes."""
    header = _CONTENT.pack(_BASIC, 0, len(body)) + properties
    frames = [
        _method(channel, exchange, routing_key, mandatory),
        _FRAME.pack(_HEADER, channel, len(header)),
        header,
        _END,
    ]
    most = frame_max - _OVERHEAD
    for start in range(0, len(body), most):
        part = body[start : start + most]
        frames += (_FRAME.pack(_BODY, channel, len(part)), part, _END)
    return b"".join(frames)


@lru_cache(maxsize=1024)  # the same few queues again and again
def _method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    method = _PUBLISH + _short(exchange) + _short(routing_key) + bytes([mandatory])
    return _FRAME.pack(_METHOD, channel, len(method)) + method + _END


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded
