# SPDX-License-Identifier: Apache-2.0
"""Notifications to systemd over a socket, and when there are signs of life."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.health import Systemd, systemd
from tracker_worker.cli.systemd import is_notified, notify_systemd, reloading, status, watchdog_pings


@pytest.fixture(autouse=True)
def no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    with systemd(tmp_path) as made:
        monkeypatch.setenv("NOTIFY_SOCKET", made.environment["NOTIFY_SOCKET"])
        yield made


def test_lines_are_one_datagram(manager: Systemd) -> None:
    notify_systemd("READY=1", status("active for\nh1"))

    assert manager.hear(0.1) == ["READY=1\nSTATUS=active for h1"]


def test_a_reload_says_when_it_has_begun(manager: Systemd) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify_systemd(*reloading())

    (said,) = manager.hear(0.1)
    assert said.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert before <= int(said.rpartition("=")[2]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_a_long_status_is_cut() -> None:
    assert len(status("x" * 5000)) < 1100


def test_an_address_in_the_abstract_name_space_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        name = f"tracker-test-{os.getpid()}"
        abstract.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        notify_systemd("READY=1")
        assert abstract.recv(100) == b"READY=1"


def test_without_a_manager_nothing_is_said() -> None:
    notify_systemd("READY=1")

    assert not is_notified()
    assert watchdog_pings() is None


def test_a_manager_that_is_gone_is_in_the_log(manager: Systemd, caplog: pytest.LogCaptureFixture) -> None:
    manager.close()

    notify_systemd("READY=1")

    assert "systemd is not notified of READY=1" in caplog.text


def test_a_sign_of_life_is_due_after_half_of_the_time(manager: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    ping = watchdog_pings()
    assert ping is not None

    assert ping(100.0) == 115.0

    assert manager.hear(0.1) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
def test_where_the_manager_does_not_watch_this_process_there_are_none(
    manager: Systemd, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert watchdog_pings() is None

    assert ("WATCHDOG_USEC" in caplog.text) == (environment.get("WATCHDOG_USEC") in ("soon", "0"))
