# SPDX-License-Identifier: Apache-2.0
"""Every fault, with its weight. A fault begins something bad, and most end it after a time that they draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from random import Random

from tests.simulation.faults import (
    broker,
    copies,
    database,
    drivers,
    network,
    points,
    processes,
    queues,
    setback,
    workers,
)
from tests.simulation.world import World

Fault = Callable[[World, Random], str | None]
"""Makes it happen. Returns what it has drawn, for the trace; None: it cannot happen now."""

FAULTS: dict[str, tuple[float, Fault]] = {
    "crash": (3, processes.crash),
    "crash at a point": (2, points.crash_at),
    "hang": (1, points.hang),
    "pause": (2, processes.pause),
    "stop": (2, workers.stop),
    "newcomer": (1, workers.newcomer),
    "orphan": (1, workers.orphan),
    "clock": (1, processes.step_clock),
    "driver hangs": (1, drivers.hang),
    "driver fails": (1, drivers.fail),
    "other sizes": (1, drivers.resize),
    "node lost": (1, drivers.lose_node),
    "new node": (1, drivers.new_node),
    "connection lost": (3, network.break_connection),
    "partition": (2, network.partition),
    "alarm": (1, network.alarm),
    "copies": (2, network.copies),
    "broker restarts": (1.5, broker.restart),
    "late confirms": (1.5, broker.late_confirms),
    "the broker closes": (1, broker.close),
    "small messages": (0.5, broker.small_messages),
    "poison": (1, broker.poison),
    "full queue": (1.5, queues.full),
    "stuck queue": (1, queues.stuck),
    "queue deleted": (1.5, queues.delete),
    "exchange deleted": (0.5, queues.delete_exchange),
    "unbound": (1, queues.unbind),
    "replies": (1.5, queues.replies),
    "disorder": (1, queues.disorder),
    "store": (2, database.store_away),
    "slow commits": (2, database.store_slow),
    "commits in doubt": (2, database.doubt),
    "no writes": (1, database.refuses_writes),
    "unstorable": (1, database.unstorable),
    "copy of the database": (2, copies.serve_copy),
    "store set back": (2, setback.set_back),
}
"""Name -> weight, and what happens."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault at a time. What it draws, it draws from its own seed, so that other faults can be left out of a plan."""

    at: float
    name: str
    seed: int

    def happen(self, world: World) -> str | None:
        """Returns the line of the trace; None: it cannot happen now."""
        said = FAULTS[self.name][1](world, Random(self.seed))
        return None if said is None else f"{self.name}: {said}"


def drawn(random: Random, at: float, kinds: Collection[str] | None = None) -> Iterator[Planned]:
    """A fault by weight, of these kinds; None: of all. Without a kind there is none."""
    weights = {name: weight for name, (weight, _) in FAULTS.items() if kinds is None or name in kinds}
    if weights:
        [name] = random.choices(list(weights), list(weights.values()))
        yield Planned(at, name, random.getrandbits(32))
