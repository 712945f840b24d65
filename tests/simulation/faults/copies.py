# SPDX-License-Identifier: Apache-2.0
"""A worker on an earlier copy of the database: an image of a machine that was started again, or a restored file.

The copy is made long before. It has the ledger_id of its original, and tokens that no marker has any more: such a worker serves
no host, whatever happens to the others.
"""

from __future__ import annotations

import copy
from random import Random

from tests.simulation.faults.draw import span
from tests.simulation.watch import Violation
from tests.simulation.world import Site, World
from tracker_worker.store.memory import MemoryStore

_LOOK_SECONDS = 0.5


def serve_copy(world: World, random: Random) -> str | None:
    """The first time, the copy is made; later a worker is started on it, if the tokens of all hosts are other ones by then."""
    seconds = 5 + span(random)
    if not isinstance(world.store, MemoryStore):
        return None
    if world.copy is None:
        world.copy = _copied(world, world.store)
        for site in world.sites:
            if site.worker is not None and site.worker._engine.held:
                site.restart(seconds / 10)  # whoever serves its hosts next renews their tokens
        return "is made, and the active workers crash"
    tokens = {record.name: (record.token, record.previous_token) for record in world.copy.hosts()}
    markers = world.broker.markers
    if not tokens or any(host not in markers or markers[host].token in tokens.get(host, ()) for host in world.hosts):
        return None
    site = Site(world, "copy", world.hosts, store=world.copy)
    world.copy = None
    site.start()

    def look() -> None:
        if site.worker is None:
            return
        if site.worker.ready() or site.worker._ownership.served():
            raise Violation(f"a worker on an earlier copy of the database serves {site.worker._ownership.served()}")
        world.stage.later(_LOOK_SECONDS, look)

    def end() -> None:
        site.ended = True
        site.crash()

    look()
    world.until_healed(seconds, end)
    return f"has a worker for {seconds:.2f} s"


def _copied(world: World, store: MemoryStore) -> MemoryStore:
    made = MemoryStore(now=world.stage.microseconds, random_bytes=world.stage.random.randbytes)
    made._rows = copy.deepcopy(store._rows)
    return made
