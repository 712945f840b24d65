# SPDX-License-Identifier: Apache-2.0
"""Which hosts' chores are this worker's: their audits, and the relay of their notifications.

The lease says who does the chores, never what is right: one that is done twice is caught by generation, inbox and message_id.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tracker_worker.domain.times import SECOND
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 15


class Leases:
    """Belongs to the engine's thread."""

    def __init__(self, *, store: Store, ledgers: Ledgers, relay: Relay | None, owner: str) -> None:
        self._store = store
        self._ledgers = ledgers
        self._relay = relay
        self._owner = owner
        self.held: frozenset[str] = frozenset()

    def renew(self, names: Iterable[str], now: int, *, force: bool = False) -> None:
        """Take or renew these hosts' leases, from their owner with ``force``. Raises StoreUnavailable."""
        hosts = {name: self._ledgers.get(name) for name in names}
        until = now + LEASE_SECONDS * SECOND
        ids = [host.id for host in hosts.values()]
        granted = self._store.take_lease(ids, self._owner, now=now, until=until, force=force)
        if not force:
            # What another worker has added meanwhile is to be relayed too. With ``force`` they have just been committed.
            self._ledgers.refresh([name for name, host in hosts.items() if host.id in granted])
            hosts = {name: self._ledgers.get(name) for name in hosts}
        for name, host in hosts.items():
            if host.id in granted:
                if name not in self.held:
                    LOG.info("this worker does the chores of host %s", name)
                # Also for one held before: it may have new nodes.
                if self._relay is not None:
                    self._relay.take(host)
                self.held |= {name}
            elif name in self.held:
                LOG.info("another worker does the chores of host %s", name)
                self.held -= {name}
                if self._relay is not None:
                    self._relay.drop(host)

    def release(self) -> None:
        """Let another worker have them at once. Raises StoreUnavailable."""
        if self.held:
            self._store.release_lease(self._owner)
            self.held = frozenset()
