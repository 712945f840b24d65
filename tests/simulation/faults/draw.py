# SPDX-License-Identifier: Apache-2.0
"""What a fault draws."""

from __future__ import annotations

from random import Random

from tests.simulation.site import Site
from tests.simulation.world import World

_LONG_SECONDS = 20.0


def running(world: World, random: Random) -> Site | None:
    """A worker that runs; None: none does."""
    sites = [site for site in world.sites if site.worker is not None]
    return random.choice(sites) if sites else None


def span(random: Random, most: float = _LONG_SECONDS) -> float:
    """Seconds: mostly few, sometimes many."""
    return random.random() ** 3 * most
