# SPDX-License-Identifier: Apache-2.0
"""Every inner name of py-amqp that the bus uses, in one place. A test says which of them a new release has changed.

The names were read in py-amqp 5.4, and setup.cfg pins that minor version. The measurements that justify them are in
doc/contributor/performance.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping
from typing import Any

import amqp
from amqp import serialization, spec
from amqp.transport import SSLTransport, TCPTransport

UNREADABLE = "application/x-unreadable-properties"
"""The content type of a message whose properties cannot be read; it is one that no worker serves, so the message is parked."""

NAMES = (
    (amqp.Message, "_serialize_properties"),
    (serialization, "PROPERTY_CLASSES"),
    (amqp.Connection, "on_inbound_frame"),
    (amqp.Connection(), "bytes_recv"),
    (amqp.Channel, "dispatch_method"),
    (TCPTransport, "_setup_transport"),  # sets _quick_recv and _write
    (SSLTransport, "_setup_transport"),
)
"""Where the names are found: an owner, and the attribute that this module depends on."""

_HEADER_FRAME = 2
_PROPERTIES_AT = 12  # behind class, weight and body size
_UNREADABLE_ERRORS = (
    ValueError,  # UnicodeDecodeError too
    ArithmeticError,
    LookupError,
    OSError,  # a date that the platform cannot count to
    RecursionError,
    TypeError,
    struct.error,
    amqp.exceptions.FrameSyntaxError,
)


def encode_properties(properties: Mapping[str, Any]) -> bytes:
    """Properties in the wire format, with py-amqp's names and types. Raises FrameSyntaxError: a value that AMQP does not
    know."""
    encoded: bytes = amqp.Message(b"", **properties)._serialize_properties()
    return encoded


def decode_properties(encoded: bytes, offset: int = 0) -> dict[str, Any]:
    """Properties from the wire format, with py-amqp's names and types; ``{"content_type": UNREADABLE}`` where they cannot
    be read.

    py-amqp raises in the middle of a read for a property that is not UTF-8, a date after the year 9999, or a header of many
    levels. Such a message would end this worker, and the next one that it is delivered to.
    """
    try:
        decoded: dict[str, Any] = serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID](encoded, offset)[0]
        return decoded
    except _UNREADABLE_ERRORS:
        return {"content_type": UNREADABLE}


def tolerate_unreadable_properties(connection: Any) -> None:
    """Have this connection, which is connected, and no other read messages whose properties are unreadable.

    A content header whose properties cannot be read is replaced by one with UNREADABLE before the library sees it.
    """
    library = connection.on_inbound_frame

    def on_frame(frame: tuple[int, int, bytes]) -> Any:
        kind, channel, payload = frame
        if kind == _HEADER_FRAME:
            properties = decode_properties(payload, _PROPERTIES_AT)
            if properties.get("content_type") == UNREADABLE:
                payload = bytes(payload[:_PROPERTIES_AT]) + encode_properties(properties)
        return library((kind, channel, payload))

    connection.on_inbound_frame = on_frame


def replace_socket_calls(transport: Any, *, read: Callable[[int], bytes], write: Callable[[bytes], Any]) -> None:
    """Have the connected transport read with ``read(size)`` and write with ``write(data)`` instead of with its socket."""
    transport._quick_recv = read
    transport._write = write


def take_deliveries(channel: Any, deliver: Callable[[bytes, Any], None]) -> None:
    """Hand the payload and the content of each basic.deliver on the channel to ``deliver``; the library does the rest."""
    library = channel.dispatch_method

    def dispatch(method: tuple[int, int], payload: bytes, content: Any) -> None:
        if method == spec.Basic.Deliver:
            deliver(payload, content)
        else:
            library(method, payload, content)

    channel.dispatch_method = dispatch


def abandon_socket(connection: Any) -> None:
    """Close this process's copy of the connection's socket without a word to the broker. In a forked child: py-amqp, at the
    latest when it is collected, would shut the connection down that the parent goes on using."""
    transport = connection.transport
    if transport is not None and transport.sock is not None:
        sock, transport.sock = transport.sock, None
        os.close(sock.detach())
