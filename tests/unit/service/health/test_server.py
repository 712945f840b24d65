# SPDX-License-Identifier: Apache-2.0
"""The listener on real sockets: what it answers, and what a client cannot take of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.deadline import wait_until
from tests.support.health import fetch
from tracker_worker.service.health import server as module
from tracker_worker.service.health.response import Response, Route, as_json, as_text
from tracker_worker.service.health.server import HealthServer


def broken() -> Response:
    raise RuntimeError("a defect")


ROUTES: dict[str, Route] = {
    "/livez": lambda: as_json(200, {"alive": True}),
    "/readyz": lambda: as_json(503, {"ready": False}),
    "/large": lambda: Response(200, "application/octet-stream", b"x" * 20_000_000),
    "/broken": broken,
    "/page": lambda: Response(200, "text/html", b"<p>", {"Content-Security-Policy": "default-src 'none'"}),
}


@pytest.fixture
def server() -> Iterator[HealthServer]:
    server = HealthServer(("127.0.0.1", 0), ROUTES)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def port(server: HealthServer) -> int:
    return server.address[1]


def exchanged(port: int, request: bytes) -> bytes:
    """Send bytes, and return everything up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


def test_a_path_is_answered_by_its_route_with_the_headers_that_every_answer_has(port: int) -> None:
    alive, unready = fetch(port, "/livez"), fetch(port, "/readyz?verbose=1")

    assert (alive.status, alive.document) == (200, {"alive": True})
    assert (unready.status, unready.document) == (503, {"ready": False})
    assert (alive.headers["cache-control"], alive.headers["connection"]) == ("no-store", "close")
    assert alive.headers["server"] == "tracker-worker"
    assert fetch(port, "/page").headers["content-security-policy"] == "default-src 'none'"


def test_head_has_the_headers_of_get_and_no_body(port: int) -> None:
    head, get = fetch(port, "/readyz", "HEAD"), fetch(port, "/readyz")

    assert (head.status, head.body, head.headers["content-length"]) == (503, b"", str(len(get.body)))


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW", "get"])
def test_other_methods_are_not_allowed_also_with_a_body(port: int, method: str) -> None:
    for body in (b"", b"x" * 5000):
        head = f"{method} /livez HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        answer = exchanged(port, head + body)
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"\r\nAllow: GET, HEAD\r\n" in answer


def test_a_path_that_is_not_there_is_404_and_names_what_is(port: int) -> None:
    answer = fetch(port, "/metric")

    assert answer.status == 404
    assert b"/livez" in answer.body


def test_a_route_that_fails_is_500_and_in_the_log(port: int, caplog: pytest.LogCaptureFixture) -> None:
    answer = fetch(port, "/broken")

    assert (answer.status, b"defect" in answer.body) == (500, False)
    assert "the answer to /broken cannot be made" in caplog.text
    assert "a defect" in caplog.text


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00 tls hello \r\n\r\n", b"400"),
        (b"GET\r\n\r\n", b"400"),
        (b"GET / HTTP/x\r\n\r\n", b"400"),
        (b"GET / HTTP/3.0\r\n\r\n", b"505"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 101 + b"\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 10_000 + b"\r\n\r\n", b"431"),
        (b"GET /livez HTTP/1.1\r\n" + b"X-Long: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n" * 99, b"431"),
    ],
)
def test_what_is_no_request_gets_an_error_without_its_own_words(port: int, request_bytes: bytes, status: bytes) -> None:
    if status == b"431" and request_bytes.endswith(b"y\r\n"):
        request_bytes += b"X: " + b"z" * 5000
    answer = exchanged(port, request_bytes)

    assert answer.partition(b" ")[2].startswith(status)
    assert b"tls" not in answer
    assert b"<" not in answer
    assert fetch(port, "/livez").status == 200


def test_nothing_is_logged_of_requests(
    port: int, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    fetch(port, "/livez")
    exchanged(port, b"nonsense\r\n\r\n")

    assert caplog.text == ""
    assert capfd.readouterr() == ("", "")


def test_a_client_that_sends_slowly_loses_its_connection(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUEST_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        began = time.monotonic()
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        ended = threading.Event()

        def drip() -> None:
            while not ended.wait(0.1):  # each byte in time, the request never
                try:
                    client.sendall(b"X")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass  # what it has sent and nobody has read
        finally:
            ended.set()
            dripping.join()
    assert time.monotonic() - began < 3


def test_a_client_that_takes_nothing_loses_its_connection(
    server: HealthServer, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        wait_until(lambda: server._connections == 1, "the request is answered")
        wait_until(lambda: server._connections == 0, "the connection is given up")


def test_connections_have_a_limit_and_the_listener_goes_on_when_they_end(server: HealthServer, port: int) -> None:
    with ExitStack() as stack:
        for _ in range(module.MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
        wait_until(lambda: server._connections == module.MOST_CONNECTIONS, "all are taken")
        with socket.create_connection(("127.0.0.1", port), 10) as further:
            assert further.recv(100) == b""
        threads = [each for each in threading.enumerate() if each.name.startswith("tracker-health")]
        assert len(threads) <= module.MOST_CONNECTIONS + 2  # one takes connections, and one looks for a place
    wait_until(lambda: server._connections == 0, "all have ended")
    assert fetch(port, "/livez").status == 200


def test_after_a_stop_nobody_listens_and_the_port_is_free(server: HealthServer, port: int) -> None:
    server.stop()
    server.stop()

    with pytest.raises(ConnectionRefusedError):
        fetch(port, "/livez")
    again = HealthServer(("127.0.0.1", port), ROUTES)
    again.start()
    assert fetch(port, "/livez").status == 200
    again.stop()


def test_a_server_that_was_not_started_is_stopped_without_harm() -> None:
    HealthServer(("127.0.0.1", 0), ROUTES).stop()


def test_an_address_that_cannot_be_used_is_an_error(port: int) -> None:
    for address in (("127.0.0.1", port), ("192.0.2.1", 0), ("no.such.name.invalid", 0)):
        with pytest.raises(OSError):
            HealthServer(address, ROUTES).start()


def test_a_name_and_an_ipv6_address_can_be_listened_on() -> None:
    for host, target in (("localhost", "localhost"), ("::1", "::1")):
        server = HealthServer((host, 0), ROUTES)
        server.start()
        try:
            with socket.create_connection((target, server.address[1]), 10) as client:
                client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
                assert b'{"alive": true}' in client.makefile("rb").read()
        finally:
            server.stop()


def test_text_is_one_line() -> None:
    assert as_text(404, "nothing").body == b"nothing\n"
