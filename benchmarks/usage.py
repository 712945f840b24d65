# SPDX-License-Identifier: Apache-2.0
"""CPU and memory used by a process and its descendants."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

SETTLE_SECONDS = 0.3


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, of a process with all its threads and of its descendants, including ended ones."""
    process = psutil.Process(root)
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue  # ended: its parent's times include its time
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


class Meter:
    """The CPU time of processes, by name, from now on."""

    def __init__(self, watched: Mapping[str, int]) -> None:
        self._watched = watched
        self._before = self._seconds()

    def per_call(self, calls: int, own_seconds: float) -> dict[str, float]:
        """Microseconds for each of so many calls; ``own_seconds``, those of the generator, are among them. This waits for the
        work that servers do after the last reply: acknowledgements, cursors.
        """
        time.sleep(SETTLE_SECONDS)
        after = self._seconds()
        used = {name: (after[name] - before) * 1e6 / calls for name, before in self._before.items()}
        return {**used, "generator": own_seconds * 1e6 / calls}

    def _seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._watched.items()}


def peak_mb(pid: int) -> float:
    """The peak resident memory of a process (VmHWM of proc(5)), in MiB."""
    return _status(pid, "VmHWM")


def resident_mb(pid: int) -> float:
    """The present resident memory of a process, in MiB."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def listening(port: int) -> int:
    """The id of the process that listens on a local TCP port."""
    return next(
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid is not None and getattr(found.laddr, "port", None) == port
    )


def child(argument: str) -> int:
    """The id of this process's child that has ``argument`` in its command line."""
    return next(one.pid for one in psutil.Process().children() if argument in " ".join(one.cmdline()))
