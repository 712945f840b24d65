# SPDX-License-Identifier: Apache-2.0
"""A process that ends or hangs at the worst moment."""

from __future__ import annotations

from random import Random

from tests.simulation.faults.draw import running, span
from tests.simulation.world import World

_AT_START = ("before renew_token", "after renew_token")
_POINTS = ("before commit", "after commit", *_AT_START)
"""See ``Machine.reach``."""
_ENGINE = "tracker-engine"


def crash_at(world: World, random: Random) -> str | None:
    """A worker crashes where it comes next to a point, and after its next starts perhaps again."""
    site = running(world, random)
    if site is None:
        return None
    point = random.choice(_POINTS)
    site.crashes_at = [random.choice(_AT_START) for _ in range(random.choice((0, 1, 2)))]
    seconds = span(random)
    if point in _AT_START:
        site.crashes_at.append(point)
        site.restart(seconds)
    else:
        site.machine.crashes_at = point

    def end() -> None:
        site.crashes_at.clear()
        site.machine.crashes_at = None

    world.until_healed(60.0, end)
    return f"{site.name} {point}, and then at {site.crashes_at[::-1]}"


def hang(world: World, random: Random) -> str | None:
    """The engine of a worker never goes on, while its other threads do. Only the worker itself can end that."""
    site = running(world, random)
    if site is None or site.worker is None or not site.worker.ready():
        return None
    site.machine.hung.add(_ENGINE)
    return f"the engine of {site.name}"
