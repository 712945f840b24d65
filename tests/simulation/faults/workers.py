# SPDX-License-Identifier: Apache-2.0
"""What is done to workers on purpose: one is stopped and started, one comes for a while, hosts are taken away from all."""

from __future__ import annotations

from random import Random

from tests.simulation.faults.draw import running, span
from tests.simulation.site import Site
from tests.simulation.world import World

_LONG_SECONDS = 40.0
"""Longer than a lease, and than it takes another worker to notice that nobody serves a host."""


def stop(world: World, random: Random) -> str | None:
    """As SIGTERM does, and start again."""
    site = running(world, random)
    if site is None or site.stopping:
        return None
    seconds = span(random)
    _away(world, site, seconds)
    return f"{site.name} for {seconds:.2f} s"


def newcomer(world: World, random: Random) -> str | None:
    """A worker comes that serves some of the hosts and one of its own, and is stopped after a while."""
    seconds = span(random, _LONG_SECONDS)
    site = world.newcomer([host for host in world.hosts if random.random() < 0.5])
    site.start()
    world.until_healed(seconds, lambda: world.dismiss(site))
    return f"{site.name} for {site.hosts}, {seconds:.2f} s"


def orphan(world: World, random: Random) -> str | None:
    """Nobody serves a host for a while. Its queue fills up."""
    host, seconds = random.choice(world.hosts), span(random, _LONG_SECONDS)
    before = [(site, site.hosts) for site in world.sites if host in site.hosts]
    for site, hosts in before:
        site.hosts = [other for other in hosts if other != host]
        site.restart(0)

    def end() -> None:
        for site, hosts in before:
            site.hosts = [other for other in world.hosts if other in hosts or other in site.hosts]
            site.restart(0)

    world.until_healed(seconds, end)
    return f"{host} for {seconds:.2f} s"


def _away(world: World, site: Site, seconds: float) -> None:
    """Stop the worker of a site. It starts again after so many seconds, however it has ended, unless it has by then."""
    worker = site.worker
    site.stop(lambda: None)

    def end() -> None:
        if site.worker in (worker, None) and not site.starts:
            site.restart(0)

    world.until_healed(seconds, end)
