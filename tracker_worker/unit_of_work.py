# SPDX-License-Identifier: Apache-2.0
"""Decisions that become true together: decide, apply, render, collect, and one commit. For the worker's loop and the library.

Nothing that a unit decides is true before its commit. Until then the decisions exist only here and in ledgers that are
forgotten
if the commit fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracker_worker import faults
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decide import Decision, decide
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.notifications.notification import Notification
from tracker_worker.notifications.render import render
from tracker_worker.store.base import Commit, InboxRow, Store
from tracker_worker.store.ledgers import Ledgers


class UnitOfWork:
    """Belongs to one thread at a time, that which owns the ledgers. After an error the ledgers of the hosts in question are
    worthless: ``Ledgers.forget`` them, and decide everything again in a new unit."""

    def __init__(self, store: Store, ledgers: Ledgers, *, notify: bool) -> None:
        """``notify`` False: notifications are switched off, and not even made."""
        self._store = store
        self._ledgers = ledgers
        self._notify = notify
        self.changed: dict[int, NodeLedger] = {}
        self.notifications: list[Notification] = []
        # Hosts about which something is answered that the commit does not verify.
        self.unverified: set[str] = set()

    def decide(self, host: HostLedger, command: Command, now: int) -> Decision:
        """The decision on ``command`` at ``now`` (microseconds), on the ledgers as the decisions before it left them; its
        events are applied and their notifications made."""
        decision = decide(host, command, now)
        ledger = decision.node
        if not decision.events:
            self.unverified.add(host.name)
        for event in decision.events:
            assert ledger is not None
            ledger.apply(event)
            self.changed[ledger.id] = ledger
            if self._notify:
                self.notifications.append(render(event, ledger))
        return decision

    def verify(self) -> None:
        """Check what the commit does not: that answers which change nothing rest on ledgers at the store's generations.

        Raises Conflict: a ledger in memory is older. Raises StoreUnavailable.
        """
        self._ledgers.verify(
            [
                name
                for name in self.unverified
                if any(ledger.id not in self.changed for ledger in self._ledgers.get(name))
            ]
        )

    def commit(self, *, inbox_rows: Sequence[InboxRow] = (), cursors: Mapping[int, int] | None = None) -> None:
        """Write everything that was decided, with these rows of the inbox and these cursors of the relay.

        Raises Conflict, Unstorable, StoreUnavailable (then it is unknown whether the commit happened).
        """
        commit = Commit(
            ledgers=list(self.changed.values()),
            notifications=self.notifications,
            inbox_rows=inbox_rows,
            cursors=cursors or {},
        )
        if faults.hook is not None:
            faults.hook("before_commit")
        self._store.commit(commit)
        if faults.hook is not None:
            faults.hook("after_commit")

    def committed(self) -> None:
        """The commit has returned: the ledgers in memory are what the store has."""
        for ledger in self.changed.values():
            ledger.committed()
