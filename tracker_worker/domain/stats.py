# SPDX-License-Identifier: Apache-2.0
"""Counters of a node's workload, with the names that the original tracker's statistics have."""

from __future__ import annotations

from collections import Counter

from tracker_worker.domain.instance import Instance
from tracker_worker.domain.states import IO_TASK_STATES, IO_VM_STATES

TOTALS = {"num_instances": 0, "num_vcpus_used": 0, "io_workload": 0}
"""The counters that are always there."""
VM_STATE = "num_vm_"
"""How the counter of a vm state begins; there are as many as vm states."""
_IDLE = "num_task_None"
_TASK = "num_task_"


class Stats:
    """Counters over the instances that were added and not removed. A counter that falls to 0 is deleted.

    Not thread-safe: the counters belong to a ledger.
    """

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, instance: Instance) -> None:
        self._count(instance, 1)

    def remove(self, instance: Instance) -> None:
        self._count(instance, -1)

    def _count(self, instance: Instance, sign: int) -> None:
        counts = self._counts
        for key, amount in (
            ("num_instances", 1),
            ("num_vcpus_used", instance.vcpus),
            ("io_workload", (instance.vm_state in IO_VM_STATES) + (instance.task_state in IO_TASK_STATES)),
            (f"{VM_STATE}{instance.vm_state}", 1),
            (f"{_TASK}{instance.task_state}", 1),
            (f"num_os_type_{instance.os_type}", 1),
            (f"num_proj_{instance.project_id}", 1),
        ):
            total = counts[key] + sign * amount
            if total:
                counts[key] = total
            else:
                counts.pop(key, None)

    def to_dict(self) -> dict[str, int]:
        """A copy of the counters: every counter that is not 0, and always the three totals."""
        return {**TOTALS, **self._counts}

    @property
    def num_instances(self) -> int:
        return self._counts["num_instances"]

    @property
    def num_vcpus_used(self) -> int:
        return self._counts["num_vcpus_used"]

    @property
    def io_workload(self) -> int:
        return self._counts["io_workload"]

    @property
    def current_workload(self) -> int:
        """The number of instances that have a task state."""
        return sum(count for key, count in self._counts.items() if key.startswith(_TASK) and key != _IDLE)

    def num_instances_for_project(self, project_id: str | None) -> int:
        return self._counts[f"num_proj_{project_id}"]

    def num_os_type(self, os_type: str | None) -> int:
        return self._counts[f"num_os_type_{os_type}"]
