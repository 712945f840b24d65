# SPDX-License-Identifier: Apache-2.0
"""The database goes back to an earlier state.

A worker notices it by what it has seen of the database. What nobody knows any more cannot be noticed. In a failover, therefore,
one worker is alone from the copy on, and nothing else happens to it until it has begun a new history. Whoever restores a backup
begins one himself, so that anything may happen at the same time (doc/admin/operate.md, Backups).
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.simulation.faults.draw import span
from tests.simulation.set_backs import SetBack
from tests.simulation.site import Site
from tests.simulation.watch import Violation
from tests.simulation.world import World
from tracker_worker.store.base import Progress

_NOTICED_WITHIN_SECONDS = 15.0
_LOOK_SECONDS = 0.25
_CONFIRM_SECONDS = 5.0
_FULL_SECONDS = 10.0


def set_back(world: World, random: Random) -> str | None:
    seconds, fails_over, replaces = span(random), random.random() < 0.8, random.random() < 0.5
    alone = _left_alone(world, seconds) if fails_over else None
    quiet, confirms_late = random.random() < 0.5, random.random() < 0.7
    full_for = random.random() * _FULL_SECONDS if confirms_late else 0.0
    backup, backed_up_at = world.database.back_up(), world.stage.now
    copied = _progress(world)

    def end() -> None:
        present = _progress(world)
        if present.ledger_id != copied.ledger_id or world.noticing:
            return  # histories that begin at one point are two ledgers, and the hosts wait for an operator's "host adopt"
        if alone is not None and _knows(world, alone, copied, present):
            if quiet and world.traffic is not None:
                world.traffic.pause(_NOTICED_WITHIN_SECONDS)
            _fail_over(world, backup, backed_up_at)
        else:
            _restore(world, backup, backed_up_at, replaces=replaces)
        if full_for:
            _fill(world, full_for)

    world.until_healed(seconds, end)
    if confirms_late and world.broker.confirm_seconds == 0:
        _confirm_late(world, seconds + _NOTICED_WITHIN_SECONDS)
    how = "backup" if alone is None else f"failover with {alone.name} alone"
    return f"to now, after {seconds:.2f} s, {how}"


def _confirm_late(world: World, seconds: float) -> None:
    """The broker confirms late while the database goes back, which hinders nobody."""
    world.broker.confirm_seconds = _CONFIRM_SECONDS

    def end() -> None:
        world.broker.confirm_seconds = 0.0

    world.at_the_latest(seconds, end)


def _fill(world: World, seconds: float) -> None:
    """What the new history tells is refused at first, while the broker may still confirm what the old one has told."""
    queues = [queue for queue in world.broker.queues.values() if queue.name.partition(".")[0] in world.broker.topics]
    queues = [queue for queue in queues if not queue.full]
    for queue in queues:
        queue.full = True

    def end() -> None:
        for queue in queues:
            queue.full = False

    world.until_healed(seconds, end)


def _left_alone(world: World, seconds: float) -> Site | None:
    """Crash every worker but one that serves all hosts, for some time longer; None: there is none that works."""
    served = [site for site in world.sites if site.works() and site.hosts == world.hosts and not site.stopping]
    if not served or not world.undisturbed():
        return None
    for site in world.sites:
        if site is not served[0]:
            site.restart(seconds + _NOTICED_WITHIN_SECONDS)
    return served[0]


def _knows(world: World, alone: Site, copied: Progress, present: Progress) -> bool:
    """Whether the worker is still alone and has seen something of each node that is lost."""
    if not world.calm(alone):
        return False
    seen = alone.seen()
    lost = [node for node, generation in present.generations.items() if generation > copied.generations.get(node, 0)]
    return all(node in seen and seen[node].generation > copied.generations.get(node, 0) for node in lost)


def _fail_over(world: World, backup: Any, backed_up_at: float) -> None:
    before = _progress(world)

    def done() -> None:
        world.judge.went_back()
        world.set_backs.append(SetBack(backed_up_at, world.stage.now))
        after = _progress(world)
        if any(after.generations.get(node, 0) < generation for node, generation in before.generations.items()):
            world.noticing = True
            look(after.ledger_id)

    until = world.stage.now + _NOTICED_WITHIN_SECONDS

    def look(ledger_id: str) -> None:
        if _progress(world).ledger_id != ledger_id:
            world.noticing = False
        elif world.stage.now > until:
            raise Violation("the database went back, and no worker has noticed it")
        else:
            world.stage.later(_LOOK_SECONDS, lambda: look(ledger_id))

    world.database.put_back(backup, done)


def _restore(world: World, backup: Any, backed_up_at: float, *, replaces: bool) -> None:
    restored = world.database.with_new_history(backup)

    def done() -> None:
        world.judge.went_back()
        world.set_backs.append(SetBack(backed_up_at, world.stage.now))

    if replaces and world.database.replace(restored):
        done()
    else:
        world.database.put_back(restored, done)


def _progress(world: World) -> Progress:
    return world.store.progress(world.store.host_names())
