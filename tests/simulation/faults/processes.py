# SPDX-License-Identifier: Apache-2.0
"""What happens to the processes of workers and to their clocks."""

from __future__ import annotations

from random import Random

from tests.simulation.faults.draw import running, span
from tests.simulation.world import World


def crash(world: World, random: Random) -> str | None:
    site = running(world, random)
    if site is None:
        return None
    seconds = span(random)
    site.restart(seconds)
    return f"{site.name} for {seconds:.2f} s"


def pause(world: World, random: Random) -> str | None:
    site = running(world, random)
    if site is None:
        return None
    seconds = span(random)
    site.machine.pause(seconds)
    if seconds > 15 and site.bus is not None:
        site.bus.network.break_off()  # the broker has missed its heartbeats
    return f"{site.name} for {seconds:.2f} s"


def step_clock(world: World, random: Random) -> str | None:
    """The store's time of day, which all workers go by."""
    seconds = (random.random() - 0.5) * 2 * random.choice((0.5, 20, 4000))
    world.stage.ahead += seconds
    world.judge.clock_stepped()
    return f"by {seconds:.2f} s"
