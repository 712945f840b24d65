# SPDX-License-Identifier: Apache-2.0
"""A small HTTP server that only answers: the standard library reads the requests, on threads of the worker.

One connection is one request. What a client may take of the worker is bounded: the bytes of its request, the time in which it
must have sent it and taken the answer, and the number of connections. Requests are not logged.
"""

from __future__ import annotations

import io
import ipaddress
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, cast
from urllib.parse import urlsplit

from tracker_worker import threads
from tracker_worker.service.health.response import Response, Route, as_text

LOG = logging.getLogger(__name__)

MOST_CONNECTIONS = 16
"""A further connection is closed at once."""
MOST_BYTES = 8192
"""Of a request, with its headers."""
REQUEST_SECONDS = 5.0
"""In which a request must have arrived."""
ANSWER_SECONDS = 10.0
"""In which a client must have taken the answer."""
# What a client sends after its request was refused.
_MOST_IGNORED_BYTES = 65536
_METHODS = ("GET", "HEAD")
# When the process has no room for another socket, for instance.
_PAUSE_SECONDS = 1.0


class HealthServer:
    """Answers GET and HEAD for the paths of ``routes`` from ``start`` to ``stop``, each of which belongs to one thread. Routes
    may be added before the start."""

    def __init__(
        self,
        address: tuple[str, int],
        routes: Mapping[str, Route],
        *,
        runtime: threads.Runtime = threads.SYSTEM,
        died: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        """``address``: host and port; port 0: the system chooses one. ``died`` is called if no further connection can be
        taken."""
        self.address = address
        """From the start on with the port that the system has chosen."""
        self._routes = routes
        self._runtime = runtime
        self._listener: socket.socket | None = None
        self._connections = 0
        self._lock = runtime.lock()
        self._pool = runtime.pool("tracker-health", MOST_CONNECTIONS, patience_seconds=60.0)
        self._thread = runtime.thread(self._accept, "tracker-health", died)

    def start(self) -> None:
        """Listen. Raises OSError: the address cannot be used."""
        host, port = self.address
        family, _, _, _, resolved = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        self._listener = socket.create_server(resolved[:2], family=family, backlog=MOST_CONNECTIONS)
        self.address = (host, self._listener.getsockname()[1])
        self._pool.start()
        self._thread.start()

    def stop(self) -> None:
        """Listen no longer. Requests that are being answered may still end. Harmless when not started or stopped."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.shutdown(socket.SHUT_RDWR)  # ends the wait of the other thread
        self._thread.join(_PAUSE_SECONDS + 1)
        listener.close()
        self._pool.stop()

    def _accept(self) -> None:
        while (listener := self._listener) is not None:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if self._listener is not None:
                    LOG.warning("the health listener cannot take a connection: %s", error)
                    self._runtime.sleep(_PAUSE_SECONDS)
                continue
            if self._takes():
                self._pool.submit(partial(self._serve, connection))
            else:
                connection.close()

    def _takes(self) -> bool:
        with self._lock:
            if self._connections >= MOST_CONNECTIONS:
                return False
            self._connections += 1
            return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                _Handler(connection, self._routes, self._runtime.monotonic)
        except OSError:
            pass  # the client is gone, or too slow
        finally:
            with self._lock:
                self._connections -= 1


class _TooLarge(Exception):
    """More has come than may come."""


class _Limited(io.RawIOBase):
    """Reads a socket, for REQUEST_SECONDS. Raises TimeoutError: the time is over. Raises _TooLarge: more has come than may
    come."""

    def __init__(
        self, connection: socket.socket, monotonic: Callable[[], float], *, most_bytes: int = MOST_BYTES
    ) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._until = monotonic() + REQUEST_SECONDS
        self._left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._until - self._monotonic()
        if left <= 0:
            raise TimeoutError
        if self._left <= 0:
            raise _TooLarge
        self._connection.settimeout(left)
        read = self._connection.recv_into(memoryview(buffer)[: self._left])
        self._left -= read
        return read


class _Handler(BaseHTTPRequestHandler):
    """Answers the one request of a connection. Raises OSError: the client is gone, or too slow."""

    server_version = "tracker-worker"
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # so that what is no request gets a status too

    def __init__(self, connection: socket.socket, routes: Mapping[str, Route], monotonic: Callable[[], float]) -> None:
        self._routes = routes
        self._monotonic = monotonic
        super().__init__(connection, connection.getsockname(), cast(Any, None))  # the library asks it nothing

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Limited(self.connection, self._monotonic))

    def handle(self) -> None:
        self.command = self.request_version = ""
        read = False
        try:
            self.raw_requestline = self.rfile.readline(MOST_BYTES)
            if not self.raw_requestline:
                return
            if self.parse_request():
                read = self.command in _METHODS
                self._respond(self._response())
        except _TooLarge:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        if not read:
            self._drain()

    def _response(self) -> Response:
        if self.command not in _METHODS:
            allow = {"Allow": ", ".join(_METHODS)}
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, "text/plain; charset=utf-8", b"only GET and HEAD\n", allow)
        if not self._is_named_here():
            return as_text(HTTPStatus.MISDIRECTED_REQUEST, "ask for this machine by its address or as localhost")
        path = self.path.partition("?")[0]
        route = self._routes.get(path)
        if route is None:
            return as_text(HTTPStatus.NOT_FOUND, f"there is {', '.join(sorted(self._routes))}")
        try:
            return route()
        except Exception:
            LOG.exception("the answer to %s cannot be made", path)
            return as_text(HTTPStatus.INTERNAL_SERVER_ERROR, "the answer cannot be made: the worker's log says why")

    def _is_named_here(self) -> bool:
        """Whether the request is meant for this listener. A page of any site that is open in a browser on this machine can have
        its own name point to the loopback address: such a request has that name."""
        if not ipaddress.ip_address(self.client_address[0].partition("%")[0]).is_loopback:
            return True
        host = urlsplit(f"//{self.headers.get('Host', 'localhost')}").hostname or ""
        with suppress(ValueError):
            return ipaddress.ip_address(host) is not None
        return host == "localhost" or host.endswith(".localhost") or host == socket.gethostname().lower()

    def _respond(self, response: Response) -> None:
        self.connection.settimeout(ANSWER_SECONDS)
        self.send_response(response.status)
        headers = {
            "Content-Type": response.content_type,
            "Content-Length": str(len(response.body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **response.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _drain(self) -> None:
        """Take what the client still sends, for a while: closing a socket with unread bytes would take the answer from the
        client."""
        self.connection.shutdown(socket.SHUT_WR)
        rest = _Limited(self.connection, self._monotonic, most_bytes=_MOST_IGNORED_BYTES)
        with suppress(_TooLarge):
            while rest.readinto(bytearray(MOST_BYTES)):
                pass

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """The library's answer to what is no request, without a page and without the request's own words."""
        self._respond(as_text(code, HTTPStatus(code).phrase))

    def version_string(self) -> str:
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""
