# SPDX-License-Identifier: Apache-2.0
"""basic.publish -> AMQP frames, and AMQP frames -> basic.deliver: the two methods that a worker needs for every request.

py-amqp works field by field and takes about three times as long. Every other method is left to py-amqp, and so is a delivery
that has not arrived whole. Frame layout: AMQP 0-9-1 specification, section 4.2.3; content header: 4.2.6.1; the methods: its
class reference, 1.8.3.7 and 1.8.3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from tracker_worker.bus.amqp.internals import decode_properties

_FRAME = struct.Struct(">BHI")  # type, channel, size
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size
_END = b"\xce"
_OVERHEAD = _FRAME.size + len(_END)
_METHOD, _HEADER, _BODY = 1, 2, 3
_BASIC = 60
_DELIVER = struct.pack(">HH", _BASIC, 60)
_TAG = struct.Struct(">Q?")  # delivery tag, redelivered
# Longer properties are not cached: they are not those of a client's usual request.
_MOST_KEPT_BYTES = 512
_PUBLISH = struct.pack(">HHH", _BASIC, 40, 0)


def publish(
    channel: int,
    exchange: str,
    routing_key: str,
    properties: bytes,
    body: bytes,
    *,
    mandatory: bool = True,
    frame_max: int,
    fitted: Callable[[int], bytes] | None = None,
) -> bytes:
    """The frames of one message. ``frame_max`` is the connection's, in bytes; names have at most 255 bytes. ``fitted`` makes
    properties of at most so many bytes; it is called if ``properties`` do not fit into their frame.

    Raises ValueError: a name or the properties are too long, or a name is not UTF-8.
    """
    room = frame_max - _OVERHEAD - _CONTENT.size
    if len(properties) > room:
        properties = properties if fitted is None else fitted(room)
        if len(properties) > room:
            raise ValueError(f"its properties of {len(properties)} bytes do not fit into a frame of {frame_max} bytes")
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


@lru_cache(maxsize=1024)  # a worker publishes to the same few queues
def _method(channel: int, exchange: str, routing_key: str, mandatory: bool) -> bytes:
    method = _PUBLISH + _short(exchange) + _short(routing_key) + bytes([mandatory])
    return _FRAME.pack(_METHOD, channel, len(method)) + method + _END


def _short(text: str) -> bytes:
    encoded = text.encode()
    if len(encoded) > 255:
        raise ValueError(f"a name of {len(encoded)} bytes: AMQP's have at most 255")
    return bytes([len(encoded)]) + encoded


class Delivered(NamedTuple):
    """One basic.deliver with its content.

    ``properties`` have py-amqp's names and types, and are shared with other deliveries: nobody may change them. ``frames`` is
    the number of frames, ``end`` the position behind the last one.
    """

    consumer_tag: str
    tag: int
    exchange: str
    routing_key: str
    properties: Mapping[str, Any]
    body: bytes
    frames: int = 0
    end: int = 0


def read_delivery(data: bytes, start: int, channel: int) -> Delivered | None:
    """The delivery on ``channel`` whose first frame begins at ``start``.

    None: another frame begins there, the delivery has not arrived whole, or a frame is malformed.
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
    """The delivery whose basic.deliver has the payload ``method``. Names that are not UTF-8 are made readable; py-amqp would
    raise for them."""
    consumer_tag, at = _read_short(method, len(_DELIVER))
    tag, _ = _TAG.unpack_from(method, at)
    exchange, at = _read_short(method, at + _TAG.size)
    routing_key, _ = _read_short(method, at)
    return Delivered(consumer_tag, tag, exchange, routing_key, properties, body)


def _payload(data: bytes, start: int, kind: int, channel: int) -> tuple[int, int] | None:
    """The position of a frame's payload and that behind the frame; None: no whole frame of this kind begins at ``start``."""
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
    return _usual_properties(encoded) if len(encoded) <= _MOST_KEPT_BYTES else decode_properties(encoded)


_usual_properties = lru_cache(maxsize=256)(decode_properties)
