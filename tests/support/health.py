# SPDX-License-Identifier: Apache-2.0
"""The health of a worker as HTTP clients and systemd see it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.deadline import SECONDS
from tests.support.worker_process import Options, WorkerProcess

LISTENING: Options = {"health": {"listen": "127.0.0.1:0"}}
"""The options with which a worker listens on a port that the system chooses."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def codes(self) -> list[str]:
        """The codes of the problems in a document of /readyz."""
        return [problem["code"] for problem in self.document["problems"]]


def fetch(port: int, path: str, method: str = "GET", *, seconds: float = 10) -> Answer:
    """Ask once. Raises OSError: nobody listens, or answers within ``seconds``."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    finally:
        connection.close()


def port_of(worker: WorkerProcess) -> int:
    """The port on which the worker listens since its last start."""
    worker.wait_for_log("health: listening on")
    found = re.search(r"health: listening on \S+ port (\d+)", worker.log())
    assert found is not None
    return int(found[1])


def readyz(worker: WorkerProcess) -> Answer:
    return fetch(port_of(worker), "/readyz")


def livez(worker: WorkerProcess) -> int:
    """The status of /livez."""
    return fetch(port_of(worker), "/livez").status


def seconds_until(condition: Callable[[], object], *, at_most: float, livez_of: WorkerProcess) -> float:
    """Wait until ``condition`` holds, and return how long that took. Until then the worker must be alive.

    Raises AssertionError: it does not hold after so many seconds.
    """
    began = time.monotonic()
    while not condition():
        assert livez(livez_of) == 200
        assert time.monotonic() - began < at_most, readyz(livez_of).body
        time.sleep(0.1)
    return time.monotonic() - began


class Systemd:
    """The socket of a service manager. ``environment`` is for the worker."""

    def __init__(self, path: Path, watchdog_seconds: float | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path)}
        if watchdog_seconds is not None:
            self.environment["WATCHDOG_USEC"] = str(int(watchdog_seconds * 1_000_000))

    def close(self) -> None:
        self._socket.close()

    def wait_for(self, *wanted: str, seconds: float = SECONDS) -> list[str]:
        """The datagrams up to the first one that begins with one of ``wanted``. Raises TimeoutError."""
        until = time.monotonic() + seconds
        heard: list[str] = []
        while not heard or not heard[-1].startswith(wanted):
            self._socket.settimeout(max(0.01, until - time.monotonic()))
            try:
                heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                raise TimeoutError(f"{wanted} within {seconds} s: {heard}") from None
        return heard

    def hear(self, seconds: float) -> list[str]:
        """The datagrams of so many seconds, and those that have come before."""
        until = time.monotonic() + seconds
        heard: list[str] = []
        while (left := until - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                heard.append(self._socket.recv(4096).decode())
            except TimeoutError:
                break
        return heard


@contextmanager
def systemd(directory: Path, *, watchdog_seconds: float | None = None) -> Iterator[Systemd]:
    """A service manager whose socket is in ``directory``: its path must be short."""
    manager = Systemd(directory / "s", watchdog_seconds)
    try:
        yield manager
    finally:
        manager.close()
