# SPDX-License-Identifier: Apache-2.0
"""The chores of hosts, put together: who does them, and what is done beside answering requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracker_worker.bus.base import Bus
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.values import SECOND
from tracker_worker.service.chores.elsewhere import Elsewhere
from tracker_worker.service.chores.evacuations import Evacuations
from tracker_worker.service.chores.expiry import Expiry
from tracker_worker.service.chores.leases import Leases
from tracker_worker.service.chores.orphans import Orphans
from tracker_worker.service.chores.periods import PeriodChores
from tracker_worker.service.chores.pruning import Pruning
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.clock import Clock
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers


class HostChores:
    """Belongs to the engine's thread, as its parts do."""

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        ledgers: Ledgers,
        relay: Relay,
        hosts: Sequence[str],
        owner: str,
        policy: Callable[[], Policy],
        calendar: Calendar,
        gained: Callable[[str], None],
        submit: Callable[[Chore], None],
        soon: Callable[[Callable[[], None]], None],
        clock: Clock,
        monotonic: Callable[[], float],
    ) -> None:
        """``owner`` names this worker. ``gained`` is called with a host whose lease another worker had. ``submit`` brings a
        chore to the loop, and ``soon`` has the loop call a function between two batches."""
        self.expiry = Expiry(clock=clock, bus=bus, policy=policy, submit=submit)
        self.leases = Leases(
            store=store,
            bus=bus,
            ledgers=ledgers,
            relay=relay,
            expiry=self.expiry,
            hosts=hosts,
            owner=owner,
            gained=gained,
            clock=clock,
            monotonic=monotonic,
        )
        self.orphans = Orphans(
            store=store,
            ledgers=ledgers,
            relay=relay,
            expiry=self.expiry,
            leases=self.leases,
            hosts=hosts,
            owner=owner,
            policy=policy,
            submit=submit,
            clock=clock,
        )
        self.expiry.may_again = self.orphans.expire
        self.elsewhere = Elsewhere(store=store, ledgers=ledgers, held=lambda: self.leases.held, submit=submit)
        self.evacuations = Evacuations(
            store=store,
            ledgers=ledgers,
            held=lambda: self.leases.held,
            policy=policy,
            submit=submit,
            clock=clock,
        )
        self.periods = PeriodChores(
            store=store,
            ledgers=ledgers,
            calendar=calendar,
            hosts=lambda: self.leases.held | self.orphans.cared_for,
            submit=submit,
            soon=soon,
            clock=clock,
            jumped=lambda: clock.jumped_within(policy().claim_timeout / SECOND),
        )
        self.pruning = Pruning(
            store=store,
            ledgers=ledgers,
            leases=self.leases,
            cared_for=lambda: self.orphans.cared_for,
            clock=clock,
            policy=policy,
            submit=submit,
        )

    def renew(self) -> None:
        """Take or renew the leases, and do what is due at each renewal. Raises StoreUnavailable."""
        self.leases.renew()
        self.orphans.renew()
        self.elsewhere.look()
        self.evacuations.look()
