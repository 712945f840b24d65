# SPDX-License-Identifier: Apache-2.0
"""The demo's scheduler: it claims with limits, builds, updates, moves and deletes, all through TrackerAPI."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from tracker_worker.cli.demo.mover import Mover
from tracker_worker.client.api import TrackerAPI
from tracker_worker.client.moves import Kind
from tracker_worker.client.types import Node
from tracker_worker.errors import ComputeResourcesUnavailable

# name, vcpus, memory_mb, root_gb
FLAVORS = [("small", 1, 1024, 10), ("medium", 2, 4096, 20), ("large", 4, 8192, 40), ("xlarge", 8, 16384, 80)]
PROJECTS = ["astronomy", "biology", "chemistry", "physics"]
# How far a node may be overcommitted, by limit: the inventory's key and the ratio. The limits of each claim follow from it.
RATIOS = {"vcpu": ("vcpus", 4.0), "memory_mb": ("memory_mb", 1.25), "disk_gb": ("local_gb", 1.0)}
LOST_BUILD_SECONDS = 0.2
_MAX_CLAIMS = 4  # of one instance, each on another node


class BuildFailed(Exception):
    """A build that fails in the demo."""


class Scheduler:
    """Places instances. ``place`` may be called from several threads. ``counts`` counts instances, claims and moves by result;
    ``mover`` has moved some of the instances."""

    def __init__(self, api: TrackerAPI, hosts: Sequence[str], seed: int) -> None:
        self._api = api
        self._hosts = hosts
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.mover = Mover(api, choose=self._destination, limits=_limits, count=self._count)

    def place(self) -> None:
        """Place one instance: find a node, claim, build, and update, move or delete the instance, at random."""
        with self._lock:
            rng = random.Random(self._random.random())
        instance = _instance(rng)
        context = {"project_id": instance["project_id"], "user_id": "demo", "request_id": f"req-{instance['uuid']}"}
        tried: set[tuple[str, str]] = set()
        for _ in range(_MAX_CLAIMS):
            view = self._choose(context, self._hosts, rng, tried)
            if view is None:
                break
            tried.add((view["host"], view["node"]))
            try:
                self._build(context, view, instance, rng)
                return
            except ComputeResourcesUnavailable:
                self._count("refused")
        self._count("no room")

    def _choose(
        self, context: Mapping[str, str], hosts: Sequence[str], rng: random.Random, tried: Collection[tuple[str, str]]
    ) -> Node | None:
        """The view of the node with most free memory on two random hosts; it may be outdated when the node is claimed."""
        views: list[Node] = []
        for host in rng.sample(hosts, min(2, len(hosts))):
            views += self._api.list_nodes(context, host)
        views = [view for view in views if (view["host"], view["node"]) not in tried]
        return max(views, key=lambda view: (view["free_ram_mb"], view["node"]), default=None)

    def _destination(self, context: Mapping[str, str], kind: Kind, source: str, rng: random.Random) -> Node | None:
        """A resize may stay on its host; the other moves go to another one."""
        if kind == "resize" and rng.random() < 0.5:
            return self._choose(context, [source], rng, ())
        return self._choose(context, [host for host in self._hosts if host != source], rng, ())

    def _build(self, context: dict[str, str], view: Node, instance: dict[str, Any], rng: random.Random) -> None:
        host = view["host"]
        wanted = {**instance, "node": view["node"]}
        limits = _limits(view)
        draw = rng.random()
        if draw < 0.05:  # the build is lost: no scheduler finishes or aborts the claim
            self._api.begin_resource_claim(context, host, wanted, limits, timeout=LOST_BUILD_SECONDS)
            self._count("lost")
            return
        try:
            with self._api.resource_claim(context, host, wanted, limits) as claim:
                self._count("claimed")
                if draw < 0.15:
                    raise BuildFailed
        except BuildFailed:
            self._count("aborted")
            return
        self._count("built")
        identity = {"uuid": instance["uuid"], "node": view["node"]}
        self._api.cast_update_usage(context, host, {**identity, "vm_state": "active", "task_state": None})
        if draw < 0.30:
            self._api.cast_update_usage(context, host, {**identity, "memory_mb": instance["memory_mb"] * 2})
            self._count("grown")
        elif draw < 0.45 and claim is not None:
            self.mover.move(context, claim, instance, rng)
        elif draw > 0.60:
            self._api.cast_update_usage(context, host, {**identity, "vm_state": "deleted"})
            self._count("deleted")

    def _count(self, result: str) -> None:
        with self._lock:
            self.counts[result] += 1


def _limits(view: Mapping[str, Any]) -> dict[str, float]:
    return {limit: view[total] * ratio for limit, (total, ratio) in RATIOS.items()}


def _instance(rng: random.Random) -> dict[str, Any]:
    name, vcpus, memory_mb, root_gb = rng.choices(FLAVORS, weights=[8, 4, 2, 1])[0]
    uuid = str(UUID(int=rng.getrandbits(128), version=4))
    return {
        "uuid": uuid,
        "display_name": f"demo-{uuid[:8]}",
        "instance_type": name,
        "vm_state": "building",
        "task_state": "spawning",
        "os_type": rng.choice(["linux", "linux", "windows"]),
        "project_id": rng.choice(PROJECTS),
        "vcpus": vcpus,
        "memory_mb": memory_mb,
        "root_gb": root_gb,
        "ephemeral_gb": 0,
    }
