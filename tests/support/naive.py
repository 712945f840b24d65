# SPDX-License-Identifier: Apache-2.0
"""A simple model of a host's ledger: dicts of the requested fields; all other values are counted anew each time.

The model shares no code with the package. It takes callers' input (dicts of fields, limits) and returns the expected
outcome: a tuple of the names of the events and the essence of the reply.
"""

from __future__ import annotations

import math
from typing import Any

KEYS = {"VCPU": "vcpu", "MEMORY_MB": "memory_mb", "DISK_GB": "disk_gb"}
KEPT = {"uuid", "vcpus", "memory_mb", "root_gb", "ephemeral_gb", "vm_state", "task_state", "os_type", "project_id",
        "display_name"}  # fmt: skip
HEAVY = ["resize_migrating", "rebuilding", "resize_prep", "image_snapshot", "image_backup"]

Fields = dict[str, Any]


def vector(fields: Fields) -> dict[str, int]:
    return {
        "VCPU": fields["vcpus"],
        "MEMORY_MB": fields["memory_mb"],
        "DISK_GB": fields["root_gb"] + fields["ephemeral_gb"],
    }


def gone(fields: Fields) -> bool:
    if fields["vm_state"] == "shelved_offloaded":
        return fields["task_state"] != "spawning"
    return fields["vm_state"] == "deleted"


class NaiveNode:
    def __init__(self) -> None:
        self.total: dict[str, int] | None = None
        self.reserve = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
        # uuid -> fields, vector, open, due, source
        self.held: dict[str, dict[str, Any]] = {}

    def used(self) -> dict[str, int]:
        reserve = self.reserve if self.total is not None else dict.fromkeys(KEYS, 0)
        return {name: reserve[name] + sum(held["vector"][name] for held in self.held.values()) for name in KEYS}

    def stats(self) -> dict[str, int]:
        everyone = [held["fields"] for held in self.held.values()]
        counts = {
            "num_instances": len(everyone),
            "num_vcpus_used": sum(fields["vcpus"] for fields in everyone),
            "io_workload": sum(fields["vm_state"] == "building" for fields in everyone)
            + sum(fields["task_state"] in HEAVY for fields in everyone),
        }
        for prefix, field in (
            ("num_vm", "vm_state"), ("num_task", "task_state"), ("num_os_type", "os_type"), ("num_proj", "project_id"),
        ):  # fmt: skip
            for fields in everyone:
                counts[f"{prefix}_{fields[field]}"] = sum(other[field] == fields[field] for other in everyone)
        return counts

    def busy(self) -> int:
        return sum(held["fields"]["task_state"] is not None for held in self.held.values())

    def projects(self) -> dict[str | None, tuple[int, dict[str, int]]]:
        answer = {}
        for project in {held["fields"]["project_id"] for held in self.held.values()}:
            theirs = [held["vector"] for held in self.held.values() if held["fields"]["project_id"] == project]
            answer[project] = (len(theirs), {name: sum(each[name] for each in theirs) for name in KEYS})
        return answer

    def open(self) -> set[str]:
        return {uuid for uuid, held in self.held.items() if held["open"]}


class NaiveHost:
    def __init__(self, names: list[str]) -> None:
        self.nodes = {name: NaiveNode() for name in names}

    def where(self, uuid: str) -> NaiveNode | None:
        return next((node for node in self.nodes.values() if uuid in node.held), None)

    def begin(
        self, name: str, fields: Fields, limits: Fields | None, capacity: bool, due: int
    ) -> tuple[list[str], Any]:
        node, uuid = self.nodes[name], fields["uuid"]
        if gone(fields):
            return [], "InvalidInput"
        if node.total is None:
            return [], None
        holder = self.where(uuid)
        if holder is not None:
            if holder is not node or node.held[uuid]["vector"] != vector(fields):
                return [], "ClaimConflict"
            return [], "begun" if node.held[uuid]["open"] else "finished"
        given = {name: limits[key] for name, key in KEYS.items() if limits and limits.get(key) is not None}
        source = "caller" if given else "capacity" if capacity else "unlimited"
        ceilings = {**(node.total if capacity else {}), **given}
        lacks = []
        for resource, wanted in vector(fields).items():
            if resource in ceilings and wanted != 0:
                limit, used = math.floor(ceilings[resource]), node.used()[resource]
                if used + wanted > limit:
                    lacks.append({"resource": resource, "requested": wanted, "used": used, "limit": limit})
        if lacks:
            return ["ClaimRejected"], lacks
        kept = {key: value for key, value in fields.items() if key in KEPT}
        node.held[uuid] = {"fields": kept, "vector": vector(fields), "open": True, "due": due, "source": source}
        return ["ClaimBegun"], "begun"

    def finish(self, uuid: str) -> tuple[list[str], Any]:
        node = self.where(uuid)
        if node is None or not node.held[uuid]["open"]:
            return [], None
        node.held[uuid]["open"] = False
        return ["ClaimFinished"], "finished"

    def abort(self, uuid: str) -> tuple[list[str], Any]:
        node = self.where(uuid)
        if node is None or not node.held[uuid]["open"]:
            return [], None
        del node.held[uuid]
        return ["ClaimAborted"], "aborted"

    def expire(self, name: str, release: bool, now: int) -> tuple[list[str], Any]:
        node = self.nodes[name]
        due = [uuid for uuid, held in node.held.items() if held["open"] and now > held["due"]]
        for uuid in due:
            if release:
                del node.held[uuid]
            else:
                node.held[uuid]["open"] = False
        return ["ClaimExpired"] * len(due), None

    def update(self, name: str, uuid: str, changes: Fields) -> tuple[list[str], Any]:
        held = self.nodes[name].held.get(uuid)
        if held is None:
            return [], {"tracked": False, "changed": False}
        fields = {**held["fields"], **{key: value for key, value in changes.items() if key in KEPT}}
        if fields == held["fields"]:
            return [], {"tracked": True, "changed": False}
        if gone(fields):
            del self.nodes[name].held[uuid]
            return ["UsageReleased"], {"tracked": True, "changed": True}
        held["fields"], held["vector"] = fields, vector(fields)
        return ["UsageUpdated"], {"tracked": True, "changed": True}

    def report(self, name: str, total: dict[str, int] | None, reserve: dict[str, int]) -> tuple[list[str], Any]:
        node = self.nodes[name]
        if total == node.total and (total is None or reserve == node.reserve):
            return [], None
        node.total, node.reserve = total, reserve
        return ["NodeUpdated"], None
