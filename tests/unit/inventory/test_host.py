# SPDX-License-Identifier: Apache-2.0
"""The driver that reports the machine on which it runs."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from tests.support.inventory import DriverContract, make_conf
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.host import HostDriver, describe_cpu, nearest_existing, version_number

GIB = 2**30
MIB = 2**20


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A machine with 8 CPUs in 2 sockets, 16 GiB of memory and a disk of 100.5 GiB."""
    machine = SimpleNamespace(
        affinity=set(range(8)),
        memory=SimpleNamespace(total=16 * GIB + 5, available=12 * GIB),
        disk=SimpleNamespace(total=100 * GIB + GIB // 2, used=10 * GIB + 1, free=90 * GIB - 1),
        cpus={True: 8, False: 4},
        asked=[],
    )

    def disk_usage(path: str) -> Any:
        machine.asked.append(path)
        return machine.disk

    def cpu_count(logical: bool = True) -> Any:
        return machine.cpus[logical]

    # Some platforms have no affinity mask.
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: machine.affinity, raising=False)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine.memory)
    monkeypatch.setattr(psutil, "disk_usage", disk_usage)
    monkeypatch.setattr(psutil, "cpu_count", cpu_count)
    return machine


def lay_cgroup(root: Path, **files: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text("0::/g\n")
    (root / "sys/fs/cgroup/g").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (root / "sys/fs/cgroup/g" / name.replace("_", ".")).write_text(text)


def resource_of(root: Path, *, state_path: Path | None = None) -> dict[str, Any]:
    driver = HostDriver("h1", make_conf(state_path=state_path or root), root=root)
    resource = driver.get_available_resource("h1")
    assert resource is not None
    return dict(resource)


class TestContractOnThisMachine(DriverContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> InventoryDriver:
        return HostDriver("h1", make_conf(state_path=tmp_path))

    def test_this_machine_has_cpus_and_memory(self, driver: InventoryDriver) -> None:
        resource = driver.get_available_resource("h1")
        assert resource is not None
        assert resource["vcpus"] >= 1
        assert resource["memory_mb"] > 0
        assert 0 < resource["memory_mb_used"] <= resource["memory_mb"]
        assert resource["hypervisor_hostname"] == platform.node()


def test_the_only_node_is_named_as_the_host() -> None:
    assert HostDriver("h1", make_conf()).get_available_nodes() == ["h1"]


def test_totals_are_rounded_down_and_usage_up(machine: SimpleNamespace, tmp_path: Path) -> None:
    resource = resource_of(tmp_path)
    assert (resource["memory_mb"], resource["memory_mb_used"]) == (16384, 4097)
    assert (resource["local_gb"], resource["local_gb_used"], resource["disk_available_least"]) == (100, 11, 89)


class TestProcessors:
    def test_only_cpus_in_the_affinity_mask_count(self, machine: SimpleNamespace, tmp_path: Path) -> None:
        machine.affinity = {2, 3, 5}
        resource = resource_of(tmp_path)
        assert (resource["vcpus"], resource["vcpus_used"]) == (3, 0)

    @pytest.mark.parametrize(("quota", "vcpus"), [("350000 100000", 3), ("1600000 100000", 8), ("max 100000", 8)])
    def test_a_quota_only_reduces_the_number_of_cpus(
        self, machine: SimpleNamespace, tmp_path: Path, quota: str, vcpus: int
    ) -> None:
        lay_cgroup(tmp_path, cpu_max=quota)
        assert resource_of(tmp_path)["vcpus"] == vcpus

    def test_without_affinity_masks_every_cpu_counts(
        self, machine: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "sched_getaffinity")
        assert resource_of(tmp_path)["vcpus"] == 8


class TestMemory:
    def test_a_group_limit_below_the_physical_memory_counts_with_the_groups_usage(
        self, machine: SimpleNamespace, tmp_path: Path
    ) -> None:
        lay_cgroup(tmp_path, memory_max=str(2 * GIB), memory_current=str(300 * MIB + 1))
        resource = resource_of(tmp_path)
        assert (resource["memory_mb"], resource["memory_mb_used"]) == (2048, 301)

    def test_a_group_limit_above_the_physical_memory_is_ignored(self, machine: SimpleNamespace, tmp_path: Path) -> None:
        lay_cgroup(tmp_path, memory_max=str(64 * GIB), memory_current="1")
        resource = resource_of(tmp_path)
        assert (resource["memory_mb"], resource["memory_mb_used"]) == (16384, 4097)

    def test_usage_is_never_more_than_the_limit(self, machine: SimpleNamespace, tmp_path: Path) -> None:
        lay_cgroup(tmp_path, memory_max=str(2 * GIB))
        assert resource_of(tmp_path)["memory_mb_used"] == 2048


class TestDisk:
    def test_the_filesystem_of_the_state_path_is_measured(self, machine: SimpleNamespace, tmp_path: Path) -> None:
        resource_of(tmp_path, state_path=tmp_path)
        assert machine.asked == [str(tmp_path)]

    def test_a_missing_state_path_is_measured_at_its_nearest_existing_parent(
        self, machine: SimpleNamespace, tmp_path: Path
    ) -> None:
        resource_of(tmp_path, state_path=tmp_path / "not" / "yet")
        assert machine.asked == [str(tmp_path)]

    def test_a_relative_path_and_a_dangling_link_have_a_filesystem(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        assert nearest_existing(Path("not/yet")) == tmp_path
        assert nearest_existing(Path("link/state")) == tmp_path
        assert nearest_existing(Path("/")) == Path("/")

    def test_a_filesystem_that_does_not_answer_raises(
        self, machine: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stale(path: str) -> None:
            raise OSError(116, "Stale file handle")

        monkeypatch.setattr(psutil, "disk_usage", stale)
        with pytest.raises(OSError, match="Stale"):
            resource_of(tmp_path)


class TestCpuInfo:
    def test_cpu_info_is_json_with_arch_model_vendor_and_topology(
        self, machine: SimpleNamespace, tmp_path: Path
    ) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpus = [
            f"processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: Xeon: A\nphysical id\t: {n % 2}\n"
            for n in range(8)
        ]
        cpuinfo.write_text("\n".join(cpus))
        assert json.loads(describe_cpu(cpuinfo)) == {
            "arch": platform.machine(),
            "model": "Xeon: A",
            "vendor": "GenuineIntel",
            "topology": {"sockets": 2, "cores": 2, "threads": 2},
        }

    def test_an_unknown_property_of_the_cpu_is_null(self, machine: SimpleNamespace, tmp_path: Path) -> None:
        machine.cpus = {True: 8, False: None}
        described = json.loads(describe_cpu(tmp_path / "no-such-file"))
        assert (described["model"], described["vendor"]) == (None, None)
        assert described["topology"] == {"sockets": 1, "cores": 8, "threads": 1}

    def test_the_product_of_an_uneven_topology_is_still_the_number_of_cpus(
        self, machine: SimpleNamespace, tmp_path: Path
    ) -> None:
        # 8 cores with two threads each, and 8 cores with one thread each.
        machine.cpus = {True: 24, False: 16}
        described = json.loads(describe_cpu(tmp_path / "no-such-file"))
        assert described["topology"] == {"sockets": 1, "cores": 24, "threads": 1}


@pytest.mark.parametrize(
    ("release", "number"),
    [("6.1.0-18-amd64", 6_001_000), ("6.18.44", 6_018_044), ("5.15-rc1", 5_015_000), ("unknown", 0), ("", 0)],
)
def test_a_kernel_release_becomes_an_integer(release: str, number: int) -> None:
    assert version_number(release) == number
