# SPDX-License-Identifier: Apache-2.0
"""What a program and everything it has started have used of the machine."""

from __future__ import annotations

import re
from pathlib import Path

import psutil


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, of a process with all its threads and of its descendants, ended ones included."""
    process = psutil.Process(root)
    seconds = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue  # its parent has its time now
        seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def peak_mb(pid: int) -> float:
    """The most memory that a process has had resident (VmHWM of proc(5)), in MiB."""
    return _status(pid, "VmHWM")


def resident_mb(pid: int) -> float:
    """The memory that a process has resident now, in MiB."""
    return _status(pid, "VmRSS")


def _status(pid: int, field: str) -> float:
    found = re.search(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def listening(port: int) -> int:
    """The process that listens on a local TCP port."""
    return next(
        found.pid
        for found in psutil.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN and found.pid is not None and getattr(found.laddr, "port", None) == port
    )


def child(argument: str) -> int:
    """This process's child that has ``argument`` within its command line."""
    return next(one.pid for one in psutil.Process().children() if argument in " ".join(one.cmdline()))
