# SPDX-License-Identifier: Apache-2.0
"""Whether the claims of a host may expire now.

A worker that starts, or that takes over a host, does not know how long nobody has read the host's queue: the end of a claim may
wait there, or in a worker that has received it and hangs. After a step of the clock forward, claims look older than they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tracker_worker.bus.base import Bus
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.clock import Clock
from tracker_worker.service.requests.items import Chore

# Of several decisions in so short a time, the first one looks for a step of the clock.
_SYNC_SECONDS = 0.1


class Expiry:
    """Belongs to the engine's thread. A host may expire claims from the moment when its queue was empty once, or one claim
    timeout after ``gained``.

                gained            emptied, and what came before is decided; or one claim timeout
    unknown -------------> waiting -------------------------------------------------------------> may expire
       ^                      |                                                                       |
       +----------------------+-----------------------------------------------------------------------+  lost
    """

    def __init__(
        self, *, clock: Clock, bus: Bus, policy: Callable[[], Policy], submit: Callable[[Chore], None]
    ) -> None:
        """``submit`` has a chore decided after everything that has arrived before it. ``may_again`` is called with each host
        whose queue was empty."""
        self._clock = clock
        self._bus = bus
        self._policy = policy
        self._submit = submit
        self.may_again: Callable[[str], None] = lambda host: None
        self._since: dict[str, float] = {}  # of the hosts that are waiting or may expire claims, on the monotonic clock
        self._waiting: set[str] = set()
        self._connection = 0

    @property
    def _timeout_seconds(self) -> float:
        return self._policy().claim_timeout / SECOND

    def gained(self, host: str) -> None:
        """This worker does the chores of the host from now on."""
        self._since[host] = self._clock.monotonic()
        self._waiting.add(host)

    def lost(self, host: str) -> None:
        """Another worker does them. Harmless if one did already."""
        self._since.pop(host, None)
        self._waiting.discard(host)

    def look(self) -> None:
        """Have the bus look whether the queues are empty for which that is still to be found out. Called often."""
        since = self._clock.monotonic() - self._timeout_seconds
        self._waiting -= {host for host in self._waiting if self._since[host] <= since}
        self._bus.report_empty(sorted(self._waiting))

    def _waited(self, host: str) -> bool:
        return self._clock.monotonic() - self._since[host] >= self._timeout_seconds

    def emptied(self, host: str) -> None:
        """No message was ready in the host's queue, and those that were delivered before have been submitted."""
        if host in self._waiting:
            decided = partial(self._decided, connection=self._connection, since=self._since[host])
            self._submit(Chore(host=host, commands=(), done=decided))

    def _decided(self, ledgers: HostLedger, *, connection: int, since: float) -> None:
        if connection == self._connection and self._since.get(ledgers.name) == since:
            self._waiting.discard(ledgers.name)
            self.may_again(ledgers.name)

    def connection_lost(self) -> None:
        """What was delivered and is not decided comes again."""
        self._connection += 1

    def may(self, host: str) -> bool:
        """Whether claims of the host may expire. Raises StoreUnavailable: it is not known whether the clock was stepped."""
        self._clock.sync(older_than_seconds=_SYNC_SECONDS)
        if host not in self._since or self._clock.jumped_within(self._timeout_seconds):
            return False
        return host not in self._waiting or self._waited(host)
