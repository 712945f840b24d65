# SPDX-License-Identifier: Apache-2.0
"""What stands between a tracker and its store: a host's ledgers in memory, and decisions that are committed on them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tracker_worker.domain.commands import Command
from tracker_worker.domain.decide import Decision, decide
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.render import render
from tracker_worker.store.base import Commit, Conflict, Store

LOG = logging.getLogger(__name__)

# Whoever loses has been overtaken by somebody who has gone on, so this often in a row is a fault somewhere.
_MOST_ATTEMPTS = 50


class Keeper:
    """The ledgers of one host. Not thread-safe: it belongs to a tracker's lock. Everything raises StoreUnavailable.

    ``now`` gives microseconds. ``notify`` False: nobody will ever read the outbox, so nothing is put there.
    """

    def __init__(self, store: Store, host: str, *, now: Callable[[], int], notify: bool) -> None:
        self._store = store
        self._name = host
        self._now = now
        self._notify = notify
        self._host: HostLedger | None = None

    def host(self) -> HostLedger | None:
        """The host's ledgers as last read, and as events have left them since; None: it has no service record."""
        if self._host is None:
            self._host = self._store.load_host(self._name)
        return self._host

    def ledger(self, node: str) -> NodeLedger | None:
        """The node's ledger at the store's generation: another tracker or a worker may have written since it was read."""
        host = self._host
        if host is not None:
            held = host.nodes.get(node)
            if held is None or self._store.generations([host.id]).get(held.id) != held.stored_generation:
                self._host = None
        host = self.host()
        return None if host is None else host.nodes.get(node)

    def create_node(self, node: str) -> None:
        """A row for a node that has none yet. The host must have a service record."""
        host = self.host()
        assert host is not None
        self._store.create_node(host.id, node)
        self._host = None

    def decide(self, *commands: Command) -> list[Decision]:
        """Decide and commit all of them as one step; when another writer was first, again."""
        for _ in range(_MOST_ATTEMPTS):
            try:
                with self._forgetting():
                    return self._attempt(commands)
            except Conflict as conflict:
                LOG.info("another writer was first (%s); deciding again", conflict)
                last = conflict
        raise StoreUnavailable(reason=f"another writer was first {_MOST_ATTEMPTS} times") from last

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Ledgers that could not be committed are read again."""
        try:
            yield
        except BaseException:
            self._host = None
            raise

    def _attempt(self, commands: tuple[Command, ...]) -> list[Decision]:
        fresh = self._host is None
        host = self.host()
        assert host is not None
        decisions = []
        notifications = []
        changed: dict[int, NodeLedger] = {}
        for command in commands:
            decision = decide(host, command, self._now())
            decisions.append(decision)
            for event in decision.events:
                assert decision.node is not None
                decision.node.apply(event)
                changed[decision.node.id] = decision.node
                if self._notify:
                    notifications.append(render(event, decision.node))
        if changed:
            self._store.commit(Commit(ledgers=list(changed.values()), notifications=notifications))
            for ledger in changed.values():
                ledger.committed()
        elif not fresh and any(decision.error is not None for decision in decisions):
            self._check(host)
        return decisions

    def _check(self, host: HostLedger) -> None:
        """A refusal may rest on another node (an instance can be on one only): it must not rest on an old view of it.

        Raises Conflict.
        """
        stored = self._store.generations([host.id])
        if any(stored.get(ledger.id) != ledger.stored_generation for ledger in host):
            raise Conflict("the ledgers in memory are old")
