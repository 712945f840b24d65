# SPDX-License-Identifier: Apache-2.0
"""Who does what, where nothing is wrong: one worker is active for each host and does its chores, all have one time, and no
claim outlives its end."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from tests.simulation import moving
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso
from tracker_worker.service.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.site import Site
    from tests.simulation.world import World

_APART_SECONDS = 2.1
"""The clock of a worker is taken over from the database where they are further apart."""
HANGS_SECONDS = 50.0
"""A driver that hangs counts as failed after 30 s; it is asked every 10 s."""
_PERIOD_SECONDS = 10.0
"""A period is looked at within 5 s after its end, and closed in several commits."""
_OVERDUE_SECONDS = 75.0
"""Claims are looked at in each audit, and the last minute has no faults."""


def wrong(world: World) -> Iterator[str]:
    """What is not as it should be, one sentence each."""
    running = [(site, site.worker) for site in world.sites if site.worker is not None]
    for host in world.hosts:
        yield from _active(world, host, running)
    now = world.stage.microseconds()
    for site, worker in running:
        apart = (worker._clock() - now) / 1_000_000
        if abs(apart) > _APART_SECONDS:
            yield f"the clock of {site.name} is wrong by {apart:.3f} s"


def _active(world: World, host: str, running: Collection[tuple[Site, Worker]]) -> Iterator[str]:
    """Whoever receives the messages of a host holds its lease and says that it is active; nobody else does."""
    queue = world.broker.queue(host)
    if queue is None or not queue.consumers:
        return
    for site, worker in running:
        sockets = () if site.bus is None else site.bus.network.sockets
        receives = any(sock.session is queue.consumers[0].session for sock in sockets)
        held, active = host in worker._engine.held, host in worker._engine.active
        if not held == active == receives:
            yield (
                f"{site.name} {'receives' if receives else 'does not receive'} the messages of {host}, "
                f"{'does' if held else 'does not do'} its chores, and is {'active' if active else 'standby'}"
            )


def open_periods(world: World) -> Iterator[str]:
    """The nodes with a period that has been over for longer than a worker may leave it open."""
    calendar = Calendar.parse(world.period)
    for host in world.database.ledgers():
        for ledger in host if host.name in world.hosts else ():
            periods, retired = ledger.periods, ledger.life.retired
            is_last = not periods.ending and retired is not None and periods.closed > retired.since
            if not periods.until or is_last:
                continue
            ending = ledger.periods.following(calendar)[1]
            if ending + _PERIOD_SECONDS * SECOND < world.stage.microseconds():
                yield f"a period of {host.name}/{ledger.name} that ended at {iso(ending)} is not closed"


def unnoted(world: World, since: dict[tuple[str, str, str], tuple[Worker, float]]) -> Iterator[str]:
    """The nodes whose drivers have hung for so long that they should be stale. ``since`` remembers, between two calls, from
    when on a worker that does the chores of a host is known to wait for a driver. It asks for the list of nodes first."""
    hanging: dict[tuple[str, str, str], tuple[Worker, float]] = {}
    for site in world.sites:
        worker = site.worker
        for host in worker._engine.held if worker is not None else ():
            hangs = site.moods[host].hanging
            for node in sorted(str(node) for node in hangs) if None not in hangs else ():
                known = since.get((site.name, host, node))
                assert worker is not None
                began = known[1] if known is not None and known[0] is worker else world.stage.now
                began = max(began, site.moods[host].since.get(node, 0.0))
                hanging[site.name, host, node] = worker, began
                if world.stage.now - began > HANGS_SECONDS:
                    yield from _open(world, host, node)
    since.clear()
    since.update(hanging)


def _open(world: World, host: str, name: str) -> Iterator[str]:
    for ledger in world.database.ledgers():
        if ledger.name == host and name in ledger.nodes:
            life = ledger.nodes[name].life
            if life.listed and life.silent_since is None:
                yield f"the driver of {host}/{name} has hung for {HANGS_SECONDS:.0f} s, and nobody has noted it"


def overdue(ledgers: Sequence[HostLedger], now: int, served: Collection[str]) -> Iterator[str]:
    """What time should have done on the hosts that are served by now (microseconds): the claims and moves that should have
    expired, and the instances that were evacuated and should have been released."""
    yield from moving.unreleased(ledgers, served, now, _OVERDUE_SECONDS)
    for host in ledgers:
        if host.name in served:
            yield from moving.overdue(host, now, _OVERDUE_SECONDS)
        for ledger in host if host.name in served else ():
            late = [uuid for uuid in sorted(ledger.begun) if ledger.allocations[uuid].expires_at < now]
            for uuid in late:
                passed = (now - ledger.allocations[uuid].expires_at) / 1_000_000
                if passed > _OVERDUE_SECONDS:
                    yield f"the claim of {uuid} on {host.name}/{ledger.name} should have expired {passed:.0f} s ago"
