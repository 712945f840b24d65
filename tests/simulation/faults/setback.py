# SPDX-License-Identifier: Apache-2.0
"""The database goes back to an earlier state.

A worker notices it by what it has seen of the database. What nobody knows any more cannot be noticed: after a failover, those
who know must stay as they are until one of them has begun a new history. Whoever restores a backup begins one himself, so that
anything may happen at the same time (doc/admin/operate.md, Backups).
"""

from __future__ import annotations

from random import Random
from typing import Any

from tests.simulation.faults.draw import span
from tests.simulation.watch import Violation
from tests.simulation.world import SetBack, World
from tracker_worker.store.base import Progress

_NOTICED_WITHIN_SECONDS = 15.0
_LOOK_SECONDS = 0.25


def set_back(world: World, random: Random) -> str | None:
    backup, backed_up_at = world.database.back_up(), world.stage.now
    seconds, fails_over, replaces = span(random), random.random() < 0.6, random.random() < 0.5

    ledger_id = _progress(world).ledger_id

    def end() -> None:
        if _progress(world).ledger_id != ledger_id or world.noticing:
            return  # histories that begin at one point are two ledgers, and the hosts wait for an operator's "host adopt"
        if fails_over and world.calm():
            _fail_over(world, backup, backed_up_at)
        else:
            _restore(world, backup, backed_up_at, replaces=replaces)

    world.until_healed(seconds, end)
    return f"to now, after {seconds:.2f} s, {'failover' if fails_over else 'backup'}"


def _fail_over(world: World, backup: Any, backed_up_at: float) -> None:
    before = _progress(world)

    def done() -> None:
        world.judge.answers.went_back()
        world.set_backs.append(SetBack(backed_up_at, world.stage.now))
        after = _progress(world)
        if _lost(before, after):
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
        world.judge.answers.went_back()
        world.set_backs.append(SetBack(backed_up_at, world.stage.now))

    if replaces and world.database.replace(restored):
        done()
    else:
        world.database.put_back(restored, done)


def _progress(world: World) -> Progress:
    return world.store.progress(world.store.host_names())


def _lost(before: Progress, after: Progress) -> bool:
    """Whether something that may have been told to somebody is lost."""
    pairs = (
        (before.generations, after.generations),
        (before.sequences, after.sequences),
        (before.cursors, after.cursors),
    )
    return before.ledger_id != after.ledger_id or any(
        new.get(key, 0) < value  # type: ignore[attr-defined]
        for old, new in pairs
        for key, value in old.items()  # type: ignore[attr-defined]
    )
