# SPDX-License-Identifier: Apache-2.0
"""The state of the ledgers and of what waits, as whoever looks from outside sees it.

It is taken on the engine's thread between two batches, so that nothing is in it that is not committed. It keeps references to
values that never change, which costs the engine about a microsecond a node; whoever looks makes the figures of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import msgspec

from tracker_worker import threads
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import Life
from tracker_worker.domain.resources import Resources
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.ledgers import Ledgers

Project = tuple[str, int, Resources]
"""Its id, its instances, and what they are charged."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A node as it was committed last. ``claims`` counts those that are begun, ``moving`` what is charged for moves beside
    the ``instances``."""

    host: str
    node: str
    generation: int
    life: Life
    inventory: Inventory | None
    charged: Resources
    instances: int
    claims: int
    moving: int
    projects: tuple[Project, ...] = ()

    def capacity(self) -> dict[str, int]:
        """Class -> capacity, as ``get_node`` has it; empty where no inventory is known."""
        return {} if self.inventory is None else {name: each.capacity for name, each in self.inventory.classes.items()}

    def used(self) -> dict[str, int]:
        """Class -> what instances are charged, as ``get_node`` has it: the reserve is not in it."""
        names = {**self.capacity(), **dict(self.charged.custom)}
        return {name: self.charged[name] for name in names}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts whose chores this worker does, with their nodes. ``taken_at``, and of the oldest
    request of each host its receipt, ``oldest``, are in seconds on the monotonic clock; 0.0: never."""

    taken_at: float = 0.0
    ledger_id: str = ""
    nodes: tuple[NodeState, ...] = ()
    oldest: Mapping[str, float] = {}


class Snapshots:
    """Any thread may read ``last`` and call ``look``; ``take`` belongs to the engine's thread."""

    def __init__(
        self,
        *,
        ledgers: Ledgers,
        held: Callable[[], Iterable[str]],
        waiting: Callable[[], list[PendingRequest]],
        run_once: Callable[[Callable[[], None]], None],
        monotonic: Callable[[], float],
        projects: bool,
        runtime: threads.Runtime,
    ) -> None:
        """``held``: the hosts whose chores this worker does; ``waiting``: the requests that are not finished.
        ``run_once`` has the engine call a function between two batches. ``projects``: whether what projects are charged is part
        of it."""
        self._ledgers = ledgers
        self._held = held
        self._waiting = waiting
        self._monotonic = monotonic
        self._projects = projects
        self._run_once = run_once
        self._taken = runtime.event()
        self.last = Snapshot()

    def look(self, seconds: float) -> bool:
        """Have the engine look at everything, and wait for that for at most so long. Returns whether it is done."""
        self._taken.clear()
        self._run_once(self._take)
        return self._taken.wait(seconds)

    def _take(self) -> None:
        self.take()
        self._taken.set()

    def take(self) -> None:
        """Look at everything. Of a host whose ledger is not in memory now, what was seen last stays."""
        before = {(node.host, node.node): node for node in self.last.nodes}
        by_host: dict[str, list[NodeState]] = {}
        for node in self.last.nodes:
            by_host.setdefault(node.host, []).append(node)
        nodes: list[NodeState] = []
        for name in sorted(self._held()):
            host = self._ledgers.find(name)
            if host is None:
                nodes += by_host.get(name, ())
            else:
                nodes += [self._state(ledger, before.get((name, ledger.name))) for ledger in host]
        oldest: dict[str, float] = {}
        for request in self._waiting():
            for name in _hosts_of(request):
                oldest[name] = min(oldest.get(name, request.received_at), request.received_at)
        self.last = Snapshot(
            taken_at=self._monotonic(),
            ledger_id=self._ledgers.ledger_id or "",
            nodes=tuple(nodes),
            oldest=oldest,
        )

    def _state(self, ledger: NodeLedger, before: NodeState | None) -> NodeState:
        if before is not None and before.generation == ledger.generation and before.life is ledger.life:
            return before
        projects: tuple[Project, ...] = ()
        if self._projects:
            projects = tuple([(name or "", each.instances, each.resources) for name, each in ledger.projects.items()])
        return NodeState(
            host=ledger.host,
            node=ledger.name,
            generation=ledger.generation,
            life=ledger.life,
            inventory=ledger.inventory,
            charged=ledger.charged,
            instances=len(ledger.allocations),
            claims=len(ledger.begun),
            moving=len(ledger.moving),
            projects=projects,
        )


def _hosts_of(request: PendingRequest) -> tuple[str, ...]:
    if request.operation is not None:
        return request.operation.hosts
    source = request.delivery.source
    return () if source in (SHARED, FANOUT) else (source,)
