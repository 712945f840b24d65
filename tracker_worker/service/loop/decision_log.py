# SPDX-License-Identifier: Apache-2.0
"""The log of decisions: one record for each, with the figures that the decision rests on."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Protocol

from tracker_worker.domain import commands, events
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.fit import Shortfall
from tracker_worker.domain.move import Move
from tracker_worker.domain.views import iso_second
from tracker_worker.text import printable

LOG = logging.getLogger("tracker_worker.decisions")

# A line quotes at most eight names of 255 characters, and an error.
_MOST_CHARACTERS = 4000


class Requested(Protocol):
    """A request, with the id that its caller gave it."""

    @property
    def request_id(self) -> str: ...


def log_decisions(decisions: Sequence[tuple[commands.Command, Decision, Requested | None]]) -> None:
    """Log the decisions of one batch, one record for each event and each refusal. A decision that changed nothing is logged at
    DEBUG only."""
    if not LOG.isEnabledFor(logging.INFO):
        return
    debug = LOG.isEnabledFor(logging.DEBUG)
    records = _Records()
    for command, decision, request in decisions:
        request_id = "-" if request is None else request.request_id
        for ledger, event in decision.events:
            level = logging.DEBUG if isinstance(event, events.UNPUBLISHED) else logging.INFO
            if level == logging.INFO or debug:
                name, node = type(event).__name__, f"{ledger.host}/{ledger.name}"
                records.log(level, f"{name} node={node} {_figures(event)} request_id={request_id}")
        if decision.events:
            continue
        about = decision.node
        where = "-" if about is None else f"{about.host}/{about.name}"
        name = type(command).__name__
        if decision.error is not None:
            records.log(logging.INFO, f"{name} refused node={where}: {decision.error} request_id={request_id}")
        elif debug:
            records.log(logging.DEBUG, f"{name} changed nothing node={where} request_id={request_id}")


class _Records:
    """The records of one batch. They are copies of the first one, which is made without looking for the place in the code: to
    make each of them anew would take as long as a decision."""

    def __init__(self) -> None:
        self._first: dict[str, object] | None = None

    def log(self, level: int, text: str) -> None:
        """Log ``text`` as LOG does."""
        shown = printable(text, _MOST_CHARACTERS)
        if self._first is None:
            record = logging.LogRecord(LOG.name, level, __file__, 0, shown, None, None)
            self._first = dict(record.__dict__)
        else:
            record = logging.LogRecord.__new__(logging.LogRecord)
            record.__dict__.update(self._first, msg=shown, levelno=level, levelname=logging.getLevelName(level))
        LOG.handle(record)


def _figures(event: events.Event) -> str:
    match event:
        case events.ClaimBegun(allocation=held):  # the first one: there are more of them than of all others
            return f"instance={held.uuid} resources={held.resources.to_dict()} limit_source={held.limit_source}"
        case events.ClaimRejected(instance=instance, shortfalls=shortfalls, limit_source=source):
            return f"instance={instance.uuid} requested/used/limit: {_lacks(shortfalls)} limit_source={source}"
        case events.ClaimUntracked(instance=instance):
            return f"instance={instance.uuid}"
        case events.MoveRejected(move=move, shortfalls=shortfalls):
            return f"{_move(move)} requested/used/limit: {_lacks(shortfalls)} limit_source={move.limit_source}"
        case events.MoveChanged(move=move, role=role, shown=held):
            return f"{_move(move)} state={move.state} role={role or '-'} resources={held.resources.to_dict()}"
        case events.MoveNoted(move=move):
            return f"{_move(move)} state={move.state}"
        case events.MovesForgotten(ids=ids):
            return f"moves={len(ids)}"
        case events.NodeUpdated(inventory=inventory, life=life):
            totals = "no inventory" if inventory is None else f"total={inventory.total.to_dict()}"
            return f"state={life.state} {life.reason} {totals}" if life.reason else f"state={life.state} {totals}"
        case events.UsageDrift(stored=stored, usage=usage):
            return f"stored={stored.to_dict()} usage={usage.to_dict()}"
        case events.InstancesDrift(comparison=compared):
            return (
                f"charged_not_running={len(compared.charged_not_running)} "
                f"running_not_charged={len(compared.running_not_charged)} building={len(compared.building)}"
            )
        case events.DeletionNoted(uuid=uuid):
            return f"instance={uuid}"
        case events.DeletionsForgotten(uuids=uuids):
            return f"instances={len(uuids)}"
        case events.LifeNoted(life=life):
            return f"state={life.state}"
        case events.UsageExists(shown=held, beginning=beginning, seconds=seconds):
            return f"instance={held.uuid} beginning={iso_second(beginning)} seconds={seconds}"
        case events.PeriodClosed(periods=periods) | events.PeriodsNoted(periods=periods):
            ending = iso_second(periods.ending) if periods.ending else "-"
            return f"beginning={iso_second(periods.until)} ending={ending} exists={periods.exists}"
        case events.UsageUpdated(before=before, allocation=held):
            was, now = before.instance, held.instance
            return (
                f"instance={held.uuid} state={was.vm_state}->{now.vm_state} task={was.task_state}->{now.task_state} "
                f"resources={before.resources.to_dict()}->{held.resources.to_dict()}"
            )
        case _:
            held = event.allocation
            return f"instance={held.uuid} resources={held.resources.to_dict()} limit_source={held.limit_source}"


def _lacks(shortfalls: Iterable[Shortfall]) -> str:
    return " ".join(f"{s.resource}={s.requested}/{s.used}/{s.limit}{_said(s.reason)}" for s in shortfalls)


def _said(reason: str) -> str:
    return f" ({reason})" if reason else ""


def _move(move: Move) -> str:
    return f"move={move.id} kind={move.kind} instance={move.instance_uuid}"
