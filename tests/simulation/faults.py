# SPDX-License-Identifier: Apache-2.0
"""Every fault, with its weight. A fault begins something bad, and most end it after a time that they draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.world import Site, World

_LONG_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Fault:
    """``happen`` returns what is written into the trace, or None where it cannot happen now."""

    name: str
    weight: float
    happen: Callable[[World], str | None]


def _running(world: World) -> Site | None:
    running = [site for site in world.sites if site.worker is not None]
    return world.stage.random.choice(running) if running else None


def _span(world: World, most: float = _LONG_SECONDS) -> float:
    """Mostly short, sometimes long."""
    return world.stage.random.random() ** 3 * most


def crash(world: World) -> str | None:
    site = _running(world)
    if site is None:
        return None
    seconds = _span(world)
    site.restart(seconds)
    return f"{site.name} for {seconds:.2f} s"


def pause(world: World) -> str | None:
    site = _running(world)
    if site is None:
        return None
    seconds = _span(world)
    site.machine.pause(seconds)
    if seconds > 15 and site.bus is not None:
        site.bus.break_off()  # the broker has missed its heartbeats
    return f"{site.name} for {seconds:.2f} s"


def break_connection(world: World) -> str | None:
    site = _running(world)
    if site is None or site.bus is None or site.bus.connection is None:
        return None
    site.bus.break_off()
    return site.name


def partition(world: World) -> str | None:
    site = _running(world)
    if site is None or site.bus is None:
        return None
    bus, seconds = site.bus, _span(world)
    bus.partitioned = True
    bus.break_off()

    def end() -> None:
        bus.partitioned = False

    world.stage.later(seconds, end)
    return f"{site.name} from the broker for {seconds:.2f} s"


def alarm(world: World) -> str | None:
    if world.broker.blocked:
        return None
    seconds = _span(world)
    world.broker.block(seconds)
    return f"for {seconds:.2f} s"


def store_away(world: World) -> str | None:
    sites = [site for site in world.sites if world.stage.random.random() < 0.5]
    silent, seconds = world.stage.random.random() < 0.3, _span(world)
    for site in sites:
        site.link.away, site.link.silent = not silent, silent

    def end() -> None:
        for site in sites:
            site.link.away = site.link.silent = False

    world.stage.later(seconds, end)
    return f"{'silent' if silent else 'away'} for {[site.name for site in sites]}, {seconds:.2f} s"


def store_slow(world: World) -> str | None:
    site, seconds = world.stage.random.choice(world.sites), _span(world)
    site.link.delay = world.stage.random.random() ** 2 * 3

    def end() -> None:
        site.link.delay = 0.0

    world.stage.later(seconds, end)
    return f"commits of {site.name} take up to {site.link.delay:.2f} s for {seconds:.2f} s"


def doubt(world: World) -> str | None:
    site, seconds = world.stage.random.choice(world.sites), _span(world)
    site.link.doubtful = world.stage.random.random()

    def end() -> None:
        site.link.doubtful = 0.0

    world.stage.later(seconds, end)
    return f"commits of {site.name} for {seconds:.2f} s"


def step_clock(world: World) -> str | None:
    """The store's time of day, which all workers go by."""
    seconds = (world.stage.random.random() - 0.5) * 2 * world.stage.random.choice((0.5, 20, 4000))
    world.stage.ahead += seconds
    return f"by {seconds:.2f} s"


def copies(world: World) -> str | None:
    """The broker delivers some messages once more, later."""
    world.broker.copy_next = world.stage.random.randint(1, 20)
    return f"of {world.broker.copy_next} messages"


FAULTS = (
    Fault("crash", 3, crash),
    Fault("pause", 2, pause),
    Fault("connection lost", 3, break_connection),
    Fault("partition", 2, partition),
    Fault("alarm", 1, alarm),
    Fault("store", 2, store_away),
    Fault("slow commits", 2, store_slow),
    Fault("commits in doubt", 2, doubt),
    Fault("clock", 1, step_clock),
    Fault("copies", 2, copies),
)


def draw(world: World) -> str | None:
    """Let one fault happen. Returns the line of the trace."""
    fault = world.stage.random.choices(FAULTS, [fault.weight for fault in FAULTS])[0]
    said = fault.happen(world)
    return None if said is None else f"{fault.name}: {said}"


def heal(world: World) -> None:
    """End everything that is bad."""
    for site in world.sites:
        site.link.away = site.link.silent = False
        site.link.delay = site.link.doubtful = 0.0
        if site.bus is not None:
            site.bus.partitioned = False
        if site.worker is None and not site.starts:
            site.start()
