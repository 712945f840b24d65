# SPDX-License-Identifier: Apache-2.0
"""The limits on memory and CPU time that the control groups of Linux set for this process.

The functions read both hierarchies, because a hybrid system has controllers in either: version 2 (the kernel's
Documentation/admin-guide/cgroup-v2.rst) and version 1 (admin-guide/cgroup-v1/memory.rst, scheduler/sched-bwc.rst).
A group is bound by its own limit and by the limits of all groups above it, so the smallest limit on the way to the root
counts. If no hierarchy is mounted, there is no limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Version 1 writes "no limit" as the largest signed 64-bit number, rounded down to a page.
_V1_UNLIMITED_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The tightest memory limit above this process, in bytes."""

    limit_bytes: int
    #: The memory that the limited group uses, page cache included; None when the kernel does not report it.
    used_bytes: int | None


def memory_limit(root: Path = Path("/")) -> MemoryLimit | None:
    """The tightest memory limit, or None if there is no limit. ``root`` is the directory that holds ``proc`` and ``sys``.

    Raises: OSError when a file exists and cannot be read.
    """
    limits = []
    for group in _groups(root, "memory"):
        for limit_file, usage_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = _read_words(group / limit_file)
            if limit and limit[0] != "max" and int(limit[0]) < _V1_UNLIMITED_BYTES:
                usage = _read_words(group / usage_file)
                limits.append(MemoryLimit(int(limit[0]), int(usage[0]) if usage else None))
    return min(limits, key=lambda found: found.limit_bytes, default=None)


def cpu_limit(root: Path = Path("/")) -> int | None:
    """The number of whole CPUs that the tightest quota allows, at least 1, or None if there is no quota. ``root`` is the
    directory that holds ``proc`` and ``sys``.

    Raises: OSError when a file exists and cannot be read.
    """
    limits = []
    for group in _groups(root, "cpu"):
        quota = _read_words(group / "cpu.max")
        if not quota:
            quota = _read_words(group / "cpu.cfs_quota_us") + _read_words(group / "cpu.cfs_period_us")
        # "No limit" is "max" in version 2 and -1 in version 1.
        if len(quota) == 2 and quota[0] != "max" and int(quota[0]) > 0:
            limits.append(max(1, int(quota[0]) // int(quota[1])))
    return min(limits, default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directories of this process's groups for one controller in both hierarchies, each group up to its mount point."""
    mounts = root / "sys/fs/cgroup"
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            # Version 2 is mounted here, or, on a hybrid system with version 1, in "unified".
            yield from _up_to_mount(mounts, path)
            yield from _up_to_mount(mounts / "unified", path)
        elif controller in controllers.split(","):
            # Controllers that share a mount ("cpu,cpuacct") usually, but not always, have a symbolic link each.
            mount = mounts / controller
            yield from _up_to_mount(mount if mount.is_dir() else mounts / controllers, path)


def _up_to_mount(mount: Path, group: str) -> Iterator[Path]:
    parts = [part for part in group.split("/") if part]
    if ".." in parts:
        # The group is outside our cgroup namespace; of the groups above, only the mount point is visible.
        parts = []
    # In a container the path is often the host's, while the mount point is already our group. The directories below the
    # mount point then do not exist, and their files read as empty.
    for depth in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:depth])


def _read_words(path: Path) -> list[str]:
    return _read_text(path).split()


def _read_text(path: Path) -> str:
    """The file's text, or "" if the file does not exist, because a group need not have every controller."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return ""
