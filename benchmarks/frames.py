# SPDX-License-Identifier: Apache-2.0
"""AMQP 0-9-1 frames, as few of them as a load generator needs: whole publishes made in advance, bodies picked out.

A client library costs about as much per call as the server that is to be measured; on two cores that would be measured
with it. Frame layout: AMQP 0-9-1 specification, section 4.2.3; basic.publish: section 1.8.3.7 of its class reference.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import amqp

_HEADER = struct.Struct(">BHI")  # type, channel, size
_CONTENT = struct.Struct(">HHQ")  # class, weight, body size
_END = b"\xce"
_METHOD, _CONTENT_HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_PUBLISH = struct.pack(">HHH", 60, 40, 0)
_DELIVER = struct.pack(">HH", 60, 60)
_MANDATORY = b"\x01"


def publish(channel: int, exchange: str, routing_key: str, message: amqp.Message) -> bytes:
    """The three frames of a mandatory basic.publish. The body must fit into one frame (RabbitMQ: 128 KiB)."""
    body = message.body if isinstance(message.body, bytes) else message.body.encode()
    method = _PUBLISH + _short(exchange) + _short(routing_key) + _MANDATORY
    header = _CONTENT.pack(60, 0, len(body)) + message._serialize_properties()
    return b"".join(
        _HEADER.pack(kind, channel, len(payload)) + payload + _END
        for kind, payload in ((_METHOD, method), (_CONTENT_HEADER, header), (_BODY, body))
    )


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def bodies(buffer: bytearray) -> Iterator[bytearray]:
    """The bodies of the deliveries that are complete in ``buffer``, which is left with the rest.

    Raises RuntimeError: the broker returned a message, or closed the channel or the connection.
    """
    position, end = 0, len(buffer)
    while end - position >= _HEADER.size:
        kind, _channel, size = _HEADER.unpack_from(buffer, position)
        start = position + _HEADER.size
        if end - start <= size:
            break
        if kind == _BODY:
            yield buffer[start : start + size]
        elif kind == _METHOD and buffer[start : start + 4] != _DELIVER:
            raise RuntimeError(f"the broker says {bytes(buffer[start : start + size])!r}")
        position = start + size + 1
    del buffer[:position]
