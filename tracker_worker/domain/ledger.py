# SPDX-License-Identifier: Apache-2.0
"""The ledger of a node, and the ledgers of a host. Every change to a ledger is an event that ``NodeLedger.apply`` applies.

Usage is defined as the reserve plus the sum over the allocations. The running totals here are a cache of that sum: a
release subtracts exactly the vector that was charged.

Not thread-safe: the engine loop, or the thread that holds a tracker's lock, owns the ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tracker_worker.domain import events
from tracker_worker.domain.allocation import BEGUN, Allocation
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.resources import ZERO, Resources
from tracker_worker.domain.stats import Stats
from tracker_worker.errors import InvalidInput, NodeNotFound


@dataclass(slots=True)
class ProjectUsage:
    """The usage of one project on one node."""

    instances: int = 0
    resources: Resources = ZERO


class NodeLedger:
    """The ledger of one node.

    ``stored_generation`` is the generation at which this ledger was read or last committed. The first event after that
    makes ``generation`` the next number, and all events of one commit share it. ``touched`` names the instances whose
    allocation the next commit writes or deletes.
    """

    __slots__ = (
        "allocations",
        "begun",
        "charged",
        "drift",
        "generation",
        "host",
        "host_id",
        "id",
        "inventory",
        "name",
        "projects",
        "sequence",
        "stats",
        "stored_generation",
        "touched",
    )

    def __init__(
        self, *, id: int, host: str, name: str, host_id: int = 0, generation: int = 0, sequence: int = 0
    ) -> None:
        self.id = id
        self.host_id = host_id
        self.host = host
        self.name = name
        self.inventory: Inventory | None = None
        self.allocations: dict[str, Allocation] = {}
        self.begun: set[str] = set()
        self.charged = ZERO
        self.projects: dict[str | None, ProjectUsage] = {}
        self.stats = Stats()
        self.generation = generation
        self.stored_generation = generation
        self.sequence = sequence
        self.touched: set[str] = set()
        self.drift: Resources | None = None

    @property
    def disabled(self) -> bool:
        """Whether the node has no inventory, because its driver reports none. Claims on the node are then not tracked."""
        return self.inventory is None

    @property
    def usage(self) -> Resources:
        """The reserve plus the sum over the allocations."""
        return self.charged if self.inventory is None else self.inventory.reserved + self.charged

    @property
    def next_generation(self) -> int:
        """The generation that the next commit gives to the node."""
        return self.stored_generation + 1

    @property
    def dirty(self) -> bool:
        """Whether the ledger has changes to commit."""
        return self.generation != self.stored_generation

    def restore(self, allocation: Allocation) -> None:
        """Put back an allocation that was read from a store. If its instance holds nothing any more, drop the allocation; the
        next commit deletes its row."""
        if allocation.instance.releases:
            self.touched.add(allocation.uuid)
        else:
            self._charge(allocation)
            self.touched.discard(allocation.uuid)

    def apply(self, event: events.Event) -> None:
        """Apply ``event``, which was decided on exactly this ledger. The event takes the next sequence number."""
        match event:
            case events.ClaimBegun(allocation=new):
                self._charge(new)
            case events.ClaimFinished(allocation=new) | events.UsageUpdated(allocation=new):
                self._release(new.uuid)
                self._charge(new)
            case events.ClaimAborted(allocation=old) | events.UsageReleased(before=old):
                self._release(old.uuid)
            case events.ClaimExpired(allocation=old, released=released):
                self._release(old.uuid)
                if not released:
                    self._charge(old)
            case events.NodeUpdated(inventory=inventory):
                self.inventory = inventory
            case events.NodeDrift():
                self.drift = None
            case events.ClaimRejected():
                pass
        self.sequence += 1
        self.generation = self.next_generation

    def committed(self) -> None:
        """Note that the store has committed all changes up to now."""
        self.stored_generation = self.generation
        self.touched.clear()

    def _charge(self, new: Allocation) -> None:
        uuid = new.instance.uuid
        self.allocations[uuid] = new
        if new.claim_state == BEGUN:
            self.begun.add(uuid)
        self.charged += new.resources
        project = self.projects.setdefault(new.instance.project_id, ProjectUsage())
        project.instances += 1
        project.resources += new.resources
        self.stats.add(new.instance)
        self.touched.add(uuid)

    def _release(self, uuid: str) -> None:
        old = self.allocations.pop(uuid)
        self.begun.discard(uuid)
        self.charged -= old.resources
        project = self.projects[old.instance.project_id]
        project.instances -= 1
        project.resources -= old.resources
        if not project.instances:
            del self.projects[old.instance.project_id]
        self.stats.remove(old.instance)
        self.touched.add(uuid)


class HostLedger:
    """The ledgers of one host's nodes, by node name."""

    __slots__ = ("id", "name", "nodes")

    def __init__(self, *, id: int, name: str) -> None:
        self.id = id
        self.name = name
        self.nodes: dict[str, NodeLedger] = {}

    def __iter__(self) -> Iterator[NodeLedger]:
        return iter(self.nodes.values())

    def node(self, name: str) -> NodeLedger:
        """The node of that name. Raises NodeNotFound: the host has no such node."""
        try:
            return self.nodes[name]
        except KeyError:
            raise NodeNotFound(host=self.name, node=name) from None

    def node_or_only(self, name: str | None, field: str) -> NodeLedger:
        """The node of that name, or the host's only node when ``name`` is None.

        Raises NodeNotFound: the host has no such node, or no node at all. Raises InvalidInput (for ``field``): ``name`` is
        None and the host has several nodes.
        """
        if name is not None:
            return self.node(name)
        if len(self.nodes) == 1:
            return next(iter(self.nodes.values()))
        if not self.nodes:
            raise NodeNotFound(host=self.name, node=None)
        raise InvalidInput(field=field, reason=f"must name a node: host {self.name} has {len(self.nodes)}")

    def holding(self, uuid: str) -> NodeLedger | None:
        """The node that is charged for this instance, or None."""
        for ledger in self.nodes.values():
            if uuid in ledger.allocations:
                return ledger
        return None
