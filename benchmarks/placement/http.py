# SPDX-License-Identifier: Apache-2.0
"""Placement's headers, and a persistent HTTP/1.1 connection with one request under way, encoded before the clock starts.

A client library costs as much per request as some servers, on the same cores.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping

HEADERS = {
    "OpenStack-API-Version": "placement 1.28",
    "X-Auth-Token": "admin",
    "Content-Type": "application/json",
    "Accept": "application/json",
}
"""Of every request. 1.28 is the first version with consumer generations; the token makes ``noauth2`` an administrator."""
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def encoded(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode("ascii") + body


class Connection:
    """``number`` is for the caller: the request that is under way."""

    def __init__(self, address: tuple[str, int], timeout_seconds: float) -> None:
        self._socket = socket.create_connection(address, timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.number = -1

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, request: bytes) -> None:
        self._socket.sendall(request)

    def read(self) -> tuple[int, bytes] | None:
        """Take what has come; return status and body once the answer is complete, else None.

        Raises ConnectionError: the server has closed the connection.
        """
        data = self._socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._buffer += data
        head = self._buffer.find(_END)
        if head < 0:
            return None
        length = _LENGTH.search(self._buffer, 0, head)
        end = head + len(_END) + (int(length[1]) if length else 0)
        if len(self._buffer) < end:
            return None
        status, body = int(self._buffer[9:12]), bytes(self._buffer[head + len(_END) : end])
        del self._buffer[:end]
        return status, body

    def close(self) -> None:
        self._socket.close()
