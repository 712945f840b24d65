# SPDX-License-Identifier: Apache-2.0
"""The machines that inventory drivers report, and how the drivers of each worker behave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from oslo_config import cfg

from tests.invariants.record import Place
from tests.simulation.machine import Machine
from tests.support.sized_traffic import CUSTOM
from tracker_worker.domain.views import node_view
from tracker_worker.inventory.base import InventoryDriver
from tracker_worker.inventory.fake import fake_resource
from tracker_worker.store.base import Store

_LOOK_SECONDS = 0.5
"""A driver that hangs goes on at most so late."""


def _resource(name: str) -> dict[str, Any]:
    return {**fake_resource(nodename=name), "resources": CUSTOM}


class Hardware:
    """``nodes``: host -> the nodes that it has. ``places``: those that clients use. ``fixed``: those of them that keep name and
    host. What the others are for, see ``operators``."""

    def __init__(self, hosts: Sequence[str]) -> None:
        first, second = hosts[0], hosts[min(1, len(hosts) - 1)]
        self.renamed: tuple[str, Sequence[str]] = (first, ("r1", "r2", "r3"))
        self.moved: tuple[str, Sequence[str]] = ("m1", tuple(dict.fromkeys((first, second))))
        self.drained: list[Place] = [(first, "n2"), (second, "n3")]
        self.retired: Place = (second, "spare")
        self.tight: list[Place] = [(second, "tight")]
        names: dict[str, list[str]] = {host: [] for host in hosts}
        names[first] += ["n1", "n2"]
        names[second] += ["n3", "tight"]
        for host in hosts[2:]:
            names[host].append(host)
        self.fixed: list[Place] = [(host, name) for host in hosts for name in names[host]]
        names[first] += ["r1", "m1"]
        self.places: list[Place] = [(host, name) for host in hosts for name in names[host]]
        names[second].append("spare")
        names[first].append("r2")  # nobody asks for it: it brings the names that it gets an earlier generation
        self.nodes: dict[str, dict[str, dict[str, Any]]] = {
            host: {name: _resource(name) for name in names[host]} for host in hosts
        }

    def unseen(self, store: Store, hosts: Sequence[str]) -> list[str]:
        """The nodes of these hosts that the ledger has in another state or with other sizes than they have, once every driver
        has answered and no node is drained."""
        found = []
        for host in hosts:
            known = {ledger.name: node_view(ledger) for ledger in store.load_host(host) or ()}
            for name, sizes in self.nodes[host].items():
                view = known.get(name, {})
                seen = view.get("state"), view.get("vcpus"), view.get("memory_mb")
                if seen != ("open", sizes["vcpus"], sizes["memory_mb"]):
                    found.append(f"the ledger has node {host}/{name} as {seen}")
            for name in known.keys() - self.nodes[host].keys():
                if known[name]["state"] not in ("missing", "stale", "unknown"):
                    found.append(f"the ledger has node {host}/{name} as {known[name]['state']}, and there is none")
        return sorted(found)

    def put(self, place: Place) -> None:
        """From now on the host has such a node."""
        self.nodes.setdefault(place[0], {}).setdefault(place[1], _resource(place[1]))

    def take(self, place: Place) -> None:
        """The host has no such node any more."""
        self.nodes.get(place[0], {}).pop(place[1], None)


class Mood:
    """How the driver of one host behaves on one worker. In ``hanging`` and ``failing``, None stands for the list of nodes;
    ``garbage``: nodes of which the driver reports nonsense. ``since``: when the present hang of each node began."""

    def __init__(self) -> None:
        self.hanging: set[str | None] = set()
        self.failing: set[str | None] = set()
        self.garbage: set[str | None] = set()
        self.since: dict[str | None, float] = {}


class SimulatedDriver(InventoryDriver):
    """The driver of one host in one process of a worker."""

    def __init__(self, host: str, machine: Machine, hardware: Hardware, mood: Mood) -> None:
        super().__init__(host, cfg.ConfigOpts())
        self._machine = machine
        self._hardware = hardware
        self._mood = mood

    def get_available_nodes(self) -> Sequence[str]:
        self._wait(None)
        nodes: list[Any] = list(self._hardware.nodes.get(self.host, {}))
        return [*nodes, 7, "x" * 300, "two\nlines"] if None in self._mood.garbage else nodes

    def get_available_resource(self, nodename: str) -> Mapping[str, Any] | None:
        self._wait(nodename)
        if nodename in self._mood.garbage:
            return {"vcpus": "many", "memory_mb": -1}
        found = self._hardware.nodes.get(self.host, {}).get(nodename)
        return None if found is None else dict(found)

    def _wait(self, what: str | None) -> None:
        while what in self._mood.hanging:
            self._machine.sleep(_LOOK_SECONDS)
        if what in self._mood.failing:
            raise OSError(f"{what or 'the list'} cannot be read")
