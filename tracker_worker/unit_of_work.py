# SPDX-License-Identifier: Apache-2.0
"""The decisions of one commit: decide, apply, render, collect, commit. The worker's loop and the library use it.

A decision is valid only after the commit of its unit. Until then it exists in the unit and in the ledgers in memory, which the
caller forgets if the commit fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tracker_worker import faults
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decide import decide
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.events import UNPUBLISHED, Event
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.ids import NewIds
from tracker_worker.notifications.notification import Notification
from tracker_worker.notifications.render import PLAIN, Style, render
from tracker_worker.store.base import EVERY_TOPIC, Commit, History, InboxRow, Store
from tracker_worker.store.ledgers import Ledgers


class UnitOfWork:
    """The thread that owns the ledgers uses it, and no other. After an error the ledgers of the unit's hosts are no longer
    valid: call ``Ledgers.forget`` for them, and decide everything again in a new unit."""

    def __init__(
        self,
        store: Store,
        ledgers: Ledgers,
        *,
        notify: bool,
        new_id: NewIds,
        style: Style = PLAIN,
        asked: bytes = b"{}",
    ) -> None:
        """``notify`` False: notifications are switched off; the unit makes none. ``asked``: who asks for what nobody
        requested."""
        self._store = store
        self._ledgers = ledgers
        self._notify = notify
        self._new_id = new_id
        self._style = style
        self._asked = asked
        self.changed: dict[int, NodeLedger] = {}
        self.notifications: list[Notification] = []
        # Where notifications are switched off: stream id -> the last number that is not published.
        self._unpublished: dict[int, int] = {}
        # The hosts with an answer that rests on more nodes than it changed: the commit checks the generations of all of them.
        self.unverified: set[str] = set()

    def decide(self, host: HostLedger, command: Command, now: int, asked: bytes | None = None) -> Decision:
        """Decide ``command`` at ``now`` (microseconds) on the ledgers as the earlier decisions of this unit left them,
        apply the events, and make their notifications, which keep who ``asked``."""
        decision = decide(host, command, now, self._new_id)
        for ledger, event in decision.events:
            self.apply(ledger, event, asked)
        if decision.whole_host:
            self.unverified.add(host.name)
        return decision

    def apply(self, ledger: NodeLedger, event: Event, asked: bytes | None = None) -> None:
        """Apply ``event``, which was decided on this ledger as it is, and make its notification."""
        self.changed[ledger.id] = ledger
        self.tell(ledger, event, asked)

    def tell(self, ledger: NodeLedger, event: Event, asked: bytes | None = None) -> None:
        """Apply ``event`` to a ledger that is not written, and make its notification."""
        ledger.apply(event)
        if isinstance(event, UNPUBLISHED):
            return
        if self._notify:
            notification = render(
                event, ledger, message_id=self._new_id(event.at), asked=asked or self._asked, style=self._style
            )
            self.notifications.append(notification)
        else:
            self._unpublished[ledger.stream_id] = ledger.sequence

    def commit(
        self,
        *,
        inbox_rows: Sequence[InboxRow] = (),
        cursors: Mapping[tuple[int, str], int] | None = None,
        history: History | None = None,
        write: Callable[[Commit], None] | None = None,
    ) -> None:
        """Write all decisions with these rows of the inbox and these cursors of the relay, in one transaction, on condition
        that the ledgers on which the answers rest are at the store's generations. ``write`` None stands for the
        commit of the store.

        Raises Conflict, Unstorable, StoreUnavailable (then it is unknown whether the commit happened).
        """
        if not self._notify:
            # What is told to nobody need not be kept.
            for ledger in self.changed.values():
                ledger.segments.clear()
        commit = Commit(
            history=history,
            ledger_id=self._ledgers.ledger_id if history is None else history.ledger_id,
            ledgers=list(self.changed.values()),
            notifications=self.notifications,
            inbox_rows=inbox_rows,
            cursors={**(cursors or {}), **self._passed_over()},
            verified=self._verified(),
        )
        if faults.hook is not None:
            faults.hook("before_commit")
        (write or self._store.commit)(commit)
        if faults.hook is not None:
            faults.hook("after_commit")

    def _passed_over(self) -> dict[tuple[int, str], int]:
        """The numbers that no outbox row has, for the cursors to pass over: a row that is missing is lost."""
        return {(stream_id, EVERY_TOPIC): sequence for stream_id, sequence in self._unpublished.items()}

    def _verified(self) -> dict[int, dict[int, int]]:
        """The hosts with an answer that rests on more nodes than it changed, unless the commit changes all of them, and so
        checks them."""
        hosts = [self._ledgers.get(name) for name in sorted(self.unverified)]
        return {
            host.id: {ledger.id: ledger.stored_generation for ledger in host}
            for host in hosts
            if not host.nodes or any(ledger.id not in self.changed for ledger in host)
        }

    def committed(self) -> None:
        """Note in the changed ledgers that the store has them now."""
        for ledger in self.changed.values():
            ledger.committed()
            self._ledgers.note(ledger)
