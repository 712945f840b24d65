# SPDX-License-Identifier: Apache-2.0
"""What happens to inventory drivers and to the machines that they report."""

from __future__ import annotations

from random import Random

from tests.invariants.record import Place
from tests.simulation.faults.draw import span
from tests.simulation.hardware import Mood
from tests.simulation.troubles import DRIVERS
from tests.simulation.world import World
from tracker_worker.inventory.fake import fake_resource

_LONG_SECONDS = 90.0
"""Longer than a driver is waited for."""


def hang(world: World, random: Random) -> str | None:
    return _spoil(world, random, "hanging", _LONG_SECONDS)


def fail(world: World, random: Random) -> str | None:
    return _spoil(world, random, random.choice(("failing", "garbage")), _LONG_SECONDS)


def _spoil(world: World, random: Random, kind: str, most: float) -> str | None:
    """The drivers of a host do something wrong on some workers, in the list of nodes or with some nodes."""
    host = random.choice(world.hosts)
    seconds = random.random() * most if kind == "hanging" else span(random, most)
    whats = [what for what in (None, *world.hardware.nodes[host]) if random.random() < 0.5]
    sites = [site for site in world.sites if random.random() < 0.7]
    moods = [site.moods.setdefault(host, Mood()) for site in sites]
    for mood in moods:
        getattr(mood, kind).update(whats)
        for what in whats if kind == "hanging" else ():
            mood.since.setdefault(what, world.stage.now)

    def end() -> None:
        for mood in moods:
            getattr(mood, kind).difference_update(whats)
            for what in whats if kind == "hanging" else ():
                mood.since.pop(what, None)

    world.until_healed(seconds, end, DRIVERS)
    return f"{kind} on {host} for {[site.name for site in sites]}: {whats}, {seconds:.2f} s"


def resize(world: World, random: Random) -> str | None:
    """A machine gets other sizes. Nothing is limited by them."""
    host, node = _place(world, random)
    sizes = {"vcpus": random.randint(1, 64), "memory_mb": random.choice((1024, 65536)), "local_gb": 500}
    world.hardware.nodes[host][node] = fake_resource(nodename=node, **sizes)
    return f"{host}/{node} has {sizes}"


def lose_node(world: World, random: Random) -> str | None:
    place, seconds = _place(world, random), span(random)
    world.hardware.take(place)
    world.until_healed(seconds, lambda: world.hardware.put(place))
    return f"{place[0]}/{place[1]} for {seconds:.2f} s"


def new_node(world: World, random: Random) -> str | None:
    """A host has one more node for some time; nobody asks for it."""
    host, seconds = random.choice(world.hosts), span(random)
    place = (host, f"x{random.randint(1, 3)}")
    if place[1] in world.hardware.nodes[host]:
        return None
    world.hardware.put(place)
    world.until_healed(seconds, lambda: world.hardware.take(place))
    return f"{host}/{place[1]} for {seconds:.2f} s"


def _place(world: World, random: Random) -> Place:
    """A node that no operator gives another name or host."""
    return random.choice(world.hardware.fixed)
