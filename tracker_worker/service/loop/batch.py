# SPDX-License-Identifier: Apache-2.0
"""Deciding everything that has arrived, one after the other, each on the ledgers as the one before left them.

Nothing of a batch is true before its commit; until then it exists only here and in ledgers that are thrown away if the commit
fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tracker_worker.domain import commands, queries
from tracker_worker.domain.decide import Decision, decide
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable, TrackerError
from tracker_worker.notifications.render import render
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.methods import Audit, Call, Ping, Query
from tracker_worker.service.requests.pending import Work, answer, ignorable, parks
from tracker_worker.store.base import Answered, Conflict, Notification
from tracker_worker.store.ledgers import Ledgers


@dataclass(slots=True, kw_only=True, eq=False)
class Chore:
    """Commands of the worker's own for one host. ``done`` is called on the engine's thread after their commit, with the
    ledgers as they are then; ``failed`` instead when they cannot be decided."""

    host: str
    commands: Sequence[commands.Command]
    done: Callable[[HostLedger], None] | None = None
    failed: Callable[[Exception], None] | None = None


Item = Work | Chore


class Unexpected(Exception):
    """Deciding ``item`` raised what it must not; ``__cause__`` is that."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self.item = item


@dataclass(slots=True)
class Batch:
    """What was decided at ``now`` (microseconds).

    ``active``: hosts that were changed by a message from their own queue, which has one consumer at a time. ``outcomes``:
    what is recorded and told for each message, in order of arrival. ``parked``: casts that will be, which no commit records.
    ``relied``: hosts of which something was told that no commit checks. ``audits``: those whose inventories are still to be
    read.
    """

    now: int
    ledgers: dict[int, NodeLedger] = field(default_factory=dict)
    active: set[str] = field(default_factory=set)
    notifications: list[Notification] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    parked: list[str] = field(default_factory=list)
    known: dict[str, bytes] = field(default_factory=dict)
    outcomes: list[tuple[Work, bytes]] = field(default_factory=list)
    decisions: list[tuple[commands.Command, Decision, Work | None]] = field(default_factory=list)
    relied: set[str] = field(default_factory=set)
    audits: list[Work] = field(default_factory=list)
    chores: list[Chore] = field(default_factory=list)


class Decider:
    """Belongs to the engine's thread. ``notify`` False: notifications are switched off and not even made."""

    def __init__(
        self,
        *,
        ledgers: Ledgers,
        inbox: Inbox,
        policy: Callable[[], Policy],
        clock: Callable[[], int],
        notify: bool,
    ) -> None:
        self._ledgers = ledgers
        self._inbox = inbox
        self._policy = policy
        self._clock = clock
        self._notify = notify

    def decide(self, items: Sequence[Item], *, again: bool) -> Batch:
        """Raises StoreUnavailable, Conflict and Unexpected; the ledgers of ``hosts_of(items)`` are then worthless.

        What has been answered before is looked up in memory only: a commit that would answer it twice meets a conflict. It
        is looked up in the store where there was one (``again``).
        """
        batch = Batch(now=self._clock())
        ids = [item.unique_id for item in items if isinstance(item, Work) and item.unique_id is not None]
        batch.known = self._inbox.look(ids) if again else self._inbox.recall(ids)
        for item in items:
            if isinstance(item, Chore):
                reported = [c.node for c in item.commands if isinstance(c, commands.ReportInventory)]
                self._ledgers.create_nodes(item.host, reported)
        for item in items:
            try:
                if isinstance(item, Work):
                    self._work(batch, item)
                else:
                    self._chore(batch, item)
            except (StoreUnavailable, Conflict):
                raise
            except Exception as error:
                raise Unexpected(item) from error
        return batch

    def _work(self, batch: Batch, work: Work) -> None:
        recorded = None if work.unique_id is None else batch.known.get(work.unique_id)
        if work.expired:
            batch.outcomes.append((work, b""))
        elif recorded is not None:
            batch.outcomes.append((work, recorded))
        elif work.call is None:
            assert work.refusal is not None
            batch.outcomes.append((work, b"" if ignorable(work) else answer(work, error=work.refusal)))
        else:
            self._call(batch, work, work.call)

    def _call(self, batch: Batch, work: Work, call: Call) -> None:
        hosts = [self._ledgers.get(name) for name in call.hosts]
        try:
            if isinstance(call.asked, Audit):
                self._audit(batch, work, hosts, call.asked)
            elif isinstance(call.asked, Ping):
                batch.outcomes.append((work, answer(work, "pong")))
            elif isinstance(call.asked, Query):
                batch.relied.update(call.hosts)
                batch.outcomes.append((work, answer(work, queries.read(hosts, call.asked))))
            else:
                self._command(batch, work, hosts[0], call.asked)
        except TrackerError as refusal:
            batch.outcomes.append((work, answer(work, error=refusal)))

    def _command(self, batch: Batch, work: Work, host: HostLedger, command: commands.Command) -> None:
        decision = self._apply(batch, host, command, work)
        told = answer(work, decision.reply, decision.error)
        batch.outcomes.append((work, told))
        # A parked cast has had no effect and may be sent again: its copies are decided afresh.
        parked = work.reply_to is None and parks(decision.error)
        if work.unique_id is not None and parked:
            batch.parked.append(work.unique_id)
        elif work.unique_id is not None:
            batch.known[work.unique_id] = told
            batch.answered.append(
                Answered(unique_id=work.unique_id, host_id=host.id, reply=told, received_at=batch.now)
            )

    def _audit(self, batch: Batch, work: Work, hosts: Sequence[HostLedger], audit: Audit) -> None:
        """Expire what is due now; the inventories come later. A cast is done with, a call waits for them."""
        batch.relied.update(host.name for host in hosts)
        audited = [(host, ledger) for host in hosts for ledger in queries.nodes(host, audit.node)]
        for host, ledger in audited:
            expire = commands.ExpireClaims(node=ledger.name, release=self._policy().release_expired)
            self._apply(batch, host, expire, work)
        batch.audits.append(work)
        if work.reply_to is None:
            batch.outcomes.append((work, b""))

    def _chore(self, batch: Batch, chore: Chore) -> None:
        host = self._ledgers.get(chore.host)
        for command in chore.commands:
            error = self._apply(batch, host, command, None).error
            if error is not None:
                raise error
        batch.chores.append(chore)

    def _apply(self, batch: Batch, host: HostLedger, command: commands.Command, work: Work | None) -> Decision:
        decision = decide(host, command, batch.now)
        ledger = decision.node
        if not decision.events:
            batch.relied.add(host.name)
        for event in decision.events:
            assert ledger is not None
            ledger.apply(event)
            batch.ledgers[ledger.id] = ledger
            if work is not None and work.delivery.source == host.name:
                batch.active.add(host.name)
            if self._notify:
                batch.notifications.append(render(event, ledger))
        batch.decisions.append((command, decision, work))
        return decision


def hosts_of(items: Iterable[Item]) -> set[str]:
    """The names of the hosts that these items are about."""
    names: set[str] = set()
    for item in items:
        if isinstance(item, Chore):
            names.add(item.host)
        elif item.call is not None:
            names.update(item.call.hosts)
    return names
