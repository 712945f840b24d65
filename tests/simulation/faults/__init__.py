# SPDX-License-Identifier: Apache-2.0
"""Every fault, with its weight. A fault begins something bad, and most end it after a time that they draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from random import Random

from tests.simulation.faults import copies, database, network, points, processes
from tests.simulation.world import World

Fault = Callable[[World, Random], str | None]
"""Makes it happen. Returns what it has drawn, for the trace; None: it cannot happen now."""

FAULTS: dict[str, tuple[float, Fault]] = {
    "crash": (3, processes.crash),
    "crash at a point": (2, points.crash_at),
    "hang": (1, points.hang),
    "pause": (2, processes.pause),
    "clock": (1, processes.step_clock),
    "connection lost": (3, network.break_connection),
    "partition": (2, network.partition),
    "alarm": (1, network.alarm),
    "copies": (2, network.copies),
    "store": (2, database.store_away),
    "slow commits": (2, database.store_slow),
    "commits in doubt": (2, database.doubt),
    "unstorable": (1, database.unstorable),
    "copy of the database": (2, copies.serve_copy),
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
