# SPDX-License-Identifier: Apache-2.0
"""What happens between the workers and the broker, and to the broker."""

from __future__ import annotations

from random import Random

from tests.simulation.faults.draw import running, span
from tests.simulation.world import World


def break_connection(world: World, random: Random) -> str | None:
    site = running(world, random)
    if site is None or site.bus is None or not site.bus.network.sockets:
        return None
    site.bus.network.break_off()
    return site.name


def partition(world: World, random: Random) -> str | None:
    site = running(world, random)
    if site is None or site.bus is None:
        return None
    there, seconds = site.bus.network, span(random)
    there.partitioned = True
    there.break_off()

    def end() -> None:
        there.partitioned = False

    world.until_healed(seconds, end)
    return f"{site.name} from the broker for {seconds:.2f} s"


def alarm(world: World, random: Random) -> str | None:
    if world.broker.blocked:
        return None
    seconds = span(random)
    world.broker.block()
    world.until_healed(seconds, world.broker.unblock)
    return f"for {seconds:.2f} s"


def copies(world: World, random: Random) -> str | None:
    """The broker delivers some messages once more, later."""
    world.broker.copy_next = random.randint(1, 20)
    return f"of {world.broker.copy_next} messages"
