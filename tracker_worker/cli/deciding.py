# SPDX-License-Identifier: Apache-2.0
"""Decisions that a subcommand makes in the database itself, whether a worker is up or not.

A worker that is up finds the new generation of the node before its next decision about the host.
"""

from __future__ import annotations

import getpass

from oslo_config import cfg

from tracker_worker.cli.context import CommandFailed
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decision import Decision
from tracker_worker.ids import NewIds
from tracker_worker.notifications.style import read_style
from tracker_worker.service.requests.asked import asked_by
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

# A worker that commits at the same time costs an attempt.
_MOST_ATTEMPTS = 50
_WORKER = "command"


def operator() -> str:
    """The name under which the present user is logged in, or '' if there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def decide_now(conf: cfg.ConfigOpts, store: Store, host: str, command: Command, *, method: str) -> Decision:
    """Decide ``command`` about ``host`` and commit what follows. The notifications keep the operator and ``method``, the
    words of the subcommand.

    Raises the refusals of the decision, which has changed nothing then. Raises CommandFailed: the host does not exist, or
    workers have changed it again and again. Raises StoreUnavailable.
    """
    asked = asked_by(_WORKER, method=method, context={"user_id": operator()})
    ledgers = Ledgers(store)
    new_id, notify, style = NewIds(), conf.notifications.driver == "messaging", read_style(conf)
    for _ in range(_MOST_ATTEMPTS):
        unit = UnitOfWork(store, ledgers, notify=notify, new_id=new_id, style=style, asked=asked)
        found = ledgers.find(host)
        if found is None:
            raise CommandFailed(f"the database has no host {host}")
        decision = unit.decide(found, command, store.time())
        if decision.error is not None:
            raise decision.error
        try:
            if decision.events:
                unit.commit()
            return decision
        except Conflict:
            ledgers.forget([host])
    raise CommandFailed(f"workers have changed host {host} {_MOST_ATTEMPTS} times in the meantime: try again")
