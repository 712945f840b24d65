# SPDX-License-Identifier: Apache-2.0
"""Every inner name of py-amqp that the bus uses, in one place. A test says which of them a new release has changed.

The names were read in py-amqp 5.4, and setup.cfg pins that minor version. The measurements that justify them are in
doc/contributor/performance.md.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NamedTuple

import amqp
from amqp import serialization, spec
from amqp.abstract_channel import AbstractChannel
from amqp.transport import SSLTransport, TCPTransport

from tracker_worker.bus.amqp import tables

UNREADABLE = "application/x-unreadable-properties"
"""The content type of a message whose properties cannot be read; it is one that no worker serves, so the message is parked."""

NAMES = (
    (amqp.Message, "_serialize_properties"),
    (serialization, "PROPERTY_CLASSES"),
    (amqp.Connection, "on_inbound_frame"),
    (amqp.Connection(), "bytes_recv"),
    (amqp.Channel, "_on_close"),  # opens the channel again before it raises
    (AbstractChannel, "_callbacks"),
    (amqp.Channel, "send_method"),
    (serialization, "loads"),
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
_FLAGS = struct.Struct(">H")
_SIZE = struct.Struct(">I")
# Flags of basic's properties: AMQP 0-9-1, class reference 1.8, in the order of 4.2.6.1.
_SHORT_STRINGS_BEFORE_HEADERS = (0x8000, 0x4000)  # content type, content encoding
_HEADERS = 0x2000
# A table of more levels is no client's; whatever walks through the values of a deep one would have to be prepared for it.
_MOST_LEVELS = 32
# The values of a longer table would take many times the table's memory for as long as the message is held.
_MOST_KEPT_BYTES = 512
_NO_HEADERS: Mapping[str, Any] = MappingProxyType({})
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


class Content(NamedTuple):
    """What a message has beside its body. Deliveries share it, so nothing in it can be changed.

    ``properties`` have py-amqp's names and types; ``{"content_type": UNREADABLE}`` where they cannot be read. The application
    headers are apart: ``header_table`` as they were encoded, without the length in front, and ``headers`` decoded, empty where
    they cannot be read.
    """

    properties: Mapping[str, Any]
    header_table: bytes
    headers: Mapping[str, Any]


def decode_content(encoded: bytes) -> Content:
    """The content whose properties have the wire format ``encoded``. Linear in its length, and never raises."""
    try:
        (flags,) = _FLAGS.unpack_from(encoded)
        if not flags & _HEADERS:
            return Content(MappingProxyType(decode_properties(encoded)), b"", _NO_HEADERS)
        at = _FLAGS.size
        for flag in _SHORT_STRINGS_BEFORE_HEADERS:
            if flags & flag:
                at += 1 + encoded[at]
        begin = at + _SIZE.size
        end = begin + _SIZE.unpack_from(encoded, at)[0]
    except (struct.error, IndexError):
        return _UNREADABLE_CONTENT
    if end > len(encoded):
        return _UNREADABLE_CONTENT
    others = _FLAGS.pack(flags & ~_HEADERS) + encoded[_FLAGS.size : at] + encoded[end:]
    table = encoded[begin:end]
    headers = decode_table(table) if len(table) <= _MOST_KEPT_BYTES else _LongTable(table)
    return Content(MappingProxyType(decode_properties(others)), table, headers)


_UNREADABLE_CONTENT = Content(MappingProxyType({"content_type": UNREADABLE}), b"", _NO_HEADERS)


def decode_table(table: bytes) -> Mapping[str, Any]:
    """The values of an encoded table, without the length in front, with py-amqp's types; empty where they cannot be read or
    have more than 32 levels."""
    try:
        (values,), _ = serialization.loads("F", _SIZE.pack(len(table)) + table, 0)
    except _UNREADABLE_ERRORS:
        return _NO_HEADERS
    return MappingProxyType(values) if _has_few_levels(values) else _NO_HEADERS


def _has_few_levels(values: dict[str, Any]) -> bool:
    level: list[Any] = [values]
    for _ in range(_MOST_LEVELS):
        level = [
            value
            for container in level
            for value in (container.values() if isinstance(container, dict) else container)
            if isinstance(value, (dict, list))
        ]
        if not level:
            return True
    return False


# Whoever goes through a long table looks into it once for each name.
_last_table = lru_cache(maxsize=1)(decode_table)


class _LongTable(Mapping[str, Any]):
    """A long table, of which only the bytes are kept: it is decoded again when somebody looks into it."""

    __slots__ = ("_table",)

    def __init__(self, table: bytes) -> None:
        self._table = table

    def __getitem__(self, name: str) -> Any:
        return _last_table(self._table)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_last_table(self._table))

    def __len__(self) -> int:
        return len(_last_table(self._table))


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
                payload = bytes(payload[:_PROPERTIES_AT]) + _readable(bytes(payload[_PROPERTIES_AT:]))
        return library((kind, channel, payload))

    connection.on_inbound_frame = on_frame


def _readable(encoded: bytes) -> bytes:
    """Of properties that cannot be read as a whole, those that can: if it is the headers, all others and the headers that
    workers add to dead letters."""
    content = decode_content(encoded)
    if content.properties.get("content_type") == UNREADABLE:
        return encode_properties({"content_type": UNREADABLE})
    try:
        own = tables.without(content.header_table, lambda name: not name.startswith(b"x-tracker-"))
    except tables.UnreadableTable:
        own = b""
    return encode_properties({**content.properties, "application_headers": dict(decode_table(own))})


def replace_socket_calls(transport: Any, *, read: Callable[[int], bytes], write: Callable[[bytes], Any]) -> None:
    """Have the connected transport read with ``read(size)`` and write with ``write(data)`` instead of with its socket."""
    transport._quick_recv = read
    transport._write = write


def take_frames(connection: Any, channel: int, take: Callable[[int, bytes], bool]) -> None:
    """Offer ``take`` the kind and the payload of each frame on a channel of this connection, which is connected; the library
    gets those for which it returns False."""
    library = connection.on_inbound_frame

    def on_frame(frame: tuple[int, int, bytes]) -> Any:
        kind, number, payload = frame
        if number == channel and take(kind, bytes(payload)):
            connection.bytes_recv += 1  # counts frames, whatever the name says; the heartbeat check reads it
            return True
        return library(frame)

    connection.on_inbound_frame = on_frame


def take_close(channel: Any, closed: Callable[[amqp.exceptions.AMQPError], None]) -> None:
    """Hand the broker's error to ``closed`` when it closes the channel. The library has opened the channel again by then; it
    would raise the error from whatever waits for an answer, on any channel."""
    library = channel._callbacks[spec.Channel.Close]

    def on_close(reply_code: int, reply_text: str, class_id: int, method_id: int) -> None:
        try:
            library(reply_code, reply_text, class_id, method_id)
        except amqp.exceptions.AMQPError as error:
            if (error.reply_code, error.reply_text) != (reply_code, reply_text):
                raise  # the connection was lost meanwhile
            closed(error)

    channel._callbacks[spec.Channel.Close] = on_close


ANSWER = struct.pack(">HH", *spec.Basic.QosOk)
"""How the payload begins that answers ``set_prefetch``."""


def set_prefetch(channel: Any, count: int) -> None:
    """Limit the consumers that follow on the channel to so many unacknowledged deliveries each. Does not wait for the ANSWER,
    which comes when the broker has done everything that was sent on the channel before."""
    channel.send_method(spec.Basic.Qos, "lBb", (0, count, False))


def when_queue_is_there(
    channel: Any, there: Callable[[], None], closed: Callable[[amqp.exceptions.AMQPError], None]
) -> None:
    """Have ``there`` called whenever the broker answers ``look_for_queue`` on this channel with yes, and ``closed`` when it
    closes the channel, with which it says no."""
    channel._callbacks[spec.Queue.DeclareOk] = lambda queue, messages, consumers: there()
    take_close(channel, closed)


def look_for_queue(channel: Any, name: str) -> None:
    """Ask the broker whether the queue exists. Does not wait for the answer."""
    channel.send_method(spec.Queue.Declare, "BsbbbbbF", (0, name, True, False, False, False, False, {}))


def count_as_alive(connection: Any) -> None:
    """Have the next heartbeat check believe that something has arrived: who does not read cannot know whether it has."""
    connection.bytes_recv += 1


def abandon_socket(connection: Any) -> None:
    """Close this process's copy of the connection's socket without a word to the broker. In a forked child: py-amqp, at the
    latest when it is collected, would shut the connection down that the parent goes on using."""
    transport = connection.transport
    if transport is not None and transport.sock is not None:
        sock, transport.sock = transport.sock, None
        os.close(sock.detach())
