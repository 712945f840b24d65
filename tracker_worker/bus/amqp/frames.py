# SPDX-License-Identifier: Apache-2.0
"""basic.publish into AMQP frames, basic.deliver out of them: what a worker does for every request.

py-amqp does it field by field, in several times as long. Whatever else there is on a connection is left to it, and so is a
delivery that has not arrived whole. Frame layout: AMQP 0-9-1 specification, section 4.2.3; content header: 4.2.6.1; the
methods: its class reference, 1.8.3.7 and 1.8.3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import amqp
from amqp import serialization

_FRAME = struct.Struct(">BHI")  # type, channel, size
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size
_END = b"\xce"
_OVERHEAD = _FRAME.size + len(_END)
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC = 60
_DELIVER = struct.pack(">HH", _BASIC, 60)
_TAG = struct.Struct(">Q?")  # delivery tag, redelivered
# Properties of more bytes than this are not kept for the next message: they are not those of a client's usual request.
_MOST_KEPT = 512
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


class Delivered(NamedTuple):
    """One basic.deliver with its content. ``properties`` as py-amqp names and types them, shared with other deliveries.
    ``frames``: how many they were, ``end``: where the last one ended."""

    consumer_tag: str
    tag: int
    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    body: bytes
    frames: int = 0
    end: int = 0


def read_delivery(data: bytes, start: int, channel: int) -> Delivered | None:
    """The delivery on ``channel`` whose first frame begins at ``start``, and where its last one ends.

    None: something else begins there, not all of it has arrived, or it is not as it should be.
    """
    method = _payload(data, start, _METHOD, channel)
    if method is None or data[method[0] : method[0] + 4] != _DELIVER:
        return None
    header = _payload(data, method[1], _HEADER, channel)
    if header is None:
        return None
    properties = header[0] + _CONTENT.size
    if properties >= header[1]:
        return None
    _, _, size = _CONTENT.unpack_from(data, header[0])
    position, left, parts = header[1], size, []
    while left > 0:
        part = _payload(data, position, _BODY, channel)
        if part is None:
            return None
        parts.append(data[part[0] : part[1] - 1])
        left -= len(parts[-1])
        position = part[1]
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    found = delivered(data[method[0] : method[1] - 1], _properties(data[properties : header[1] - 1]), body)
    return found._replace(frames=2 + len(parts), end=position)


def delivered(method: bytes, properties: Mapping[str, Any], body: bytes) -> Delivered:
    """What the payload of a basic.deliver says, with its content. Names that are not UTF-8, which only py-amqp minds, are
    made readable."""
    consumer_tag, at = _read_short(method, len(_DELIVER))
    tag, _ = _TAG.unpack_from(method, at)
    exchange, at = _read_short(method, at + _TAG.size)
    routing_key, _ = _read_short(method, at)
    return Delivered(consumer_tag, tag, exchange, routing_key, properties, body)


def _payload(data: bytes, start: int, kind: int, channel: int) -> tuple[int, int] | None:
    """Where the payload of a frame of this kind begins, and where the frame ends."""
    begin = start + _FRAME.size
    if begin > len(data):
        return None
    found, number, size = _FRAME.unpack_from(data, start)
    end: int = begin + size
    if found != kind or number != channel or data[end : end + 1] != _END:
        return None
    return begin, end + 1


def _read_short(data: bytes, at: int) -> tuple[str, int]:
    end = at + 1 + data[at]
    return data[at + 1 : end].decode(errors="replace"), end


def _properties(encoded: bytes) -> Mapping[str, Any]:
    return _usual_properties(encoded) if len(encoded) <= _MOST_KEPT else _decode_properties(encoded)


def _decode_properties(encoded: bytes) -> Mapping[str, Any]:
    decoded: dict[str, Any] = serialization.PROPERTY_CLASSES[_BASIC](encoded, 0)[0]
    return decoded


_usual_properties = lru_cache(maxsize=256)(_decode_properties)
