# SPDX-License-Identifier: Apache-2.0
"""Nodes that are charged on another host: a machine that was given to another host, or whose host was renamed.

The driver of the old host does not list the node any more, and the driver of the new host does. The new host has a node of
its own, which is empty in the ledger although the machine is not. That node takes no claims until an operator has moved the old
one, charges and all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from tracker_worker.domain import commands
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOG = logging.getLogger(__name__)


class Elsewhere:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        held: Callable[[], Collection[str]],
        submit: Callable[[Chore], None],
    ) -> None:
        """``held`` returns the hosts whose chores this worker does."""
        self._store = store
        self._ledgers = ledgers
        self._held = held
        self._submit = submit

    def look(self) -> None:
        """Compare the nodes of the held hosts with those that other hosts of the ledger are charged for and do not list. What
        is new becomes the node's state. Raises StoreUnavailable."""
        missing: dict[str, list[str]] = {}
        for host, node in self._store.missing_nodes():
            missing.setdefault(node, []).append(host)
        for name in sorted(self._held()):
            noted = []
            for ledger in self._ledgers.get(name):
                other = _other(ledger, missing)
                if other != ledger.life.elsewhere:
                    noted.append(commands.NoteElsewhere(node=ledger.name, host=other))
            if noted:
                self._submit(Chore(host=name, commands=noted, done=partial(_log, noted)))


def _other(ledger: NodeLedger, missing: Mapping[str, Sequence[str]]) -> str | None:
    """The host that is charged for the node that this one is, or None. A node that is not listed either is none."""
    if not ledger.life.listed:
        return None
    return next((host for host in sorted(missing.get(ledger.name, ())) if host != ledger.host), None)


def _log(noted: Sequence[commands.NoteElsewhere], host: HostLedger) -> None:
    for each in noted:
        if each.host is None:
            LOG.info("node %s of host %s is no longer charged on another host", each.node, host.name)
        else:
            LOG.error(
                "host %s lists node %s, for which host %s is charged and which it no longer lists: the node of %s takes no "
                "claims until 'tracker-worker node move %s --host %s --to %s'",
                host.name,
                each.node,
                each.host,
                host.name,
                each.node,
                each.host,
                host.name,
            )
