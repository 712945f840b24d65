# SPDX-License-Identifier: Apache-2.0
"""Deciding everything that has arrived, item by item, each on the ledgers as the item before left them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from tracker_worker.bus.base import DeadLetter, Outgoing, Settlement
from tracker_worker.domain import commands, queries
from tracker_worker.domain.allocation import INCOMING
from tracker_worker.domain.decision import NOTHING, Decision
from tracker_worker.domain.events import MoveChanged
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.policy import Policy
from tracker_worker.errors import StoreUnavailable, TrackerError
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.service.requests.items import Chore, Item, Part, Whole
from tracker_worker.service.requests.methods import Audit, Operation, Ping
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.service.requests.refusals import CallExpired
from tracker_worker.store.base import Conflict, InboxRow, StoreReplaced
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork
from tracker_worker.wire.measured import Encoded
from tracker_worker.wire.message import to_json
from tracker_worker.wire.reply import MAX_ANSWER_BYTES, answer, parking_reason, parks


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
    will be parked, which no commit records. ``parts``: what the parts of requests about several hosts came to. ``audits``: the
    requests whose inventories are still to be read. ``moving``: where instances are incoming, for the moves that are to begin.
    ``heartbeats_to_end``: the requests that end here and whose callers get
    heartbeats. ``cursors``: the cursors of the relay that go into the commit. ``ended``: the requests that end
    here, each with the error that it ends with or None; ``copies`` counts those that were answered from the inbox,
    ``parked_copies`` are the codes of those that were parked once more, and ``unmentioned`` are the traced requests that end
    here otherwise. ``began``, ``decided`` and ``committed``: when the attempt got so far (monotonic clock, seconds)."""

    now: int
    unit: UnitOfWork
    known: dict[str, bytes]
    began: float = 0.0
    decided: float = 0.0
    committed: float = 0.0
    moving: dict[str, tuple[str, str]] = field(default_factory=dict)
    max_answer_bytes: int = MAX_ANSWER_BYTES
    inbox_rows: list[InboxRow] = field(default_factory=list)
    unrecorded: list[str] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)
    parts: list[tuple[Part, Any]] = field(default_factory=list)
    heartbeats_to_end: list[PendingRequest] = field(default_factory=list)
    decisions: list[tuple[commands.Command, Decision, PendingRequest | None]] = field(default_factory=list)
    audits: list[PendingRequest] = field(default_factory=list)
    chores: list[Chore] = field(default_factory=list)
    cursors: dict[tuple[int, str], int] = field(default_factory=dict)
    ended: list[tuple[PendingRequest, Exception | None]] = field(default_factory=list)
    copies: int = 0
    parked_copies: list[str] = field(default_factory=list)
    unmentioned: list[PendingRequest] = field(default_factory=list)

    @property
    def commits(self) -> bool:
        """Whether there is anything to commit or to verify."""
        return bool(self.unit.changed or self.inbox_rows or self.unit.unverified)

    def conclude(self, request: PendingRequest, outgoing: Outgoing) -> None:
        """Note that ``outgoing``, which is sent after the commit, ends the request."""
        self.outgoing.append(outgoing)
        if request.heartbeat is not None:
            self.heartbeats_to_end.append(request)

    def leave(self, request: PendingRequest) -> None:
        """Note that the request ends here without being counted."""
        if request.span is not None:
            self.unmentioned.append(request)

    def refuse(self, request: PendingRequest, error: Exception) -> None:
        """Note that the request ends with ``error``."""
        reason = parking_reason(error) if parks(error) else ""
        self.ended.append((request, error))
        self.conclude(request, request.conclusion(answer(request.reply_to, error=error), reason))

    def reply(self, request: PendingRequest, value: Any) -> None:
        """Note that the answer to a query is ``value``, as ``queries.read`` returns it, or Fitting."""
        self.ended.append((request, None))
        answered = answer(request.reply_to, value, limit=self.max_answer_bytes, method=request.method)
        self.conclude(request, request.conclusion(answered))

    def join(self) -> None:
        """The batch is committed: end the requests about several hosts whose last part was in it."""
        for part, outcome in self.parts:
            whole = part.whole
            if whole.ended:
                continue
            whole.outcomes[part.host] = outcome
            if isinstance(outcome, list):
                whole.size += sum(len(item.json) for item in outcome if isinstance(item, Encoded))
            if isinstance(outcome, CallExpired):
                whole.ended = True
                self.ended.append((whole.request, outcome))
                self.conclude(whole.request, Settlement(delivery=whole.request.delivery))
            elif whole.size > self.max_answer_bytes:
                whole.ended = True
                self.reply(whole.request, list(whole.outcomes.values()))  # an error: it is too large already
            elif whole.done():
                whole.ended = True
                self._end(whole)

    def _end(self, whole: Whole) -> None:
        request, action = whole.request, whole.operation.action
        try:
            answers = whole.answers()
        except TrackerError as error:
            self.refuse(request, error)
            return
        if isinstance(action, Audit):
            self.audit(request)
        else:
            assert isinstance(action, queries.Query)
            self.reply(request, queries.merged(action, answers))

    def audit(self, request: PendingRequest) -> None:
        """The inventories are read after the commit: a cast is settled without waiting for them, and a call is answered when
        they have been read."""
        self.audits.append(request)
        self.ended.append((request, None))
        if request.reply_to is None:
            self.conclude(request, Settlement(delivery=request.delivery))


