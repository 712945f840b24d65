# SPDX-License-Identifier: Apache-2.0
"""Every fault, with its weight. A fault begins something bad, and most end it after a time that they draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.simulation.world import Site, World

_LONG_SECONDS = 20.0


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


def _running(world: World, random: Random) -> Site | None:
    running = [site for site in world.sites if site.worker is not None]
    return random.choice(running) if running else None


def _span(random: Random, most: float = _LONG_SECONDS) -> float:
    """Mostly short, sometimes long."""
    return random.random() ** 3 * most


def crash(world: World, random: Random) -> str | None:
    site = _running(world, random)
    if site is None:
        return None
    seconds = _span(random)
    site.restart(seconds)
    return f"{site.name} for {seconds:.2f} s"


def pause(world: World, random: Random) -> str | None:
    site = _running(world, random)
    if site is None:
        return None
    seconds = _span(random)
    site.machine.pause(seconds)
    if seconds > 15 and site.bus is not None:
        site.bus.break_off()  # the broker has missed its heartbeats
    return f"{site.name} for {seconds:.2f} s"


def break_connection(world: World, random: Random) -> str | None:
    site = _running(world, random)
    if site is None or site.bus is None or site.bus.connection is None:
        return None
    site.bus.break_off()
    return site.name


def partition(world: World, random: Random) -> str | None:
    site = _running(world, random)
    if site is None or site.bus is None:
        return None
    bus, seconds = site.bus, _span(random)
    bus.partitioned = True
    bus.break_off()

    def end() -> None:
        bus.partitioned = False

    world.stage.later(seconds, end)
    return f"{site.name} from the broker for {seconds:.2f} s"


def alarm(world: World, random: Random) -> str | None:
    if world.broker.blocked:
        return None
    seconds = _span(random)
    world.broker.block(seconds)
    return f"for {seconds:.2f} s"


def store_away(world: World, random: Random) -> str | None:
    sites = [site for site in world.sites if random.random() < 0.5]
    silent, seconds = random.random() < 0.3, _span(random)
    for site in sites:
        site.link.away, site.link.silent = not silent, silent

    def end() -> None:
        for site in sites:
            site.link.away = site.link.silent = False

    world.stage.later(seconds, end)
    return f"{'silent' if silent else 'away'} for {[site.name for site in sites]}, {seconds:.2f} s"


def store_slow(world: World, random: Random) -> str | None:
    site, seconds = random.choice(world.sites), _span(random)
    site.link.delay = random.random() ** 2 * 3

    def end() -> None:
        site.link.delay = 0.0

    world.stage.later(seconds, end)
    return f"commits of {site.name} take up to {site.link.delay:.2f} s for {seconds:.2f} s"


def doubt(world: World, random: Random) -> str | None:
    site, seconds = random.choice(world.sites), _span(random)
    site.link.doubtful = random.random()

    def end() -> None:
        site.link.doubtful = 0.0

    world.stage.later(seconds, end)
    return f"commits of {site.name} for {seconds:.2f} s"


def step_clock(world: World, random: Random) -> str | None:
    """The store's time of day, which all workers go by."""
    seconds = (random.random() - 0.5) * 2 * random.choice((0.5, 20, 4000))
    world.stage.ahead += seconds
    return f"by {seconds:.2f} s"


def copies(world: World, random: Random) -> str | None:
    """The broker delivers some messages once more, later."""
    world.broker.copy_next = random.randint(1, 20)
    return f"of {world.broker.copy_next} messages"


FAULTS: dict[str, tuple[float, Callable[[World, Random], str | None]]] = {
    "crash": (3, crash),
    "pause": (2, pause),
    "connection lost": (3, break_connection),
    "partition": (2, partition),
    "alarm": (1, alarm),
    "store": (2, store_away),
    "slow commits": (2, store_slow),
    "commits in doubt": (2, doubt),
    "clock": (1, step_clock),
    "copies": (2, copies),
}
"""Name -> weight, and what happens."""


def drawn(random: Random, at: float) -> Planned:
    """A fault by weight."""
    [name] = random.choices(list(FAULTS), [weight for weight, _ in FAULTS.values()])
    return Planned(at, name, random.getrandbits(32))


def heal(world: World) -> None:
    """End everything that is bad."""
    for site in world.sites:
        site.link.away = site.link.silent = False
        site.link.delay = site.link.doubtful = 0.0
        if site.bus is not None:
            site.bus.partitioned = False
        if site.worker is None and not site.starts:
            site.start()
