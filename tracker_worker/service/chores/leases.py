# SPDX-License-Identifier: Apache-2.0
"""Which hosts' chores this worker does: their audits, and the relay of their notifications.

A lease says who does the chores, never what is right: a chore that is done twice is caught by generation, inbox and message_id.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from tracker_worker.bus.base import FANOUT, SHARED, Bus
from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.expiry import Expiry
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.clock import Clock
from tracker_worker.service.requests.methods import Audit
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import LEASE_SECONDS, Store, Stream
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)


class Leases:
    """Belongs to the engine's thread; any thread may read ``held`` and ``active``. Before the first ``renew`` nothing is
    relayed.

    ``allowed``: the hosts whose chores this worker may do; None: all. ``wanted``: the hosts for which ``take`` has something to
    do. ``settled``: sources that are no news to ``heard``.
    ``held``: the hosts whose chores this worker does. The broker tells no consumer that it is the active one: a host is
    ``active`` if this worker has received something from the host's queue on the present connection, and holds its lease."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        ledgers: Ledgers,
        relay: Relay,
        expiry: Expiry,
        hosts: Sequence[str],
        owner: str,
        gained: Callable[[str], None],
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        """``owner`` names this worker. ``gained`` is called with a host whose lease another worker had. ``monotonic`` gives
        the seconds of the bus."""
        self._store = store
        self._bus = bus
        self._ledgers = ledgers
        self._relay = relay
        self._expiry = expiry
        self._hosts = hosts
        self._owner = owner
        self._gained = gained
        self._clock = clock
        self._monotonic = monotonic
        self._begun = False
        self._announced = False
        self._heard: set[str] = set()
        self.allowed: frozenset[str] | None = None
        self.wanted: set[str] = set()
        self.settled = frozenset((SHARED, FANOUT))
        self.held: frozenset[str] = frozenset()
        self.active: frozenset[str] = frozenset()

    def acquire(self) -> None:
        """Take the leases that are free before anything is received or relayed. Raises StoreUnavailable."""
        self._clock.sync()
        hosts = {name: self._ledgers.get(name).id for name in self._allowed()}
        granted = self._granted(hosts.values(), force=False)
        self.held = frozenset(name for name, host_id in hosts.items() if host_id in granted)
        for name in sorted(self.held):
            LOG.info("this worker does the chores of host %s", name)
            self._expiry.gained(name)

    def renew(self) -> None:
        """Take or renew the leases of all hosts where they are free, expired or this worker's, and note in the store that this
        worker serves these hosts. For a while after a step of the clock, what the leases of other workers say means nothing,
        until they have renewed them. Raises StoreUnavailable."""
        self._begun = True
        self._clock.sync()
        stepped = self._clock.stepped_within(LEASE_SECONDS)
        for name in sorted(self.held.difference(self._allowed())):
            self._drop(name)
        allowed = [name for name in self._allowed() if name in self.held or not stepped]
        hosts = {name: self._ledgers.get(name) for name in allowed}
        serves = [self._ledgers.get(name).id for name in self._allowed()]
        granted = self._granted([host.id for host in hosts.values()], force=False, serves=serves)
        # What another worker has added in the meantime has to be relayed too.
        self._ledgers.refresh([name for name, host in hosts.items() if host.id in granted])
        opened = self._relay.opened(name for name, host in hosts.items() if host.id in granted)
        self._set_all(hosts, granted, opened)
        self.wanted = self._heard - self.held
        if self.wanted:
            self.take()
        self._expiry.look()

    def heard(self, sources: set[str]) -> None:
        """Requests have come from these sources. Of a host's own queue this worker is the active consumer."""
        self._heard |= sources.intersection(self._hosts)
        if self._begun:
            self.wanted = self._heard - self.held
            self._expiry.look()
        self._announce()

    def emptied(self, host: str) -> None:
        """No message was ready in the host's queue, and everything that was delivered here before has been submitted. Of a host
        that this worker is there for, this means nothing while another worker may be the active consumer: what that one has
        received and not decided comes here when it is gone."""
        if host in self._heard or host not in self._hosts:
            self._expiry.emptied(host)

    def connection_lost(self) -> None:
        """The consuming connection is gone: another worker may have become the active consumer of every host."""
        self._heard.clear()
        self.wanted = set()
        self._expiry.connection_lost()
        self._announce()

    def share(self, request: PendingRequest) -> PendingRequest:
        """A fanned out audit reaches every worker of a host: this worker's share are the hosts whose chores it does."""
        operation = request.operation
        if request.delivery.source == FANOUT and operation is not None and isinstance(operation.action, Audit):
            request.operation = replace(operation, hosts=tuple(name for name in operation.hosts if name in self.held))
        return request

    def take(self) -> None:
        """Take the leases of the hosts whose active consumer this worker has become from their owners. Raises
        StoreUnavailable; then the next message of the host, or the next renewal, tries again."""
        wanted, self.wanted = sorted(self.wanted.intersection(self._allowed())), set()
        hosts = {name: self._ledgers.get(name).id for name in wanted}
        granted = self._granted(hosts.values(), force=True)
        opened = self._relay.opened(name for name, host_id in hosts.items() if host_id in granted)
        self._set_all(wanted, granted, opened)
        self._expiry.look()

    @property
    def begun(self) -> bool:
        """Whether ``renew`` was called."""
        return self._begun

    def _allowed(self) -> Sequence[str]:
        allowed = self.allowed
        return self._hosts if allowed is None else [name for name in self._hosts if name in allowed]

    def _granted(self, host_ids: Iterable[int], *, force: bool, serves: Collection[int] | None = None) -> set[int]:
        now, blocked = self._clock(), self._bus.blocked()
        blocked_since = None
        if blocked is not None:
            blocked_since = now - int((self._monotonic() - blocked.since) * SECOND)
        until = now + LEASE_SECONDS * SECOND
        return self._store.take_lease(
            host_ids,
            self._owner,
            now=now,
            until=until,
            force=force,
            blocked_since=blocked_since,
            serves=serves,
        )

    def _set_all(self, names: Iterable[str], granted: set[int], opened: Mapping[str, Sequence[Stream]]) -> None:
        try:
            for name in names:
                self._set(name, granted, opened.get(name))
        finally:
            self._announce()

    def _set(self, name: str, granted: set[int], opened: Sequence[Stream] | None) -> None:
        host = self._ledgers.get(name)
        if host.id in granted:
            if name not in self.held:
                LOG.info("this worker does the chores of host %s", name)
                self._expiry.gained(name)
                self._gained(name)
            self._relay.take(host, opened)  # also for a lease that was held before: the host may have new nodes
            self.held |= {name}
        elif name in self.held:
            LOG.info("another worker does the chores of host %s", name)
            self._drop(name)

    def _drop(self, name: str) -> None:
        self.held -= {name}
        self._heard.discard(name)  # another worker has received something from the host's queue, and more recently
        self._relay.drop(name)
        self._expiry.lost(name)
        self._announce()

    def announce(self) -> None:
        """From now on, log each host that becomes active or standby."""
        self._announced = True

    def _announce(self) -> None:
        # A connection that is lost says nothing about a host: the lease does, which the next active worker takes.
        active = (self.active & self.held) | self.held.intersection(self._heard)
        if self._announced:
            for name in sorted(active - self.active):
                LOG.info("active for %s now", name)
            for name in sorted(self.active - active):
                LOG.info("standby for %s now", name)
        self.active = active
        self.settled = frozenset((SHARED, FANOUT)) | self.held.intersection(self._heard)

    def release(self) -> None:
        """Let another worker have the leases immediately; this one serves no host any more. Raises StoreUnavailable."""
        if self.held or self._begun:
            self._store.release_lease(self._owner)
            self.held = self.active = frozenset()
