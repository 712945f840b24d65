# SPDX-License-Identifier: Apache-2.0
"""Deciding everything that has arrived, item by item, each on the ledgers as the item before left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tracker_worker.bus.base import Outgoing, Settlement
from tracker_worker.domain import commands, queries
from tracker_worker.domain.decide import Decision
from tracker_worker.domain.ledger import HostLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable, TrackerError
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.items import Chore, Item
from tracker_worker.service.requests.methods import Audit, Operation, Ping
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import Conflict, InboxRow
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork
from tracker_worker.wire.reply import answer, parking_reason, parks


class Unexpected(Exception):
    """Deciding ``item`` raised ``error``, which is no refusal."""

    def __init__(self, item: Item, error: Exception) -> None:
        super().__init__()
        self.item = item
        self.error = error


@dataclass(slots=True)
class Batch:
    """What was decided at ``now`` (microseconds), and what is sent once it is committed.

    ``known``: the recorded answers of copies. ``inbox_rows``: the answers to record. ``unrecorded``: the ids of casts that
    will be parked, which no commit records. ``active``: the hosts that were changed by a message from their own queue,
    which has one active consumer. ``audits``: the requests whose inventories are still to be read.
    ``heartbeats_to_end``: the requests that end here and whose callers get heartbeats. ``commits``: whether there is anything
    to commit; ``rows`` and ``cursors``: the rows of the inbox and the relay's cursors that go into the commit."""

    now: int
    unit: UnitOfWork
    known: dict[str, bytes]
    inbox_rows: list[InboxRow] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    active: set[str] = field(default_factory=set)
    outgoing: list[Outgoing] = field(default_factory=list)
    heartbeats_to_end: list[PendingRequest] = field(default_factory=list)
    decisions: list[tuple[commands.Command, Decision, PendingRequest | None]] = field(default_factory=list)
    audits: list[PendingRequest] = field(default_factory=list)
    chores: list[Chore] = field(default_factory=list)
    commits: bool = False
    rows: list[InboxRow] = field(default_factory=list)
    cursors: dict[tuple[int, str], int] = field(default_factory=dict)

    def conclude(self, request: PendingRequest, outgoing: Outgoing) -> None:
        """Note that ``outgoing``, which is sent after the commit, ends the request."""
        self.outgoing.append(outgoing)
        if request.heartbeat is not None:
            self.heartbeats_to_end.append(request)


class Decider:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        ledgers: Ledgers,
        inbox: Inbox,
        policy: Callable[[], Policy],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        new_unit: Callable[[], UnitOfWork],
    ) -> None:
        """``clock`` gives microseconds, ``monotonic`` seconds. ``new_unit`` makes the unit of work of a batch."""
        self._ledgers = ledgers
        self._inbox = inbox
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic
        self._new_unit = new_unit

    def decide(self, items: Sequence[Item], *, after_conflict: bool) -> Batch:
        """Raises StoreUnavailable, Conflict and Unexpected; the ledgers of ``hosts_of(items)`` are then worthless.

        The decider looks for copies of earlier messages in memory only. If it misses a copy, the commit raises Conflict,
        because it would record a second answer for the message. After a conflict the decider looks for copies in the store
        too."""
        ids = [item.unique_id for item in items if isinstance(item, PendingRequest) and item.unique_id is not None]
        known = self._inbox.look_up(ids) if after_conflict else self._inbox.recall(ids)
        batch = Batch(self._clock(), self._new_unit(), known)
        for item in items:
            if isinstance(item, Chore):
                reported = [c.node for c in item.commands if isinstance(c, commands.ReportInventory)]
                self._ledgers.create_nodes(item.host, reported)
        now = self._monotonic()
        for item in items:
            try:
                if isinstance(item, PendingRequest):
                    self._request(batch, item, now)
                else:
                    self._chore(batch, item)
            except (StoreUnavailable, Conflict):
                raise
            except Exception as error:
                raise Unexpected(item, error) from error
        return batch

    def _request(self, batch: Batch, request: PendingRequest, now: float) -> None:
        recorded = None if request.unique_id is None else batch.known.get(request.unique_id)
        if request.deadline <= now:
            batch.conclude(request, Settlement(delivery=request.delivery))
        elif request.is_anothers:
            batch.conclude(request, request.conclusion(b""))
        elif recorded is not None:
            batch.conclude(request, request.recorded_conclusion(recorded))
        elif request.operation is None:
            assert request.refusal is not None
            self._refuse(batch, request, request.refusal)
        else:
            try:
                self._operation(batch, request, request.operation)
            except StoreUnavailable:
                raise
            except TrackerError as refusal:
                self._refuse(batch, request, refusal)

    def _refuse(self, batch: Batch, request: PendingRequest, error: Exception) -> None:
        reason = parking_reason(error) if parks(error) else ""
        batch.conclude(request, request.conclusion(answer(request.reply_to, error=error), reason))

    def _operation(self, batch: Batch, request: PendingRequest, operation: Operation) -> None:
        hosts = [self._ledgers.get(name) for name in operation.hosts]
        action = operation.action
        if isinstance(action, Audit):
            self._audit(batch, request, hosts, action)
        elif isinstance(action, Ping):
            batch.conclude(request, request.conclusion(answer(request.reply_to, "pong")))
        elif isinstance(action, queries.Query):
            batch.unit.unverified.update(operation.hosts)
            batch.conclude(request, request.conclusion(answer(request.reply_to, queries.read(hosts, action))))
        else:
            self._command(batch, request, hosts[0], action)

    def _command(self, batch: Batch, request: PendingRequest, host: HostLedger, command: commands.Command) -> None:
        decision = self._decide_command(batch, host, command, request)
        error, unique_id = decision.error, request.unique_id
        answered = answer(request.reply_to, decision.reply, error)
        parked = request.reply_to is None and parks(error)
        reason = parking_reason(error) if parked and error is not None else ""
        batch.conclude(request, request.conclusion(answered, reason))
        if unique_id is None:
            return
        if parked:
            # A parked cast had no effect and may be sent again by an operator: its copies are decided afresh.
            batch.unrecorded.append(unique_id)
        else:
            batch.known[unique_id] = answered
            batch.inbox_rows.append(
                InboxRow(unique_id=unique_id, host_id=host.id, reply=answered, received_at=batch.now)
            )

    def _audit(self, batch: Batch, request: PendingRequest, hosts: Sequence[HostLedger], audit: Audit) -> None:
        """Expire the claims that are due. The inventories are read after the commit: a cast is settled without waiting for
        them, and a call is answered when they have been read."""
        batch.unit.unverified.update(host.name for host in hosts)
        audited = [(host, ledger) for host in hosts for ledger in queries.nodes(host, audit.node)]
        for host, ledger in audited:
            expire = commands.ExpireClaims(node=ledger.name, release=self._policy().release_expired)
            self._decide_command(batch, host, expire, request)
        batch.audits.append(request)
        if request.reply_to is None:
            batch.conclude(request, Settlement(delivery=request.delivery))

    def _chore(self, batch: Batch, chore: Chore) -> None:
        host = self._ledgers.get(chore.host)
        for command in chore.commands:
            error = self._decide_command(batch, host, command, None).error
            if error is not None:
                raise error
        batch.chores.append(chore)

    def _decide_command(
        self, batch: Batch, host: HostLedger, command: commands.Command, request: PendingRequest | None
    ) -> Decision:
        decision = batch.unit.decide(host, command, batch.now)
        if decision.events and request is not None and request.delivery.source == host.name:
            batch.active.add(host.name)
        batch.decisions.append((command, decision, request))
        return decision