class Decider:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        stored: StoredAnswers,
        ledgers: Ledgers,
        policy: Callable[[], Policy],
        clock: Callable[[], int],
        monotonic: Callable[[], float],
        may_expire: Callable[[str], bool],
        new_unit: Callable[[], UnitOfWork],
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """``clock`` gives microseconds, ``monotonic`` seconds. ``may_expire``: whether the claims of a host may expire now; it
        may raise StoreUnavailable. ``new_unit`` makes the unit of work of a batch."""
        self._stored = stored
        self._ledgers = ledgers
        self._policy = policy
        self._clock = clock
        self._monotonic = monotonic
        self._may_expire = may_expire
        self._new_unit = new_unit
        self._max_answer_bytes = max_answer_bytes

    def decide(
        self, items: Sequence[Item], known: dict[str, bytes], moving: dict[str, tuple[str, str]] | None = None
    ) -> Batch:
        """Decide the items in order; ``known`` are the recorded answers of those that are copies; ``moving``: see Batch.
        Raises StoreUnavailable, Conflict, StoreReplaced and Unexpected; the ledgers of ``hosts_of(items)`` are then worthless.

        If ``known`` lacks a copy, the commit raises Conflict, because it would record a second answer for the message."""
        now = self._monotonic()
        batch = Batch(
            self._clock(),
            self._new_unit(),
            known,
            began=now,
            moving=moving or {},
            max_answer_bytes=self._max_answer_bytes,
        )
        for item in items:
            try:
                if isinstance(item, PendingRequest):
                    self._request(batch, item, now)
                elif isinstance(item, Part):
                    self._part(batch, item)
                else:
                    self._chore(batch, item)
            except (StoreUnavailable, Conflict, StoreReplaced):
                raise
            except Exception as error:
                raise Unexpected(item, error) from error
        batch.decided = self._monotonic()
        return batch

    def _request(self, batch: Batch, request: PendingRequest, now: float) -> None:
        recorded = None if request.unique_id is None else batch.known.get(request.unique_id)
        if request.deadline <= now:
            batch.ended.append((request, CallExpired()))
            batch.conclude(request, Settlement(delivery=request.delivery))
        elif request.is_anothers:
            batch.leave(request)
            batch.conclude(request, request.conclusion(b""))
        elif recorded is not None:
            batch.copies += 1
            batch.leave(request)
            outgoing = request.recorded_conclusion(recorded)
            if isinstance(outgoing, DeadLetter):
                batch.parked_copies.append(outgoing.reason.partition(":")[0])
            batch.conclude(request, outgoing)
        elif request.operation is None:
            assert request.refusal is not None
            batch.refuse(request, request.refusal)
        else:
            try:
                self._operation(batch, request, request.operation)
            except StoreUnavailable:
                raise
            except TrackerError as refusal:
                batch.refuse(request, refusal)

    def _operation(self, batch: Batch, request: PendingRequest, operation: Operation) -> None:
        action = operation.action
        if isinstance(action, Ping):
            if request.reply_to is None:
                batch.leave(request)  # most often a probe of the worker's own
            else:
                batch.ended.append((request, None))
            batch.conclude(request, request.conclusion(answer(request.reply_to, "pong")))
        elif not operation.hosts:
            batch.conclude(request, Settlement(delivery=request.delivery))
        elif isinstance(action, queries.StoredQuery):
            batch.reply(request, self._stored.read(operation.hosts[0], action, batch.now))
        elif isinstance(action, Audit | queries.Query):
            found = self._look(batch, request, self._ledgers.get(operation.hosts[0]), action)
            if isinstance(action, Audit):
                batch.audit(request)
            else:
                batch.reply(request, found)
        else:
            self._command(batch, request, self._ledgers.get(operation.hosts[0]), action)

    def _part(self, batch: Batch, part: Part) -> None:
        action = part.whole.operation.action
        assert isinstance(action, Audit | queries.Query)
        outcome: Any
        if part.whole.ended:
            return
        if part.request.deadline <= batch.began:
            batch.parts.append((part, CallExpired()))
            return
        try:
            found = self._look(batch, part.request, self._ledgers.get(part.host), action)
            outcome = queries.kept(found, lambda item: Encoded(to_json(item)))
        except StoreUnavailable:
            raise
        except TrackerError as refusal:
            outcome = refusal
        batch.parts.append((part, outcome))

    def _look(self, batch: Batch, request: PendingRequest, host: HostLedger, action: Audit | queries.Query) -> Any:
        """The answer of a query about one host. Of an audit: expire the claims that are due."""
        if isinstance(action, queries.Query):
            return queries.read([host], action, batch.now)
        for ledger in queries.nodes(host, action.node):
            expire = self._policy().expire(ledger.name)
            self._decide_command(batch, host, expire, request)
        return None

    def _command(self, batch: Batch, request: PendingRequest, host: HostLedger, command: commands.Command) -> None:
        if isinstance(command, commands.BeginMove):
            command = replace(command, moves_to=_elsewhere(batch, host, command))
        decision = self._decide_command(batch, host, command, request)
        error, unique_id = decision.error, request.unique_id
        if not decision.events:
            batch.unit.unverified.add(host.name)
        answered = answer(request.reply_to, decision.reply, error, method=request.method)
        parked = request.reply_to is None and parks(error)
        reason = parking_reason(error) if parked and error is not None else ""
        batch.ended.append((request, error))
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

    def _chore(self, batch: Batch, chore: Chore) -> None:
        host = self._ledgers.find(chore.host)
        if host is None:
            return  # nobody has served it, and an operator has renamed or forgotten it since
        for command in chore.commands:
            if _is_gone(host, command) or (chore.if_new and not _is_new(host, command)):
                continue
            error = self._decide_command(batch, host, command, None).error
            if error is not None:
                raise error
        batch.chores.append(chore)

    def _decide_command(
        self, batch: Batch, host: HostLedger, command: commands.Command, request: PendingRequest | None
    ) -> Decision:
        if isinstance(command, commands.ExpireClaims) and not self._may_expire(host.name):
            return NOTHING
        decision = batch.unit.decide(
            host, command, batch.now, None if request is None else request.asked_after(batch.began)
        )
        batch.decisions.append((command, decision, request))
        for ledger, event in decision.events:
            if isinstance(event, MoveChanged):
                _note_incoming(batch, ledger, event)
        return decision


