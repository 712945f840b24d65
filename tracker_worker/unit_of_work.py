# SPDX-License-Identifier: Apache-2.0
"""The decisions of one commit: decide, apply, render, collect, commit. The worker's loop and the library use it.

A decision is valid only after the commit of its unit. Until then it exists in the unit and in the ledgers in memory, which the
caller forgets if the commit fails.
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
    """The thread that owns the ledgers uses it, and no other. After an error the ledgers of the unit's hosts are no longer
    valid: call ``Ledgers.forget`` for them, and decide everything again in a new unit."""

    def __init__(self, store: Store, ledgers: Ledgers, *, notify: bool) -> None:
        """``notify`` False: notifications are switched off; the unit makes none."""
        self._store = store
        self._ledgers = ledgers
        self._notify = notify
        self.changed: dict[int, NodeLedger] = {}
        self.notifications: list[Notification] = []
        # The hosts with an answer that the commit does not verify: it checks the generations of changed nodes only.
        self.unverified: set[str] = set()

    def decide(self, host: HostLedger, command: Command, now: int) -> Decision:
        """Decide ``command`` at ``now`` (microseconds) on the ledgers as the earlier decisions of this unit left them,
        apply the events, and make their notifications."""
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
        """Check what the commit does not check: that the ledgers behind every answer without a change have the generations
        in the store.

        Raises Conflict: a ledger in memory has another generation than the store. Raises StoreUnavailable.
        """
        self._ledgers.verify(
            [
                name
                for name in self.unverified
                if any(ledger.id not in self.changed for ledger in self._ledgers.get(name))
            ]
        )

    def commit(
        self, *, inbox_rows: Sequence[InboxRow] = (), cursors: Mapping[tuple[int, str], int] | None = None
    ) -> None:
        """Write all decisions with these rows of the inbox and these cursors of the relay, in one transaction.

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
        """Note in the changed ledgers that the store has them now."""
        for ledger in self.changed.values():
            ledger.committed()
