# SPDX-License-Identifier: Apache-2.0
"""A front of a RabbitMQ that refuses queues which are neither durable nor exclusive, as RabbitMQ 4.3 does.

It reads the frames in both directions, so that its own frames come between two others, and passes on everything else.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

from amqp.serialization import dumps, loads

_METHOD = 1
_CONNECTION_CLOSE, _CONNECTION_CLOSED = (10, 50), (10, 51)
_CHANNEL_CLOSE, _CHANNEL_CLOSED = (20, 40), (20, 41)
_QUEUE_DECLARE = (50, 10)
_TEXTS = {
    541: "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.\n"
    "By default, this feature is not permitted anymore.",
    403: "ACCESS_REFUSED - transient non-exclusive queues are not allowed",
    406: "PRECONDITION_FAILED - transient_nonexcl_queues: queues must be durable or exclusive",
}


class Front:
    """Listens on ``port`` from ``open`` to ``close``. Declarations are refused with ``code``: 541 ends the connection, any
    other the channel. ``refused`` has the names of the queues, in order. Every method may be called from any thread."""

    def __init__(self, target_port: int, code: int) -> None:
        self.code = code
        self.refused: list[str] = []
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="front", daemon=True)]

    def open(self) -> None:
        self._threads[0].start()

    def close(self) -> None:
        """Cut every connection and stop listening."""
        for sock in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for sock in (self._listener, *self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port), 5)
            except OSError:
                return
            server.settimeout(None)
            self._sockets += [client, server]
            connection = _Connection(self, client, server)
            for work in (connection.from_client, connection.from_server):
                self._threads.append(threading.Thread(target=work, name="front", daemon=True))
                self._threads[-1].start()


class _Connection:
    """One client's connection, and the front's to the server. ``_turn`` is held while a frame is written to the client."""

    def __init__(self, front: Front, client: socket.socket, server: socket.socket) -> None:
        self._front = front
        self._client = client
        self._server = server
        self._turn = threading.Lock()
        self._ended = False  # the front has closed the connection to the client
        self._closing: set[int] = set()  # channels that the front has closed to the client, which has not answered yet
        self._unanswered: list[int] = []  # and those whose closing the server has not answered yet

    def from_client(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._server.sendall(_exactly(self._client, 8))  # the protocol's header
            while True:
                frame = _frame(self._client)
                if not self._is_mine(frame):
                    self._server.sendall(frame)
        self._end()

    def from_server(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            while not self._ended:
                frame = _frame(self._server)
                _, channel, method = _read(frame)
                with self._turn:
                    if method == _CHANNEL_CLOSED and channel in self._unanswered:
                        self._unanswered.remove(channel)
                    elif not self._ended:
                        self._client.sendall(frame)
        if not self._ended:
            self._end()

    def _is_mine(self, frame: bytes) -> bool:
        """Whether the server must not see this frame of the client."""
        _, channel, method = _read(frame)
        if self._ended:
            if method == _CONNECTION_CLOSED:
                raise EOFError
            return True
        if channel in self._closing:  # what came behind the refused declaration is dropped, as a server does
            if method == _CHANNEL_CLOSED:
                self._closing.discard(channel)
            return True
        if method != _QUEUE_DECLARE:
            return False
        (_, name, passive, durable, exclusive, *_), _ = loads("BsbbbbbF", frame[7:-1], 4)
        if passive or durable or exclusive:
            return False
        self._front.refused.append(name)
        self._refuse(channel)
        return True

    def _refuse(self, channel: int) -> None:
        code = self._front.code
        reason = dumps("BsBB", (code, _TEXTS[code], *_QUEUE_DECLARE))
        with self._turn:
            if code == 541:
                self._ended = True
                self._client.sendall(_method(0, _CONNECTION_CLOSE, reason))
                self._server.shutdown(socket.SHUT_RDWR)
            else:
                self._closing.add(channel)
                self._unanswered.append(channel)
                self._client.sendall(_method(channel, _CHANNEL_CLOSE, reason))
                self._server.sendall(_method(channel, _CHANNEL_CLOSE, dumps("BsBB", (200, "", 0, 0))))

    def _end(self) -> None:
        for sock in (self._client, self._server):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _exactly(sock: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        piece = sock.recv(size - len(found))
        if not piece:
            raise EOFError
        found += piece
    return bytes(found)


def _frame(sock: socket.socket) -> bytes:
    head = _exactly(sock, 7)
    return head + _exactly(sock, struct.unpack_from(">I", head, 3)[0] + 1)


def _read(frame: bytes) -> tuple[int, int, tuple[int, int] | None]:
    """The kind, the channel and the method of a frame."""
    kind, channel = struct.unpack_from(">BH", frame)
    return kind, channel, struct.unpack_from(">HH", frame, 7) if kind == _METHOD else None


def _method(channel: int, method: tuple[int, int], arguments: bytes) -> bytes:
    payload = struct.pack(">HH", *method) + arguments
    return struct.pack(">BHI", _METHOD, channel, len(payload)) + payload + b"\xce"
