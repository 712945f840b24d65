# SPDX-License-Identifier: Apache-2.0
"""The log of decisions: one record for each, with the figures that the decision rests on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from tracker_worker.domain import commands, events
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.fit import Shortfall
from tracker_worker.domain.move import Move
from tracker_worker.domain.views import iso_second
from tracker_worker.history import Entry, of_event
from tracker_worker.notifications.asked import NOBODY, Asked
from tracker_worker.text import printable

LOG = logging.getLogger("tracker_worker.decisions")

# A line quotes at most eight names of 255 characters, and an error.
_MOST_CHARACTERS = 4000


class Requested(Protocol):
    """A request, with who sent it."""

    @property
    def asked(self) -> Asked: ...


def log_decisions(
    decisions: Sequence[tuple[commands.Command, Decision, Requested | None]], *, fields: bool = False
) -> None:
    """Log the decisions of one batch, one record for each event and each refusal. A decision that changed nothing is logged at
    DEBUG only. ``fields``: each record has ``extra`` with figures, who asked, and the duration."""
    if not LOG.isEnabledFor(logging.INFO):
        return
    debug = LOG.isEnabledFor(logging.DEBUG)
    records = _Records()
    for command, decision, request in decisions:
        asked = NOBODY if request is None else request.asked
        who = _who(asked)
        for ledger, event in decision.events:
            level = logging.DEBUG if isinstance(event, events.UNPUBLISHED) else logging.INFO
            if level == logging.INFO or debug:
                extra = _fields(asked, of_event(event, host="", node="", asked=asked)) if fields else None
                text = f"{type(event).__name__} {_told(event, f'{ledger.host}/{ledger.name}')} {who}"
                records.log(level, text, extra)
        if decision.events:
            continue
        about = decision.node
        where = "-" if about is None else f"{about.host}/{about.name}"
        name = type(command).__name__
        extra = _fields(asked, None) if fields else None
        if decision.error is not None:
            records.log(logging.INFO, f"{name} refused node={where}: {decision.error} {who}", extra)
        elif debug:
            records.log(logging.DEBUG, f"{name} changed nothing node={where} {who}", extra)


def _who(asked: Asked) -> str:
    took = "" if asked.duration_ms is None else f" ms={asked.duration_ms}"
    return f"project={asked.project_id or '-'} user={asked.user_id or '-'} request={asked.request_id or '-'}{took}"


def _fields(asked: Asked, entry: Entry | None) -> dict[str, object]:
    figures = {} if entry is None else dict(entry.figures)
    return {"figures": figures, "who": asked.who, "duration_ms": asked.duration_ms}


class _Records:
    """The records of one batch. They are copies of the first one, which is made without looking for the place in the code: to
    make each of them anew would take as long as a decision."""

    def __init__(self) -> None:
        self._first: dict[str, object] | None = None

    def log(self, level: int, text: str, extra: Mapping[str, object] | None) -> None:
        """Log ``text`` as LOG does. ``extra`` is where oslo.log's JSON formatter looks for fields."""
        shown = printable(text, _MOST_CHARACTERS)
        if self._first is None:
            record = logging.LogRecord(LOG.name, level, __file__, 0, shown, None, None)
            self._first = dict(record.__dict__)
        else:
            record = logging.LogRecord.__new__(logging.LogRecord)
            record.__dict__.update(self._first, msg=shown, levelno=level, levelname=logging.getLevelName(level))
        if extra is not None:
            record.extra = extra
        LOG.handle(record)


def _told(event: events.Event, node: str) -> str:
    match event:
        case events.ClaimBegun(allocation=held):  # the first one: there are more of them than of all others
            return (
                f"instance={held.uuid} node={node} figures={held.resources.to_dict()} limit_source={held.limit_source}"
            )
        case events.ClaimRejected(instance=instance, shortfalls=shortfalls, limit_source=source):
            return (
                f"instance={instance.uuid} node={node} requested/used/limit: {_lacks(shortfalls)} limit_source={source}"
            )
        case events.ClaimUntracked(instance=instance):
            return f"instance={instance.uuid} node={node}"
        case events.MoveRejected(move=move, shortfalls=shortfalls):
            return (
                f"{_move(move)} node={node} requested/used/limit: {_lacks(shortfalls)} limit_source={move.limit_source}"
            )
        case events.MoveChanged(move=move, role=role, shown=held):
            return f"{_move(move)} node={node} state={move.state} role={role or '-'} figures={held.resources.to_dict()}"
        case events.MoveNoted(move=move):
            return f"{_move(move)} node={node} state={move.state}"
        case events.MovesForgotten(ids=ids):
            return f"node={node} moves={len(ids)}"
        case events.NodeUpdated(inventory=inventory, life=life):
            totals = "no inventory" if inventory is None else f"total={inventory.total.to_dict()}"
            reason = f" {life.reason}" if life.reason else ""
            return f"node={node} state={life.state}{reason} {totals}"
        case events.UsageDrift(stored=stored, usage=usage):
            return f"node={node} stored={stored.to_dict()} usage={usage.to_dict()}"
        case events.InstancesDrift(comparison=compared):
            return (
                f"node={node} charged_not_running={len(compared.charged_not_running)} "
                f"running_not_charged={len(compared.running_not_charged)} building={len(compared.building)}"
            )
        case events.DeletionNoted(uuid=uuid):
            return f"instance={uuid} node={node}"
        case events.DeletionsForgotten(uuids=uuids):
            return f"node={node} instances={len(uuids)}"
        case events.LifeNoted(life=life):
            return f"node={node} state={life.state}"
        case events.UsageExists(shown=held, beginning=beginning, seconds=seconds):
            return f"instance={held.uuid} node={node} beginning={iso_second(beginning)} seconds={seconds}"
        case events.PeriodClosed(periods=periods) | events.PeriodsNoted(periods=periods):
            ending = iso_second(periods.ending) if periods.ending else "-"
            return f"node={node} beginning={iso_second(periods.until)} ending={ending} exists={periods.exists}"
        case events.UsageUpdated(before=before, allocation=held):
            was, now = before.instance, held.instance
            return (
                f"instance={held.uuid} node={node} state={was.vm_state}->{now.vm_state} "
                f"task={was.task_state}->{now.task_state} "
                f"figures={before.resources.to_dict()}->{held.resources.to_dict()}"
            )
        case _:
            held = event.allocation
            return (
                f"instance={held.uuid} node={node} figures={held.resources.to_dict()} limit_source={held.limit_source}"
            )


def _lacks(shortfalls: Iterable[Shortfall]) -> str:
    return " ".join(f"{s.resource}={s.requested}/{s.used}/{s.limit}{_said(s.reason)}" for s in shortfalls)


def _said(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _move(move: Move) -> str:
    return f"move={move.id} kind={move.kind} instance={move.instance_uuid}"
