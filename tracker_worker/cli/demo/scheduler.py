# SPDX-License-Identifier: Apache-2.0
"""The demo's scheduler: asks for node views, claims with limits, builds, updates and deletes. Everything through TrackerAPI."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.types import Node
from tracker_worker.errors import ComputeResourcesUnavailable

# name, vcpus, memory_mb, root_gb
FLAVORS = [("small", 1, 1024, 10), ("medium", 2, 4096, 20), ("large", 4, 8192, 40), ("xlarge", 8, 16384, 80)]
PROJECTS = ["astronomy", "biology", "chemistry", "physics"]
# How far a node may be overcommitted; the scheduler says so in the limits of each claim.
RATIOS = {"vcpu": ("vcpus", 4.0), "memory_mb": ("memory_mb", 1.25), "disk_gb": ("local_gb", 1.0)}
LOST_BUILD_SECONDS = 0.2
_TRIES = 4

Deleted = Callable[[], None]


class BuildFailed(Exception):
    """A build of the demo that goes wrong."""


class Scheduler:
    """``place`` may be called from several threads. ``counts`` says how the instances ended."""

    def __init__(self, api: TrackerAPI, hosts: Sequence[str], seed: int) -> None:
        self._api = api
        self._hosts = hosts
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def place(self) -> None:
        """One instance, from request to its end in the demo."""
        with self._lock:
            chance = random.Random(self._random.random())
        instance = _instance(chance)
        context = {"project_id": instance["project_id"], "user_id": "demo", "request_id": f"req-{instance['uuid']}"}
        tried: set[tuple[str, str]] = set()
        for _ in range(_TRIES):
            view = self._choose(context, instance, chance, tried)
            if view is None:
                break
            tried.add((view["host"], view["node"]))
            try:
                self._build(context, view, instance, chance)
                return
            except ComputeResourcesUnavailable:
                self._count("refused")
        self._count("no room")

    def _choose(
        self, context: dict[str, str], instance: dict[str, Any], chance: random.Random, tried: set[tuple[str, str]]
    ) -> Node | None:
        """A node with much free memory, of two hosts picked at random; its view may be old when it is claimed."""
        views: list[Node] = []
        for host in chance.sample(self._hosts, min(2, len(self._hosts))):
            views += self._api.list_nodes(context, host)
        views = [view for view in views if (view["host"], view["node"]) not in tried]
        return max(views, key=lambda view: (view["free_ram_mb"], view["node"]), default=None)

    def _build(
        self, context: dict[str, str], view: Mapping[str, Any], instance: dict[str, Any], chance: random.Random
    ) -> None:
        host = view["host"]
        wanted = {**instance, "node": view["node"]}
        limits = {limit: view[total] * ratio for limit, (total, ratio) in RATIOS.items()}
        fate = chance.random()
        if fate < 0.05:  # the build is lost: nobody will finish the claim
            self._api.begin_resource_claim(context, host, wanted, limits, timeout=LOST_BUILD_SECONDS)
            self._count("lost")
            return
        try:
            with self._api.resource_claim(context, host, wanted, limits):
                self._count("claimed")
                if fate < 0.15:
                    raise BuildFailed
        except BuildFailed:
            self._count("aborted")
            return
        self._count("built")
        named = {"uuid": instance["uuid"], "node": view["node"]}
        self._api.cast_update_usage(context, host, {**named, "vm_state": "active", "task_state": None})
        if fate < 0.30:
            self._api.cast_update_usage(context, host, {**named, "memory_mb": instance["memory_mb"] * 2})
            self._count("resized")
        if fate > 0.60:
            self._api.cast_update_usage(context, host, {**named, "vm_state": "deleted"})
            self._count("deleted")

    def _count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


def _instance(chance: random.Random) -> dict[str, Any]:
    name, vcpus, memory_mb, root_gb = chance.choices(FLAVORS, weights=[8, 4, 2, 1])[0]
    uuid = str(UUID(int=chance.getrandbits(128), version=4))
    return {
        "uuid": uuid,
        "display_name": f"demo-{uuid[:8]}",
        "instance_type": name,
        "vm_state": "building",
        "task_state": "spawning",
        "os_type": chance.choice(["linux", "linux", "windows"]),
        "project_id": chance.choice(PROJECTS),
        "vcpus": vcpus,
        "memory_mb": memory_mb,
        "root_gb": root_gb,
        "ephemeral_gb": 0,
    }
