# SPDX-License-Identifier: Apache-2.0
"""A worker on an earlier copy of the database: an image of a machine that was started again, or a restored file.

The copy is made long before. It has the ledger_id of its original, and tokens that no marker has any more: such a worker serves
no host, whatever happens to the others, but for a broker that forgets the markers.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from tests.simulation.broker import TOPIC
from tests.simulation.database import MemoryDatabase
from tests.simulation.faults.draw import span
from tests.simulation.site import Site
from tests.simulation.watch import Violation
from tests.simulation.world import World
from tracker_worker.store.base import HostRecord

_LOOK_SECONDS = 0.5


def serve_copy(world: World, random: Random) -> str | None:
    """The first time, the copy is made; later a worker is started on it, if the tokens of all hosts are other ones by then."""
    seconds = 5 + span(random)
    if not isinstance(world.database, MemoryDatabase):
        return None
    if world.copy is None:
        world.copy = _copied(world.database)
        for site in world.sites:
            if site.worker is not None and site.worker._engine.held:
                site.restart(seconds / 10)  # whoever serves its hosts next renews their tokens
        return "is made, and the active workers crash"
    store = world.copy.store
    records = {record.name: record for record in store.hosts()}
    earlier = [history.ledger_id for history in store.histories()[:-1]]
    if any(host not in records or not _is_outdated(world, records[host], earlier) for host in world.hosts):
        return None
    site = Site(world, "copy", world.hosts, database=world.copy)
    world.copy = None
    site.start()

    def look() -> None:
        if site.worker is None:
            return
        if site.worker.ready() or site.worker._ownership.served():
            raise Violation(f"a worker on an earlier copy of the database serves {site.worker._ownership.served()}")
        world.stage.later(_LOOK_SECONDS, look)

    def end() -> None:
        site.gone = True
        site.crash()

    look()
    world.broker.forgets.append(end)  # without the marker, nothing tells the copy from the original
    world.until_healed(seconds, end)
    return f"has a worker for {seconds:.2f} s"


def _is_outdated(world: World, record: HostRecord, earlier: Sequence[str]) -> bool:
    """Whether the marker of a host has another token than these, and does not name an earlier history, of which the copy is a
    successor as good as its original."""
    queue = world.broker.queues.get(f"{TOPIC}_ledger.{record.name}")
    if queue is None or not queue.ready:
        return False
    said = b"".join(one.properties + one.body for one in queue.ready)
    return not any(
        known.encode() in said for known in (record.token, record.previous_token, *earlier) if known is not None
    )


def _copied(database: MemoryDatabase) -> MemoryDatabase:
    made = MemoryDatabase(database.stage)
    made.put_back(database.back_up(), lambda: None)
    return made
