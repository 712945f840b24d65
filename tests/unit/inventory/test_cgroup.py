# SPDX-License-Identifier: Apache-2.0
"""Control group limits, read from directory trees with the kernel's layout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_worker.inventory.cgroup import MemoryLimit, cpu_limit, memory_limit

V1_UNLIMITED = "9223372036854771712"


def lay(root: Path, files: dict[str, str], *, membership: str) -> None:
    """Write ``files`` below sys/fs/cgroup, and the process's own groups to proc/self/cgroup."""
    for name, text in {**files, "../../../proc/self/cgroup": membership}.items():
        path = (root / "sys/fs/cgroup" / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert memory_limit(tmp_path) is None
    assert cpu_limit(tmp_path) is None


def test_this_machine_can_be_read() -> None:
    memory = memory_limit()
    assert memory is None or memory.limit_bytes > 0
    assert cpu_limit() is None or cpu_limit() == max(1, cpu_limit() or 0)


class TestVersion2:
    def test_max_is_no_limit(self, tmp_path: Path) -> None:
        lay(tmp_path, {"a/memory.max": "max", "a/cpu.max": "max 100000"}, membership="0::/a")
        assert memory_limit(tmp_path) is None
        assert cpu_limit(tmp_path) is None

    def test_the_lowest_limit_of_the_group_and_its_parents_counts(self, tmp_path: Path) -> None:
        files = {
            "a/memory.max": "3000",
            "a/memory.current": "30",
            "a/b/memory.max": "2000",
            "a/b/memory.current": "20",
            "a/b/c/memory.max": "max",
            "a/b/c/memory.current": "10",
            "a/cpu.max": "200000 100000",
            "a/b/cpu.max": "800000 100000",
            "a/b/c/cpu.max": "max 100000",
            # The limits of a sibling group must not count.
            "a/x/memory.max": "1",
            "a/x/cpu.max": "100000 100000",
        }
        lay(tmp_path, files, membership="0::/a/b/c")
        assert memory_limit(tmp_path) == MemoryLimit(limit_bytes=2000, used_bytes=20)
        assert cpu_limit(tmp_path) == 2

    def test_a_container_whose_mount_point_is_its_own_group_is_limited(self, tmp_path: Path) -> None:
        files = {"memory.max": "500", "memory.current": "5", "cpu.max": "300000 100000"}
        for membership in ("0::/", "0::/../../other", "0::/not/mounted/here"):
            lay(tmp_path, files, membership=membership)
            assert memory_limit(tmp_path) == MemoryLimit(limit_bytes=500, used_bytes=5)
            assert cpu_limit(tmp_path) == 3

    @pytest.mark.parametrize(("quota", "cpus"), [("250000 100000", 2), ("50000 100000", 1), ("1000 1000000", 1)])
    def test_a_quota_is_rounded_down_to_whole_cpus_but_not_to_none(self, tmp_path: Path, quota: str, cpus: int) -> None:
        lay(tmp_path, {"a/cpu.max": quota}, membership="0::/a")
        assert cpu_limit(tmp_path) == cpus

    def test_a_limit_of_0_is_a_limit(self, tmp_path: Path) -> None:
        lay(tmp_path, {"a/memory.max": "0"}, membership="0::/a")
        assert memory_limit(tmp_path) == MemoryLimit(limit_bytes=0, used_bytes=None)


class TestVersion1:
    def test_the_values_for_no_limit_are_read_as_no_limit(self, tmp_path: Path) -> None:
        files = {
            "memory/memory.limit_in_bytes": V1_UNLIMITED,
            "cpu/cpu.cfs_quota_us": "-1",
            "cpu/cpu.cfs_period_us": "100000",
        }
        lay(tmp_path, files, membership="4:memory:/\n1:cpu:/")
        assert memory_limit(tmp_path) is None
        assert cpu_limit(tmp_path) is None

    @pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
    def test_each_controller_has_its_own_path_and_mount(self, tmp_path: Path, mount: str) -> None:
        files = {
            "memory/memory.limit_in_bytes": V1_UNLIMITED,
            "memory/m/memory.limit_in_bytes": "4000",
            "memory/m/memory.usage_in_bytes": "40",
            "memory/m/n/memory.limit_in_bytes": V1_UNLIMITED,
            f"{mount}/c/cpu.cfs_quota_us": "400000",
            f"{mount}/c/cpu.cfs_period_us": "100000",
        }
        lay(tmp_path, files, membership="9:name=systemd:/s\n4:memory:/m/n\n1:cpu,cpuacct:/c")
        assert memory_limit(tmp_path) == MemoryLimit(limit_bytes=4000, used_bytes=40)
        assert cpu_limit(tmp_path) == 4

    def test_a_hybrid_hierarchy_reads_each_controller_from_its_own_version(self, tmp_path: Path) -> None:
        files = {"memory/m/memory.limit_in_bytes": "4000", "unified/u/cpu.max": "200000 100000"}
        lay(tmp_path, files, membership="4:memory:/m\n0::/u")
        assert memory_limit(tmp_path) == MemoryLimit(limit_bytes=4000, used_bytes=None)
        assert cpu_limit(tmp_path) == 2
