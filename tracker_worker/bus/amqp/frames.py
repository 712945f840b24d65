# SPDX-License-Identifier: Apache-2.0
"""basic.publish -> AMQP frames, and AMQP frames -> basic.deliver: the two methods that a worker needs for every request.

py-amqp works field by field, takes about three times as long, and would decode all headers of a message. Every other method is
left to py-amqp. Frame layout: AMQP 0-9-1 specification, section 4.2.3; content header: 4.2.6.1; the methods: its class
reference, 1.8.3.7 and 1.8.3.9.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from amqp.exceptions import FrameSyntaxError

from tracker_worker.bus.amqp.internals import Content, decode_content

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
    """One basic.deliver with its content. ``header_bytes`` is the length of its encoded properties, ``frames`` the number of
    frames, ``end`` the position behind the last one."""

    consumer_tag: str
    tag: int
    exchange: str
    routing_key: str
    content: Content
    body: bytes
    header_bytes: int
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
    found = _delivered(data[method[0] : method[1] - 1], data[properties : header[1] - 1], parts)
    return found._replace(frames=2 + len(parts), end=position)


class Pieces:
    """Puts together the deliveries of one channel whose frames arrive one by one. ``size`` is the number of bytes of the
    delivery that is not complete, 0 between two deliveries."""

    def __init__(self, arrived: Callable[[Delivered], None]) -> None:
        self.size = 0
        self._arrived = arrived
        self._method: bytes | None = None
        self._header: bytes | None = None
        self._left = 0
        self._parts: list[bytes] = []

    def take(self, kind: int, payload: bytes) -> bool:
        """Take a frame if it belongs to a delivery, and report the delivery if it was the last one. Returns whether it did.

        Raises FrameSyntaxError: another frame has to come now, or the frame is malformed.
        """
        if self._method is None:
            if kind != _METHOD or payload[:4] != _DELIVER:
                return False
            self._method = payload
            self.size = len(payload)
            return True
        if self._header is None:
            if kind != _HEADER or len(payload) < _CONTENT.size:
                raise FrameSyntaxError("a delivery without a content header")
            self._header = payload[_CONTENT.size :]
            _, _, self._left = _CONTENT.unpack_from(payload)
        elif kind != _BODY:
            raise FrameSyntaxError("a delivery whose body is not complete")
        else:
            self._parts.append(payload)
            self._left -= len(payload)
        self.size += len(payload)
        if self._left <= 0:
            method, header, parts = self._method, self._header, self._parts
            self.forget()
            found = _delivered(method, header, parts)
            self._arrived(found._replace(frames=2 + len(parts)))
        return True

    def forget(self) -> None:
        """The channel is lost, and the rest of the delivery does not come."""
        self.size = self._left = 0
        self._method = self._header = None
        self._parts = []


def _delivered(method: bytes, properties: bytes, parts: list[bytes]) -> Delivered:
    """The delivery whose basic.deliver has the payload ``method``. Names that are not UTF-8 are made readable; py-amqp would
    raise for them. Raises FrameSyntaxError: the method is malformed, so that its tag is not known."""
    try:
        consumer_tag, at = _read_short(method, len(_DELIVER))
        tag, _ = _TAG.unpack_from(method, at)
        exchange, at = _read_short(method, at + _TAG.size)
        routing_key, _ = _read_short(method, at)
    except (struct.error, IndexError):
        raise FrameSyntaxError("a malformed basic.deliver") from None
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    content = _usual_content(properties) if len(properties) <= _MOST_KEPT_BYTES else decode_content(properties)
    return Delivered(consumer_tag, tag, exchange, routing_key, content, body, len(properties))


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


_usual_content = lru_cache(maxsize=256)(decode_content)
