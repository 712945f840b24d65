# SPDX-License-Identifier: Apache-2.0
"""Every inner name of py-amqp that the bus uses, in one place. A test says which of them a new release has changed.

The names were read in py-amqp 5.4, and setup.cfg pins that minor version. The measurements that justify them are in
doc/contributor/performance.md.
"""

from __future__ import annotations

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
    (amqp.Connection, "Channel"),
    (amqp.Connection, "Transport"),
    (amqp.Connection, "negotiate_capabilities"),
    (amqp.Connection(), "_callbacks"),
    (amqp.Connection(), "_pending"),
    (amqp.Channel, "collect"),
    (amqp.Channel, "dispatch_method"),
    (TCPTransport, "_setup_transport"),  # sets _quick_recv and _write
    (SSLTransport, "_setup_transport"),
)
"""Where the names are found: an owner, and the attribute that this module depends on."""

_METHOD_FRAME, _HEADER_FRAME = 1, 2
_BLOCKED = "connection.blocked"
_BLOCKED_METHOD = struct.pack(">HH", *spec.Connection.Blocked)
_UNBLOCKED_METHOD = struct.pack(">HH", *spec.Connection.Unblocked)
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


def declare_capabilities(connection: Any, *, blocked: bool) -> None:
    """Have this connection, which is not yet connected, declare ``connection.blocked`` or not.

    py-amqp declares it on every connection, and then reads, and delivers, in the middle of every publish.
    """
    found = {name: wanted for name, wanted in connection.negotiate_capabilities.items() if name != _BLOCKED}
    connection.negotiate_capabilities = {**found, _BLOCKED: True} if blocked else found


def when_transport_connects(connection: Any, connected: Callable[[], Any]) -> None:
    """Have this connection, which is not yet connected, call ``connected`` when its transport has connected, before the
    first frame is read."""
    make = connection.Transport

    def transport(*args: Any, **options: Any) -> Any:
        made = make(*args, **options)
        connection.made_transport = made  # for dismantle: py-amqp forgets a transport that it has closed
        connect = made.connect

        def connect_first() -> None:
            made.connect = connect
            connect()
            connected()

        made.connect = connect_first
        return made

    connection.Transport = transport
    connection.Channel = _Channel


class _Channel(amqp.Channel):
    """A channel that refers to nothing once it is closed."""

    def collect(self) -> None:
        super().collect()
        self._callbacks.clear()
        self._pending.clear()
        self.__dict__.clear()
        self.is_open = False


def dismantle(connection: Any) -> None:
    """Close the connection's socket, and free what the connection holds without waiting for a garbage collection.

    A connection of py-amqp refers to itself in many places and holds a buffer as long as a frame: what a lost connection
    leaves behind would stay for as long as few other objects are made. Nothing may be done with the connection afterwards.
    """
    connection.collect()
    made = connection.__dict__.get("made_transport")
    if made is not None:
        made.__dict__.clear()
    connection._callbacks.clear()
    connection._pending.clear()
    connection.__dict__.clear()
    connection.channels = connection._transport = None


def intercept_frames(
    connection: Any,
    *,
    blocked: Callable[[str], None] | None = None,
    unblocked: Callable[[], None] | None = None,
) -> None:
    """Have this connection, which is connected, and no other read what the library cannot.

    A content header whose properties cannot be read is replaced by one with UNREADABLE before the library sees it.
    connection.blocked with its reason, which the library does not read, and connection.unblocked go to ``blocked`` and
    ``unblocked``.
    """
    library = connection.on_inbound_frame
    connection.client_properties.get("capabilities", {}).pop(_BLOCKED, None)  # see declare_capabilities

    def on_frame(frame: tuple[int, int, bytes]) -> Any:
        kind, channel, payload = frame
        if channel == 0 and kind == _METHOD_FRAME and blocked is not None and unblocked is not None:
            method = bytes(payload[:4])
            if method == _BLOCKED_METHOD:
                blocked(bytes(payload[5 : 5 + payload[4]]).decode(errors="replace"))
            elif method == _UNBLOCKED_METHOD:
                unblocked()
        elif kind == _HEADER_FRAME:
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
