# SPDX-License-Identifier: Apache-2.0
"""A network that drops everything for a while: the run's own network namespace, or a proxy where a run may not have one."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from typing import Protocol

from .proxy import Proxy

_CLONE_NEWNET = 0x40000000  # sched.h


class Network(Protocol):
    """The way from the workers to the broker. ``kind`` says in one sentence what ``drop`` does."""

    kind: str

    def port(self, broker_port: int) -> int:
        """The port of 127.0.0.1 at which workers reach the broker."""

    def drop(self, seconds: float) -> None:
        """Let nothing through for ``seconds``. No connection is closed. Returns afterwards."""

    def close(self) -> None:
        """Let everything through, and end what was started."""


class OwnNamespace:
    """The network namespace that ``enter`` has made: all servers, workers and clients of this process are in it."""

    kind = "in a network namespace of the run, all packets between all processes are dropped"

    @classmethod
    def enter(cls) -> OwnNamespace | None:
        """Move this process into a namespace with nothing but the addresses of this machine. Must be called before the
        process has another thread. Returns None where the process may not do this; nothing is changed then.
        """
        if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("tc") is None:
            return None
        if ctypes.CDLL(None).unshare(_CLONE_NEWNET) != 0:
            return None
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        return cls()

    def port(self, broker_port: int) -> int:
        return broker_port

    def drop(self, seconds: float) -> None:
        subprocess.run(("tc", "qdisc", "add", "dev", "lo", "root", "blackhole"), check=True)
        try:
            threading.Event().wait(seconds)
        finally:
            self.close()

    def close(self) -> None:
        subprocess.run(("tc", "qdisc", "del", "dev", "lo", "root"), capture_output=True)


class StallingProxy:
    """A proxy in front of the broker, for workers only."""

    kind = "a proxy between workers and broker passes nothing on"

    def __init__(self) -> None:
        self._proxies: list[Proxy] = []

    def port(self, broker_port: int) -> int:
        proxy = Proxy(broker_port)
        proxy.open()
        self._proxies.append(proxy)
        return proxy.port

    def drop(self, seconds: float) -> None:
        for proxy in self._proxies:
            proxy.hold()
        try:
            threading.Event().wait(seconds)
        finally:
            for proxy in self._proxies:
                proxy.resume()

    def close(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        self._proxies.clear()
