# SPDX-License-Identifier: Apache-2.0
"""Which hosts' chores this worker does: their audits, and the relay of their notifications.

A lease says who does the chores, never what is right: a chore that is done twice is caught by generation, inbox and message_id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence, Set

from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 15


class Leases:
    """Belongs to the engine's thread. Before the first ``renew`` no lease is taken and nothing is relayed."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        relay: Relay | None,
        hosts: Sequence[str],
        owner: str,
        clock: Callable[[], int],
    ) -> None:
        """``owner`` names this worker. ``clock`` gives microseconds."""
        self._store = store
        self._ledgers = ledgers
        self._relay = relay
        self._hosts = hosts
        self._owner = owner
        self._clock = clock
        self._begun = False
        self.held: frozenset[str] = frozenset()

    def renew(self) -> None:
        """Take or renew the leases of all hosts where they are free, expired or this worker's. Raises StoreUnavailable."""
        self._begun = True
        hosts = {name: self._ledgers.get(name) for name in self._hosts}
        granted = self._granted([host.id for host in hosts.values()], self._clock(), force=False)
        # What another worker has added in the meantime has to be relayed too.
        self._ledgers.refresh([name for name, host in hosts.items() if host.id in granted])
        for name in hosts:
            self._set(name, granted)

    def cover(self, active: Set[str]) -> bool:
        """Whether this worker holds the leases of these hosts, or takes none yet."""
        return not self._begun or active <= self.held

    def take(self, active: Set[str], now: int) -> None:
        """Take the leases of these hosts from their owners: the broker has made this worker their active one, and it does their
        chores. Raises StoreUnavailable."""
        wanted = {name: self._ledgers.get(name).id for name in active - self.held}
        granted = self._granted(wanted.values(), now, force=True)
        for name in wanted:
            self._set(name, granted)

    def _granted(self, host_ids: Iterable[int], now: int, *, force: bool) -> set[int]:
        until = now + LEASE_SECONDS * SECOND
        return self._store.take_lease(host_ids, self._owner, now=now, until=until, force=force)

    def _set(self, name: str, granted: set[int]) -> None:
        host = self._ledgers.get(name)
        if host.id in granted:
            if name not in self.held:
                LOG.info("this worker does the chores of host %s", name)
            if self._relay is not None:
                self._relay.take(host)  # also for a lease that was held before: the host may have new nodes
            self.held |= {name}
        elif name in self.held:
            LOG.info("another worker does the chores of host %s", name)
            self.held -= {name}
            if self._relay is not None:
                self._relay.drop(host)

    def release(self) -> None:
        """Let another worker have the leases immediately. Raises StoreUnavailable."""
        if self.held:
            self._store.release_lease(self._owner)
            self.held = frozenset()
