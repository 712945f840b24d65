# SPDX-License-Identifier: Apache-2.0
"""Fewer system calls on an AMQP connection.

py-amqp 5.4 asks the socket three times for every frame it reads and writes every frame by itself. Each of these calls also
hands the interpreter to another thread. Here bytes are read in large pieces and written when the link's loop has nothing more
to say, or waits for an answer.
"""

from __future__ import annotations

import os
import ssl
import struct
from collections.abc import Callable
from typing import Any

import amqp
from amqp import serialization, spec

_PIECE = 65536

# What a message is said to be whose properties cannot be read: a content type that nobody serves.
UNREADABLE = "application/x-unreadable-properties"


_UNREADABLE = (
    ValueError,  # UnicodeDecodeError too
    ArithmeticError,
    LookupError,
    OSError,  # a date that the platform cannot count to
    RecursionError,
    TypeError,
    struct.error,
    amqp.exceptions.FrameSyntaxError,
)


def _tolerate_unreadable_properties() -> None:
    """py-amqp raises in the middle of a read for a property that is not UTF-8, a date after the year 9999, or a header of many
    levels. The message would end this worker, and the next one that it is delivered to. It is delivered without its properties
    instead, and parked."""
    decode = serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID]

    def tolerant(buffer: Any, offset: int) -> tuple[dict[str, Any], int]:
        try:
            properties: tuple[dict[str, Any], int] = decode(buffer, offset)
            return properties
        except _UNREADABLE:
            return {"content_type": UNREADABLE}, len(buffer)

    serialization.PROPERTY_CLASSES[spec.Basic.CLASS_ID] = tolerant


_tolerate_unreadable_properties()


class Stream:
    """Stands between a connected py-amqp connection and its socket. Belongs to whoever holds the link's turn."""

    def __init__(self, connection: Any) -> None:
        transport = connection.transport
        self._sock = transport.sock
        self._read = b""
        self._position = 0
        self._written = bytearray()
        # What py-amqp's transports read and write with; set by themselves when they connect.
        transport._quick_recv = self._receive
        transport._write = self._written.extend

    def _receive(self, size: int) -> bytes:
        """At most ``size`` bytes, from the socket where none are left. What was written goes out first: it may be what the
        bytes to come are the answer to. Raises TimeoutError, OSError."""
        self._fill()
        piece = self._read[self._position : self._position + size]
        self._position += len(piece)
        return piece

    def _fill(self) -> None:
        if self._position >= len(self._read):
            self.flush()
            self._read, self._position = self._sock.recv(_PIECE), 0

    def take(self, read: Callable[[bytes, int], int]) -> bool:
        """Let ``read`` have what the connection has not seen, from the socket where nothing is left: it gets bytes and a
        position, and returns the position up to which it used them. Returns whether it used any. Only where no frame has
        been begun. Raises TimeoutError, OSError."""
        self._fill()
        began, self._position = self._position, read(self._read, self._position)
        return self._position > began

    def unread(self) -> bool:
        """Bytes have been read that the connection has not seen, or TLS holds some that the socket does not show."""
        if self._position < len(self._read):
            return True
        pending = getattr(self._sock, "pending", None)
        return pending is not None and pending() > 0

    def flush(self) -> None:
        """Send what was written. Raises TimeoutError when the peer takes nothing, OSError."""
        if self._written:
            out = bytes(self._written)
            self._written.clear()
            self._sock.sendall(out)

    def push(self) -> bool:
        """Send what the socket takes at once; ``flush`` sends the rest. Returns whether that was all. TLS cannot say, and
        errors are told by whoever flushes."""
        if isinstance(self._sock, ssl.SSLSocket):
            return False
        try:
            # Not by the socket's own method, which would wait for room: a socket with a timeout does not block by itself.
            del self._written[: os.write(self._sock.fileno(), self._written)]
        except OSError:
            return False
        return not self._written
