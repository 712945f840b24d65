# SPDX-License-Identifier: Apache-2.0
"""A network that drops everything for a while keeps every connection."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers.network import Network, OwnNamespace, StallingProxy

_ROOT = Path(__file__).parents[2]
_SECONDS = 0.5


def echo_through(network: Network) -> tuple[float, float]:
    """The seconds that an echo took before a drop of _SECONDS, and the least that one took over the same connection during
    the drop.
    """
    with closing(socket.create_server(("127.0.0.1", 0))) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(100):
                    connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        with socket.create_connection(("127.0.0.1", network.port(server.getsockname()[1])), 20) as client:

            def echo() -> float:
                began_at = time.monotonic()
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                return time.monotonic() - began_at

            before = echo()
            dropping = threading.Thread(target=network.drop, args=(_SECONDS,))
            dropping.start()
            slowest = 0.0
            while dropping.is_alive():
                slowest = max(slowest, echo())
            dropping.join()
            network.close()
            return before, slowest


def in_namespace() -> None:
    """Run in a process of its own, which says nothing where it may not have a namespace."""
    network = OwnNamespace.enter()
    if network is not None:
        print(*echo_through(network))


@pytest.fixture(params=["namespace", "proxy"])
def measure(request: pytest.FixtureRequest) -> Callable[[], tuple[float, float]]:
    if request.param == "proxy":
        return lambda: echo_through(StallingProxy())

    def measure() -> tuple[float, float]:
        command = [sys.executable, "-c", f"from {__name__} import in_namespace; in_namespace()"]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=True)
        if not done.stdout:
            pytest.skip("only root may make a network namespace, and some containers do not let root")
        before, slowest = map(float, done.stdout.split())
        return before, slowest

    return measure


def test_data_waits_while_the_network_drops_everything(measure: Callable[[], tuple[float, float]]) -> None:
    before, slowest = measure()

    assert before < _SECONDS / 2
    assert slowest > _SECONDS / 2


def test_a_process_that_may_have_no_namespace_stays_in_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = os.readlink("/proc/self/ns/net")

    assert OwnNamespace.enter() is None
    assert os.readlink("/proc/self/ns/net") == before
