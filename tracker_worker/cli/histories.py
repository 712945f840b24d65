# SPDX-License-Identifier: Apache-2.0
"""A new history that an operator begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.operator import asked

if TYPE_CHECKING:
    from oslo_config import cfg

    from tracker_worker.store.base import History, Store


def begin(store: Store, conf: cfg.ConfigOpts, *, reason: str, method: str) -> History:
    """Begin a history after the present one of ``store``, on behalf of the user of this process, and return it. ``method`` is
    the command that is used.

    Raises CommandFailed: another writer was first. Raises StoreUnavailable, Unstorable.
    """
    from tracker_worker.ids import NewIds
    from tracker_worker.new_history import begin_history
    from tracker_worker.notifications.style import read_style
    from tracker_worker.store.base import Conflict

    try:
        begin_history(
            store,
            predecessor=store.histories()[-1].ledger_id,
            reason=reason,
            now=store.time(),
            new_id=NewIds(),
            notify=conf.notifications.driver == "messaging",
            style=read_style(conf),
            asked=asked(method),
        )
    except Conflict as conflict:
        raise CommandFailed(f"another writer was first, see 'db history': {conflict}") from conflict
    return store.histories()[-1]