def _note_incoming(batch: Batch, ledger: NodeLedger, event: MoveChanged) -> None:
    """What is incoming for a move from here on, for the messages that follow in the batch."""
    uuid = event.move.instance_uuid
    if any(held.role == INCOMING for held in event.charged):
        batch.moving[uuid] = ledger.host, ledger.name
    elif any(held.role == INCOMING for held in event.ended):
        batch.moving.pop(uuid, None)


def _elsewhere(batch: Batch, host: HostLedger, command: commands.BeginMove) -> tuple[str, str] | None:
    """Where the instance is incoming on another host."""
    found = batch.moving.get(command.begin.instance.uuid)
    return None if found is None or found[0] == host.name else found


def _is_gone(host: HostLedger, command: commands.Command) -> bool:
    """Whether the chore is about a node that an operator has renamed or moved since it was submitted."""
    own = (
        commands.ExpireClaims
        | commands.ReportNode
        | commands.NoteElsewhere
        | commands.BeginPeriod
        | commands.TellUsage
        | commands.ForgetUsage
    )
    return isinstance(command, own) and command.node not in host.nodes


def _is_new(host: HostLedger, command: commands.Command) -> bool:
    """Whether the command brings the inventory of a node of which nothing is known."""
    return (
        isinstance(command, commands.ReportNode)
        and command.failure is None
        and host.nodes[command.node].life.look is None
    )
