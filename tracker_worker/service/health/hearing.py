# SPDX-License-Identifier: Apache-2.0
"""Whether messages still reach this worker: no word of a connection shows that.

The worker sends itself a message through the queue of each host whose chores it does. A standby, to which the broker delivers
nothing from a host's queue, asks whether its own queue of fanouts is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import ceil, inf

from tracker_worker.bus.base import FANOUT, Bus, Contact

LONGEST_PERIOD_SECONDS = 2.0
"""Probes also find out what is gone at the broker, which has to be repaired within seconds."""
_MOST_A_SECOND = 50  # the bus sends no more


class Hearing:
    """Any thread may call the methods; ``probe`` is called each ``period_seconds``, or more often."""

    def __init__(
        self, bus: Bus, hosts: Collection[str], *, interval_seconds: float, monotonic: Callable[[], float]
    ) -> None:
        """A source is to be heard once within each of the intervals; where the hosts are too many for that, once in a round of
        all of them."""
        self._bus = bus
        self._monotonic = monotonic
        queues = len(hosts) + 1  # and the shared one
        rounds = ceil(queues / _MOST_A_SECOND)
        self.period_seconds = min(LONGEST_PERIOD_SECONDS if rounds == 1 else 1.0, interval_seconds)
        self.patience_seconds = 2 * max(interval_seconds, rounds * self.period_seconds)
        """For so long nothing needs to have been heard."""
        self._probed_at = -inf
        self._since = -inf

    def probe(self, hosts: Collection[str]) -> None:
        """Send the probes that are due."""
        now = self._monotonic()
        if self._is_behind(now):
            self._since = now  # the process was stopped, or has just started
        self._probed_at = now
        self._bus.probe(sorted(hosts))

    def _is_behind(self, now: float) -> bool:
        return now - self._probed_at > 2 * self.period_seconds

    def unheard(self, contact: Contact, *, active: Collection[str], standby: Collection[str]) -> Mapping[str, float]:
        """Host -> for how many seconds nothing has come of what should have come: of the hosts whose probes must come here, and
        of those for which the queue of fanouts stands. None where nothing is to be expected."""
        now = self._monotonic()
        if contact.probed_since is None or contact.holds_back or self._is_behind(now):
            return {}
        since = max(self._since, contact.probed_since)
        sources = {**dict.fromkeys(active), **dict.fromkeys(standby, FANOUT)}
        silent = {host: now - max(since, contact.heard.get(source or host, -inf)) for host, source in sources.items()}
        return {host: seconds for host, seconds in silent.items() if seconds > self.patience_seconds}

    def unanswered(self, contact: Contact) -> float | None:
        """For how many seconds the broker has answered no probe, if that is too long; None: it has."""
        now = self._monotonic()
        if contact.silent_since is None or contact.probed_since is None or self._is_behind(now):
            return None
        seconds = now - max(self._since, contact.silent_since)
        return seconds if seconds > self.patience_seconds else None
