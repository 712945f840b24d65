# SPDX-License-Identifier: Apache-2.0
"""What happens between the workers and the database."""

from __future__ import annotations

from random import Random

from tests.simulation.database import FULL, READ_ONLY
from tests.simulation.faults.draw import span
from tests.simulation.troubles import AWAY, SILENT
from tests.simulation.world import World

_LONG_SECONDS = 30.0
"""Longer than a caller waits."""


def store_away(world: World, random: Random) -> str | None:
    sites = [site for site in world.sites if random.random() < 0.6]
    silent = random.random() < 0.3
    seconds = span(random) if silent else random.random() ** 2 * _LONG_SECONDS
    if not sites:
        return None
    for site in sites:
        site.link.away, site.link.silent = not silent, silent

    def end() -> None:
        for site in sites:
            site.link.away = site.link.silent = False

    world.until_healed(seconds, end, SILENT if silent else AWAY)
    return f"{'silent' if silent else 'away'} for {[site.name for site in sites]}, {seconds:.2f} s"


def store_slow(world: World, random: Random) -> str | None:
    site, seconds = random.choice(world.sites), span(random)
    site.link.delay = random.random() ** 2 * 3

    def end() -> None:
        site.link.delay = 0.0

    world.until_healed(seconds, end)
    return f"commits of {site.name} take up to {site.link.delay:.2f} s for {seconds:.2f} s"


def doubt(world: World, random: Random) -> str | None:
    site, seconds = random.choice(world.sites), span(random)
    site.link.doubtful = random.random()

    def end() -> None:
        site.link.doubtful = 0.0

    world.until_healed(seconds, end)
    return f"commits of {site.name} for {seconds:.2f} s"


def refuses_writes(world: World, random: Random) -> str | None:
    """The disk is full, or the database can only be read."""
    if world.database.refuses is not None:
        return None
    why, seconds = random.choice((FULL, READ_ONLY)), span(random)
    world.database.refuse(why)
    world.until_healed(seconds, lambda: world.database.refuse(None))
    return f"{why} for {seconds:.2f} s"


def unstorable(world: World, random: Random) -> str | None:
    """There is something in a message that the database cannot keep."""
    world.unstorable.more += random.randint(1, 3)
    return f"the next {world.unstorable.more} messages"
