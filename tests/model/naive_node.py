# SPDX-License-Identifier: Apache-2.0
"""One node of the naive ledger: what it is charged, and what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

LIMITS = {"VCPU": "vcpu", "MEMORY_MB": "memory_mb", "DISK_GB": "disk_gb", "VGPU": "VGPU"}
GPU_RATIO, GPU_STEP = 1.5, 2
UNBUILT = (None, "building", "error", "shelved", "shelved_offloaded")

Fields = dict[str, Any]


def vector(fields: Fields) -> dict[str, int]:
    return {
        "VCPU": fields["vcpus"],
        "MEMORY_MB": fields["memory_mb"],
        "DISK_GB": fields["root_gb"] + fields["ephemeral_gb"] + -(-fields.get("swap", 0) // 1024),
        **({"VGPU": fields["gpus"]} if fields["gpus"] else {}),
    }


@dataclass
class Charge:
    """What a node is charged for one instance, and its claim."""

    uuid: str
    claim_id: str
    vector: dict[str, int]
    project: str | None
    vm_state: str | None
    due: int
    on_expiry: str | None
    state: str = "begun"
    built: bool = False


@dataclass
class Node:
    """``silent_since``: the first look without an inventory since the last one with one. ``last_at``: by name of the stream,
    the time of its last event, kept by the world."""

    host: str
    name: str
    number: int
    held: dict[str, Charge] = field(default_factory=dict)
    deletions: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] | None = None
    reserve: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LIMITS, 0))
    look: str = ""
    silent_since: int = 0
    listed: bool = True
    elsewhere: bool = False
    draining: bool = False
    retired: bool = False
    last_at: int = 0

    @property
    def place(self) -> tuple[str, str]:
        return self.host, self.name

    def time(self, now: int) -> int:
        return max(now, self.last_at)

    def state(self) -> str:
        if self.retired:
            return "retired"
        if self.draining:
            return "draining"
        if not self.listed:
            return "missing"
        if self.elsewhere:
            return "unknown"
        if self.total is not None:
            return "open" if self.look == "answered" else "stale"
        return "unsupported" if self.look == "nothing" else "unknown"

    def used(self) -> dict[str, int]:
        sums = {name: sum(charge.vector.get(name, 0) for charge in self.held.values()) for name in LIMITS}
        used = {name: self.reserve.get(name, 0) + amount for name, amount in sums.items()}
        return {name: amount for name, amount in used.items() if amount or name != "VGPU"}

    def looked(self, total: dict[str, int] | None, reserve: dict[str, int], failed: bool, now: int) -> None:
        """A look at the node has brought an inventory, nothing, or an error."""
        if total is not None:
            self.total, self.reserve, self.look = total, reserve, "answered"
            return
        if self.look in ("", "answered"):
            self.silent_since = self.time(now)
        self.look = "failed" if failed else "nothing"

    def joined(self, other: Node) -> None:
        """Take the place of an empty node."""
        self.listed, self.draining = other.listed, self.draining or other.draining
        if other.look:
            self.look, self.silent_since = other.look, other.silent_since
            if other.total is not None:
                self.total, self.reserve = other.total, other.reserve
        for uuid, at in other.deletions.items():
            self.deletions[uuid] = max(at, self.deletions.get(uuid, 0))
