# SPDX-License-Identifier: Apache-2.0
"""The driver that reports the machine on which the worker runs."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from oslo_config import cfg

from tracker_worker.conf.tracker import state_directory
from tracker_worker.inventory import base, cgroup

_MIB = 2**20
_GIB = 2**30


class HostDriver(base.InventoryDriver):
    """Reports one node with the host's name: the part of this machine that this process may use.

    - ``vcpus``: the CPUs in the process's affinity mask, or fewer if a control group's quota allows fewer.
    - ``memory_mb``: the physical memory, or a control group's limit if the limit is smaller.
    - ``local_gb``: the filesystem that holds ``[tracker] state_path``, or will hold it when the directory exists.

    Totals are rounded down to whole units and usage is rounded up. No hypervisor is involved and no process owns a CPU, so
    ``vcpus_used`` is 0; the used memory and disk are those of the machine. ``hypervisor_version`` is the version of the
    kernel as major * 1000000 + minor * 1000 + patch. Each call reads everything except the description of the processors.

    ``root`` is the directory that holds ``proc`` and ``sys``.
    """

    def __init__(self, host: str, conf: cfg.ConfigOpts, *, root: Path = Path("/")) -> None:
        super().__init__(host, conf)
        self._conf = conf
        self._root = root
        # Read once: on machines with many processors the kernel needs long for this file, and the content does not change.
        self._cpu_info = describe_cpu(root / "proc/cpuinfo")

    def get_available_nodes(self) -> Sequence[str]:
        """The name of the host."""
        return [self.host]

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """The inventory of this machine; None for a node with a name other than the host's.

        Raises: OSError when the kernel or the filesystem does not answer.
        """
        if nodename != self.host:
            return None
        memory_bytes, memory_used_bytes = self._memory()
        disk = psutil.disk_usage(str(nearest_existing(state_directory(self._conf))))
        return {
            "vcpus": self._vcpus(),
            "vcpus_used": 0,
            "memory_mb": memory_bytes // _MIB,
            "memory_mb_used": _ceil(memory_used_bytes, _MIB),
            "local_gb": disk.total // _GIB,
            "local_gb_used": _ceil(disk.used, _GIB),
            "disk_available_least": disk.free // _GIB,
            "cpu_info": self._cpu_info,
            "hypervisor_type": "host",
            "hypervisor_version": version_number(platform.release()),
            "hypervisor_hostname": platform.node(),
        }

    def _vcpus(self) -> int:
        # Only Linux and a few other systems have affinity masks; on any other system every CPU may be used.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
        paid_for = cgroup.cpu_limit(self._root)
        return usable if paid_for is None else min(usable, paid_for)

    def _memory(self) -> tuple[int, int]:
        """Total and used memory in bytes: both of the machine, or both of the control group that limits this process."""
        machine = psutil.virtual_memory()
        total, used = int(machine.total), int(machine.total - machine.available)
        limit = cgroup.memory_limit(self._root)
        if limit is None or limit.limit_bytes >= total:
            return total, used
        return limit.limit_bytes, min(limit.limit_bytes, used if limit.used_bytes is None else limit.used_bytes)


def describe_cpu(cpuinfo: Path) -> str:
    """The processors as a JSON object with sorted keys: arch, model and vendor (null if unknown), topology.

    The topology describes the whole machine, even if this process may use only a part of it: sockets, cores per socket,
    threads per core. Their product is always the number of logical CPUs. If sockets or cores differ from each other, or
    are not known, every CPU is reported as a core of one socket.
    """
    fields: dict[str, set[str]] = {}
    # Not every platform has the file, and only some architectures have these lines in the file.
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), set()).add(value.strip())
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    sockets = len(fields.get("physical id", ())) or 1
    cores, threads = physical // sockets, logical // physical
    if sockets * cores * threads != logical:
        sockets, cores, threads = 1, logical, 1
    description = {
        "arch": platform.machine(),
        "model": min(fields.get("model name", ()), default=None),
        "vendor": min(fields.get("vendor_id", ()), default=None),
        "topology": {"sockets": sockets, "cores": cores, "threads": threads},
    }
    return json.dumps(description, sort_keys=True)


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists, which is on the filesystem where the path would be created."""
    absolute = path.absolute()
    return next((candidate for candidate in (absolute, *absolute.parents) if os.path.exists(candidate)), Path("/"))


def version_number(release: str) -> int:
    """A kernel release such as ``6.1.0-18-amd64`` as one integer that sorts as versions do; 0 for any other text."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if match is None:
        return 0
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major * 1_000_000 + minor * 1_000 + patch


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
