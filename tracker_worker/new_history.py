# SPDX-License-Identifier: Apache-2.0
"""A new history of a database whose old one went back, or is told to end.

Each history has a ledger_id of its own, so that a number that a stream of events has used in the old history is not the same
number in the new one. Every node tells the change, also an idle one: what was heard of it beyond a number never happened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec.structs import replace

from tracker_worker.domain.events import NodeUpdated
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import Life
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import PLAIN, Style
from tracker_worker.store.base import Conflict, History, Store, Stream, StreamEnd
from tracker_worker.store.ledgers import Ledgers, Lost
from tracker_worker.unit_of_work import UnitOfWork

LOG = logging.getLogger(__name__)

# Another writer that begins a history costs an attempt.
_MOST_ATTEMPTS = 5
# So many nodes are named in one line of the log.
_MOST_NODES = 50


def begin_history(
    store: Store,
    *,
    predecessor: str,
    reason: str,
    now: int,
    new_id: NewIds,
    notify: bool = True,
    style: Style = PLAIN,
    asked: bytes = b"{}",
) -> str:
    """Begin a new history after ``predecessor``, the ledger_id of the present one, and return the new ledger_id.

    One commit inserts the history and gives each node of every host, and each name that no node has now, a
    ``tracker.node.updated`` with ``previous_ledger_id`` and ``previous_sequence``, which keeps who ``asked``; ``notify`` False:
    notifications are switched off, and none is made. ``now`` in microseconds. The caller's ledgers in memory are worthless
    afterwards.

    Raises Conflict: another history has followed ``predecessor`` already, and nothing was written. Raises StoreUnavailable,
    Unstorable.
    """
    unit = UnitOfWork(store, Ledgers(store), notify=notify, new_id=new_id, style=style, asked=asked)
    ledger_id = new_id(now)
    left = store.left_streams()
    with store.all_locked() as locked:
        for host in locked.hosts:
            if host.ledger_id != predecessor:
                raise Conflict(f"the history {predecessor} has a successor already")
            for ledger in host:
                _go_on(unit.apply, ledger, ledger_id, now)
        taken = {ledger.stream_id for host in locked.hosts for ledger in host}
        ends = [_end(unit, stream, predecessor, ledger_id, now) for stream in left if stream.id not in taken]
        history = History(ledger_id=ledger_id, since=now, reason=reason, predecessor=predecessor)
        unit.commit(history=history, write=lambda commit: locked.commit(replace(commit, ended_streams=ends)))
    return ledger_id


def _end(unit: UnitOfWork, stream: Stream, predecessor: str, ledger_id: str, now: int) -> StreamEnd:
    """Let a name that no node has tell the change too: that a node came to it may be what is lost."""
    nobody = NodeLedger(
        id=0,
        host=stream.host,
        name=stream.node,
        stream_id=stream.id,
        ledger_id=predecessor,
        generation=stream.generation,
        sequence=stream.sequence,
        last_at=stream.last_at,
    )
    nobody.life = Life(reason="no node has this name")
    _go_on(unit.tell, nobody, ledger_id, now)
    return StreamEnd(
        stream_id=stream.id, sequence=nobody.sequence, occurred_at=nobody.last_at, generation=nobody.generation
    )


def _go_on(apply: Callable[[NodeLedger, NodeUpdated], None], ledger: NodeLedger, ledger_id: str, now: int) -> None:
    """Let the node's ledger go on in the history ``ledger_id``."""
    previous: dict[str, str | int] = {"previous_ledger_id": ledger.ledger_id, "previous_sequence": ledger.sequence}
    ledger.ledger_id = ledger_id
    event = NodeUpdated(at=ledger.time(now), inventory=ledger.inventory, life=ledger.life, more=previous)
    apply(ledger, event)


def follows(histories: Sequence[History], ledger_id: str) -> bool:
    """Whether the present history, the last one, has ``ledger_id`` among its predecessors."""
    return any(history.ledger_id == ledger_id for history in histories[:-1])


class Begin(Protocol):
    """``begin_history`` for one store, with all that histories which one writer begins have in common."""

    def __call__(self, *, predecessor: str, reason: str, now: int) -> str: ...


def recover(store: Store, ledgers: Ledgers, begin: Begin, *, why: str, published: Mapping[int, int], now: int) -> str:
    """Go on after AnotherHistory, or for another reason ``why``: in the history that has followed the one of ``ledgers``, or in
    a new one. Log an error that says what is lost, reset ``ledgers``, and return the ledger_id.

    ``published``: stream id -> the number of the last event that this process has published. ``now`` in microseconds. Raises
    StoreUnavailable, Unstorable; and Conflict: other writers were first again and again. Then nothing is reset.
    """
    own = ledgers.ledger_id
    for _ in range(_MOST_ATTEMPTS):
        histories = store.histories()
        present = histories[-1]
        lost = ledgers.lost(ledgers.progress())
        if own is not None and follows(histories, own):
            LOG.error(
                "the ledger %s has ended: another worker or an operator has begun the ledger %s (%s); this worker forgets "
                "everything that it has in memory and goes on there; %s",
                own,
                present.ledger_id,
                present.reason,
                _described(lost, published),
            )
            ledgers.reset()
            return present.ledger_id
        try:
            new = begin(predecessor=present.ledger_id, reason=_reason(why, own, present.ledger_id, lost), now=now)
        except Conflict as conflict:
            last = conflict
            continue
        LOG.error(
            "the ledger %s has ended (%s): the ledger %s follows on %s, and everything in memory is forgotten; %s",
            own,
            why,
            new,
            present.ledger_id,
            _described(lost, published),
        )
        ledgers.reset()
        return new
    raise last


def _reason(why: str, own: str | None, present: str, lost: Sequence[Lost]) -> str:
    if own not in (None, present):
        return f"the database went back from the ledger {own}"
    return f"the database went back by {_commits(lost)} commits" if lost else why


def _commits(lost: Sequence[Lost]) -> int:
    return sum(max(0, each.seen.generation - each.generation) for each in lost)


def _described(lost: Sequence[Lost], published: Mapping[int, int]) -> str:
    """How many commits are lost, of which nodes, and how far billing has heard of them."""
    if not lost:
        return "as far as this process knows, no commit is lost"
    nodes = [_node(each, published.get(each.seen.stream_id)) for each in lost[:_MOST_NODES]]
    if len(lost) > len(nodes):
        nodes.append(f"and {len(lost) - len(nodes)} more nodes")
    return f"{_commits(lost)} commits are lost: {'; '.join(nodes)}"


def _node(lost: Lost, published: int | None) -> str:
    seen = lost.seen
    heard = f"{seen.sequence} at most" if published is None else f"{published}"
    return (
        f"{seen.host}/{seen.node} was at generation {seen.generation} and event {seen.sequence}, is at {lost.generation} and "
        f"{lost.sequence} (published up to event {heard})"
    )
