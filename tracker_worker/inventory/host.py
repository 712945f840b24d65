# SPDX-License-Identifier: Apache-2.0
"""The driver that reports the machine it runs on."""

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

from tracker_worker.inventory import base, cgroup

_MIB = 2**20
_GIB = 2**30


class HostDriver(base.InventoryDriver):
    """One node, named as the host: this machine, as far as this process may use it.

    - ``vcpus``: the CPUs in the process's affinity mask, or fewer where a control group's quota pays for fewer.
    - ``memory_mb``: the physical memory, or a control group's limit where that is less.
    - ``local_gb``: the filesystem that holds ``[tracker] state_path``, or will hold it once it exists.

    Totals are rounded down and usage is rounded up, to whole units. There is no hypervisor to ask: no process owns a
    CPU, so ``vcpus_used`` is 0, and memory and disk in use are the machine's. ``hypervisor_version`` is the kernel's,
    as major * 1000000 + minor * 1000 + patch. Everything but the description of the processors is read at each call.

    ``root`` is where ``proc`` and ``sys`` are.
    """

    def __init__(self, host: str, conf: cfg.ConfigOpts, *, root: Path = Path("/")) -> None:
        super().__init__(host, conf)
        self._conf = conf
        self._root = root
        # Once: on machines with many processors the kernel takes its time over this file, and it does not change.
        self._cpu_info = describe_cpu(root / "proc/cpuinfo")

    def get_available_nodes(self) -> Sequence[str]:
        """The host itself."""
        return [self.host]

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        """What this machine has; None for a node other than the host.

        Raises: OSError when the kernel or the filesystem does not answer.
        """
        if nodename != self.host:
            return None
        memory_bytes, memory_used_bytes = self._memory()
        disk = psutil.disk_usage(str(nearest_existing(Path(self._conf.tracker.state_path))))
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
        # The affinity mask is a notion of Linux and a few others; elsewhere every CPU may be used.
        usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else psutil.cpu_count() or 1
        paid_for = cgroup.cpu_limit(self._root)
        return usable if paid_for is None else min(usable, paid_for)

    def _memory(self) -> tuple[int, int]:
        """Total and used, in bytes, both of the machine or both of the group that limits us."""
        machine = psutil.virtual_memory()
        total, used = int(machine.total), int(machine.total - machine.available)
        limit = cgroup.memory_limit(self._root)
        if limit is None or limit.limit_bytes >= total:
            return total, used
        return limit.limit_bytes, min(limit.limit_bytes, used if limit.used_bytes is None else limit.used_bytes)


def describe_cpu(cpuinfo: Path) -> str:
    """The processors as a JSON object with sorted keys: arch, model and vendor (null if unknown), topology.

    The topology is the machine's, whatever this process may use of it: sockets, cores per socket, threads per core.
    Their product is always the number of logical CPUs; where the sockets or cores are not alike, or cannot be told,
    every CPU is given as a core of one socket.
    """
    fields: dict[str, set[str]] = {}
    # Not every platform has the file, and only some architectures have these lines in it.
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
    """The path itself, or the nearest directory above it that exists: the filesystem on which it would be created."""
    absolute = path.absolute()
    return next((candidate for candidate in (absolute, *absolute.parents) if os.path.exists(candidate)), Path("/"))


def version_number(release: str) -> int:
    """A kernel release such as ``6.1.0-18-amd64`` as one integer that sorts as versions do; 0 if it is no version."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if match is None:
        return 0
    major, minor, patch = (int(part or 0) for part in match.groups())
    return major * 1_000_000 + minor * 1_000 + patch


def _ceil(amount: int, unit: int) -> int:
    return -(-amount // unit)
