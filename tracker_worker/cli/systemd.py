# SPDX-License-Identifier: Apache-2.0
"""Notifications to systemd, by the protocols of sd_notify(3) and sd_watchdog_enabled(3)."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

LOG = logging.getLogger(__name__)

_MOST_STATUS_CHARACTERS = 1000


def is_notified() -> bool:
    """Whether there is a systemd to notify."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify_systemd(*lines: str) -> None:
    """Send ``lines``, as one datagram, to the socket that NOTIFY_SOCKET names ('@' at its beginning means the abstract name
    space); without NOTIFY_SOCKET do nothing. Never waits. A failure is logged: the worker serves without systemd too."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall("\n".join(lines).encode())
    except OSError as error:
        LOG.warning("systemd is not notified of %s: %s", " ".join(lines), error)


def status(text: str) -> str:
    """The line that has ``systemctl status`` show ``text``, on one line."""
    return f"STATUS={' '.join(text.split())[:_MOST_STATUS_CHARACTERS]}"


def reloading() -> tuple[str, str]:
    """The lines that say that the configuration is read again; READY=1 says that this is over."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_pings() -> Callable[[float], float] | None:
    """What the watched thread calls with the time, in seconds on the monotonic clock: it notifies systemd, and returns when it
    is to be called next, which is after half of the time that WATCHDOG_USEC gives. None: systemd does not watch this
    process."""
    if not is_notified() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = os.environ.get("WATCHDOG_USEC")
    if text is None:
        return None
    try:
        microseconds = int(text)
    except ValueError:
        microseconds = 0
    if microseconds <= 0:
        LOG.warning("WATCHDOG_USEC=%s is no time: systemd's watchdog gets no sign of life", text)
        return None

    def ping(now: float) -> float:
        notify_systemd("WATCHDOG=1")
        return now + microseconds / 2_000_000

    return ping
