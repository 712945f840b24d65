# SPDX-License-Identifier: Apache-2.0
"""A broker on a local socket that speaks just enough AMQP for connections to open, and misbehaves as a test wants."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

from amqp.serialization import dumps, loads

_METHOD, _BODY, _HEARTBEAT = 1, 3, 8
_START_OK, _TUNE_OK, _OPEN, _CLOSE = (10, 11), (10, 31), (10, 40), (10, 50)
_PUBLISH = (60, 40)
# What a method is answered with: its own number and arguments.
_ANSWERS: dict[tuple[int, int], tuple[tuple[int, int], str, tuple[Any, ...]]] = {
    (20, 10): ((20, 11), "S", ("",)),  # channel.open
    (20, 40): ((20, 41), "", ()),  # channel.close
    (40, 10): ((40, 11), "", ()),  # exchange.declare
    (50, 10): ((50, 11), "sll", ("q", 0, 0)),  # queue.declare
    (50, 20): ((50, 21), "", ()),  # queue.bind
    (60, 10): ((60, 11), "", ()),  # basic.qos
    (60, 20): ((60, 21), "s", ("tag",)),  # basic.consume
    (85, 10): ((85, 11), "", ()),  # confirm.select
}
# The arguments of these methods, and which of them asks for no answer.
_NO_WAIT = {
    (40, 10): ("BssbbbbbF", 7),
    (50, 10): ("BsbbbbbF", 6),
    (50, 20): ("BsssbF", 4),
    (60, 20): ("BssbbbbF", 6),
}


class FakeBroker:
    """Listens on ``port`` until ``close``. ``serve`` gets each accepted connection, on a thread of its own."""

    def __init__(self, serve: Callable[[FakeConnection], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"
        self.connections: list[FakeConnection] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = FakeConnection(sock)
            self.connections.append(connection)
            self._threads.append(threading.Thread(target=self._run, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _run(self, connection: FakeConnection) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._serve(connection)
        connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            connection.close()
        for thread in self._threads:
            thread.join(10)


class FakeConnection:
    """The broker's end of one connection. ``published`` are the bodies that have arrived, ``capabilities`` what the client
    declared."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.published: list[bytes] = []
        self.heartbeats = 0
        self.capabilities: dict[str, Any] = {}
        self._tag = 0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def log_in(self) -> None:
        """Answer until the connection is open."""
        self._read_exactly(8)  # the protocol's header
        capabilities = {"connection.blocked": True, "authentication_failure_close": True, "publisher_confirms": True}
        self.send(0, (10, 10), "ooFSS", (0, 9, {"capabilities": capabilities}, "PLAIN", "en_US"))
        properties, _ = loads("F", self.expect(_START_OK), 4)
        self.capabilities = properties[0]["capabilities"]
        self.send(0, (10, 30), "BlB", (2047, 131072, 60))
        self.expect(_TUNE_OK)
        self.expect(_OPEN)
        self.send(0, (10, 41), "s", ("",))

    def refuse_login(self) -> None:
        self._read_exactly(8)
        capabilities = {"authentication_failure_close": True}
        self.send(0, (10, 10), "ooFSS", (0, 9, {"capabilities": capabilities}, "PLAIN", "en_US"))
        self.expect(_START_OK)
        self.end(403, "ACCESS_REFUSED - Login was refused")

    def end(self, code: int, text: str) -> None:
        """Close the connection as a broker does that has a reason."""
        self.send(0, _CLOSE, "BsBB", (code, text, 0, 0))

    def answer(self) -> None:
        """Answer every method, confirm every message, until the client closes the connection."""
        while True:
            self.step()

    def step(self, *, confirm: bool = True) -> tuple[int, int] | None:
        """Read one frame and answer it. Returns the method that it held."""
        kind, channel, payload = self.frame()
        if kind == _HEARTBEAT:
            self.heartbeats += 1
        if kind == _BODY:
            self.published.append(payload)
            if confirm:
                self.confirm(channel)
        if kind != _METHOD:
            return None
        method: tuple[int, int] = struct.unpack_from(">HH", payload)
        if method == _CLOSE:
            self.send(0, (10, 51), "", ())
            raise EOFError
        if method in _NO_WAIT:
            arguments, _ = loads(_NO_WAIT[method][0], payload, 4)
            if arguments[_NO_WAIT[method][1]]:
                return method
        if method in _ANSWERS:
            self.send(channel, *_ANSWERS[method])
        return method

    def confirm(self, channel: int) -> None:
        self._tag += 1
        self.send(channel, (60, 80), "Lb", (self._tag, False))

    def block(self, reason: str) -> None:
        self.send(0, (10, 60), "s", (reason,))

    def unblock(self) -> None:
        self.send(0, (10, 61), "", ())

    def heartbeat(self) -> None:
        self.sock.sendall(struct.pack(">BHIB", _HEARTBEAT, 0, 0, 0xCE))

    def expect(self, method: tuple[int, int]) -> bytes:
        """The payload of the next frame, which must hold this method."""
        _, _, payload = self.frame()
        assert struct.unpack_from(">HH", payload) == method
        return payload

    def frame(self) -> tuple[int, int, bytes]:
        kind, channel, size = struct.unpack(">BHI", self._read_exactly(7))
        payload = self._read_exactly(size)
        assert self._read_exactly(1) == b"\xce"
        return kind, channel, payload

    def send(self, channel: int, method: tuple[int, int], format: str, arguments: tuple[Any, ...]) -> None:
        payload = struct.pack(">HH", *method) + (dumps(format, arguments) if format else b"")
        self.sock.sendall(struct.pack(">BHI", _METHOD, channel, len(payload)) + payload + b"\xce")

    def _read_exactly(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size:
            piece = self.sock.recv(size - len(found))
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)
