# SPDX-License-Identifier: Apache-2.0
"""The chores of hosts that nobody serves: their notifications are relayed, and their claims expire.

A host that was taken out of the configuration, or whose worker does not come back, stays in the database with everything that
it is charged. Any worker that serves a host of the database cares for such hosts. Its lease of them says that it does not
serve them, and whoever does takes it at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.expiry import Expiry
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.clock import Clock
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import CARETAKER, LEASE_SECONDS, HostRecord, Store, serving
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.text import counted

LOG = logging.getLogger(__name__)

LOOK_SECONDS = 10
"""``look`` is called this often."""


class Orphans:
    """Belongs to the engine's thread; any thread may read ``cared_for``: the hosts whose chores this worker does without
    serving them."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        relay: Relay,
        expiry: Expiry,
        leases: Leases,
        hosts: Sequence[str],
        owner: str,
        policy: Callable[[], Policy],
        submit: Callable[[Chore], None],
        clock: Clock,
    ) -> None:
        """``hosts`` are those that this worker is there for. ``owner`` names this worker in leases. ``submit`` has a chore
        decided."""
        self._store = store
        self._ledgers = ledgers
        self._relay = relay
        self._expiry = expiry
        self._leases = leases
        self._hosts = frozenset(hosts)
        self._owner = owner + CARETAKER
        self._policy = policy
        self._submit = submit
        self._clock = clock
        self._named: frozenset[str] = frozenset()
        self._strays: frozenset[str] = frozenset()
        self.cared_for: frozenset[str] = frozenset()

    def look(self) -> None:
        """Find the hosts that nobody serves, name those that are new in a WARNING, and take their leases where they are free.
        Let claims of the hosts that this worker cares for expire. Raises StoreUnavailable.

        A worker that does the chores of no host of its own does none here either: its database may be a copy."""
        now = self._clock()
        records = {record.name: record for record in self._store.hosts() if record.name not in self._hosts}
        orphans = {name: record for name, record in records.items() if serving(record, now) is None}
        self._name(orphans)
        if not self._leases.held:
            self._give_up(self.cared_for)
            self._leave_strays(self._strays)
            return
        self._give_up(self.cared_for - orphans.keys())
        if not self._clock.stepped_within(LEASE_SECONDS):
            self._take({name: record.id for name, record in orphans.items()})
        for name in sorted(self.cared_for):
            self.expire(name)
        self._relay_strays()

    def renew(self) -> None:
        """Renew the leases of the hosts that this worker cares for. Raises StoreUnavailable."""
        ids = {name: host.id for name in sorted(self.cared_for) if (host := self._ledgers.find(name)) is not None}
        self._give_up(self.cared_for - ids.keys())
        self._take(ids)

    def expire(self, name: str) -> None:
        """Have the claims of a host expire that are due, if this worker does its chores or cares for it."""
        host = self._ledgers.find(name) if name in self.cared_for | self._leases.held else None
        if host is None:
            return
        policy = self._policy()
        expire = [policy.expire(node.name) for node in host if node.begun or node.moving]
        if expire:
            self._submit(Chore(host=name, commands=expire))

    def _name(self, orphans: dict[str, HostRecord]) -> None:
        new = [orphans[name] for name in sorted(orphans.keys() - self._named)]
        self._named = frozenset(orphans)
        if new:
            LOG.warning(
                "hosts of the database that no worker serves: %s; their notifications are published, their claims expire and "
                "their periods are closed, and nothing else is done for them ('tracker-worker host list', 'node move', "
                "'host forget')",
                ", ".join(f"{record.name} ({counted(record.instances, 'instance')})" for record in new),
            )

    def _take(self, ids: dict[str, int]) -> None:
        if not ids:
            return
        now = self._clock()
        granted = self._store.take_lease(ids.values(), self._owner, now=now, until=now + LEASE_SECONDS * SECOND)
        self._give_up(self.cared_for.intersection(name for name, host_id in ids.items() if host_id not in granted))
        taken = [name for name, host_id in ids.items() if host_id in granted]
        self._ledgers.refresh(taken)  # commands of operators change them
        for name in taken:
            host = self._ledgers.find(name)
            if host is None:
                continue
            self._relay.take(host)
            if name not in self.cared_for:
                LOG.info("this worker cares for host %s, which nobody serves", name)
                self._expiry.gained(name)
                self.cared_for |= {name}
        self._expiry.look()

    def _give_up(self, names: frozenset[str]) -> None:
        for name in sorted(names):
            LOG.info("this worker no longer cares for host %s", name)
            self._relay.drop(name)
            self._expiry.lost(name)
        self.cared_for -= names

    def _relay_strays(self) -> None:
        """Relay what names have left behind that no host has any more, until it is published. Several workers may do so."""
        names = self._store.streams_without_host()
        strays = frozenset(names)
        for name in names:
            self._relay.take_streams(name, {})
        self._leave_strays(self._strays - strays)
        self._strays = strays

    def _leave_strays(self, names: frozenset[str]) -> None:
        for name in sorted(names):
            self._relay.drop(name)
        self._strays -= names

    def release(self) -> None:
        """Let another worker have the leases immediately. Raises StoreUnavailable."""
        if self.cared_for:
            self._store.release_lease(self._owner)
            self.cared_for = frozenset()
