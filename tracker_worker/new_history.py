# SPDX-License-Identifier: Apache-2.0
"""A new history of a database whose old one went back, or is told to end.

Each history has a ledger_id of its own, so that a number that a stream of events has used in the old history is not the same
number in the new one. Every node tells the change, also an idle one: what was heard of it beyond a number never happened.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracker_worker.domain.events import NodeUpdated
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import PLAIN, Style
from tracker_worker.store.base import Conflict, History, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

# Another writer that commits at the same time costs an attempt.
_MOST_ATTEMPTS = 50


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

    One commit inserts the history and gives each node of every host a ``tracker.node.updated`` with ``previous_ledger_id`` and
    ``previous_sequence``, which keeps who ``asked``; ``notify`` False: notifications are switched off, and none is made.
    ``now`` in microseconds. The caller's ledgers in memory are worthless afterwards.

    Raises Conflict: another history has followed ``predecessor`` already, and nothing was written; or other writers were first
    again and again. Raises StoreUnavailable, Unstorable.
    """
    for _ in range(_MOST_ATTEMPTS):
        if store.histories()[-1].ledger_id != predecessor:
            raise Conflict(f"the history {predecessor} has a successor already")
        try:
            return _begin(store, predecessor, reason, now, new_id, notify, style, asked)
        except Conflict as conflict:
            lost = conflict
    raise lost


def _begin(
    store: Store, predecessor: str, reason: str, now: int, new_id: NewIds, notify: bool, style: Style, asked: bytes
) -> str:
    ledgers = Ledgers(store)
    unit = UnitOfWork(store, ledgers, notify=notify, new_id=new_id, style=style, asked=asked)
    ledger_id = new_id(now)
    for name in store.host_names():
        host = ledgers.find(name)
        for ledger in () if host is None else host:
            _go_on(unit, ledger, ledger_id, now)
    unit.commit(history=History(ledger_id=ledger_id, since=now, reason=reason, predecessor=predecessor))
    return ledger_id


def _go_on(unit: UnitOfWork, ledger: NodeLedger, ledger_id: str, now: int) -> None:
    """Let the node's ledger go on in the history ``ledger_id``."""
    previous: dict[str, str | int] = {"previous_ledger_id": ledger.ledger_id, "previous_sequence": ledger.sequence}
    ledger.ledger_id = ledger_id
    event = NodeUpdated(at=ledger.time(now), inventory=ledger.inventory, life=ledger.life, more=previous)
    unit.apply(ledger, event)


def follows(histories: Sequence[History], ledger_id: str) -> bool:
    """Whether the present history, the last one, has ``ledger_id`` among its predecessors."""
    return any(history.ledger_id == ledger_id for history in histories[:-1])
