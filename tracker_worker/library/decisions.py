# SPDX-License-Identifier: Apache-2.0
"""Decisions of a tracker, each committed on the ledgers of its host before it is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tracker_worker.domain.commands import Command
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.errors import StoreUnavailable
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history, recover
from tracker_worker.store.base import AnotherHistory, Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

# Attempts on the ledgers in memory; after so many lost races the host is decided under lock, which cannot lose one.
_ATTEMPTS = 2
_ASKED = b'{"worker":"library"}'


class Decisions:
    """The ledgers of one host. Not thread-safe: it belongs to the thread that holds its tracker's lock. Every method raises
    StoreUnavailable."""

    def __init__(self, store: Store, host: str, *, now: Callable[[], int], notify: bool) -> None:
        """``now`` gives microseconds. ``notify`` False: no outbox row is made, as nobody will read one."""
        self._store = store
        self._name = host
        self._now = now
        self._notify = notify
        self._ledgers = Ledgers(store)
        self._new_id = NewIds()

    def host(self) -> HostLedger | None:
        """The host's ledgers as last read and as events have left them since; None: the host has no service record."""
        return self._in_history(lambda: self._ledgers.find(self._name))

    def ledger(self, node: str) -> NodeLedger | None:
        """The node's ledger at the store's generation: another tracker or a worker may have written since it was read."""
        return self._in_history(lambda: self._ledgers.current(self._name, node))

    def create_node(self, node: str) -> None:
        """Make a row for a node that has none. The host must have a service record."""
        self._in_history(lambda: self._ledgers.create_nodes({self._name: [node]}))

    def commit(self, *commands: Command) -> list[Decision]:
        """Decide all of these commands and commit them as one step; again, when another writer was first."""
        return self._in_history(lambda: self._commit(commands))

    def _in_history(self, act: Callable[[], Result]) -> Result:
        """Do ``act``; if the store has gone back or is in another history, once more in the history in which it goes on."""
        try:
            return act()
        except AnotherHistory as another:
            begin = partial(begin_history, self._store, new_id=self._new_id, notify=self._notify, asked=_ASKED)
            try:
                recover(self._store, self._ledgers, begin, why=str(another), published={}, now=self._now())
                return act()
            except Conflict as conflict:
                raise StoreUnavailable(reason=str(conflict)) from conflict

    def _commit(self, commands: tuple[Command, ...]) -> list[Decision]:
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(commands)
            except AnotherHistory:
                raise
            except Conflict as conflict:
                LOG.info("another writer was first (%s); deciding again", conflict)
        return self._locked(commands)

    def _attempt(self, commands: tuple[Command, ...]) -> list[Decision]:
        unit = self._unit()
        may_be_old = self._ledgers.holds(self._name)
        try:
            host = self._ledgers.get(self._name)
            decisions = [unit.decide(host, command, self._now()) for command in commands]
            if may_be_old and not unit.changed and any(decision.error is not None for decision in decisions):
                # A refusal may be due to another node, because an instance can be on one node only.
                unit.unverified.add(self._name)
            if unit.changed or unit.unverified:
                unit.commit()
                unit.committed()
            return decisions
        except BaseException:
            self._ledgers.forget([self._name])  # ledgers that could not be committed are read again
            raise

    def _locked(self, commands: tuple[Command, ...]) -> list[Decision]:
        unit = self._unit()
        try:
            with self._store.locked(self._ledgers.get(self._name).id) as locked:
                self._ledgers.put(locked.ledger)
                decisions = [unit.decide(locked.ledger, command, self._now()) for command in commands]
                if unit.changed:
                    unit.commit(write=locked.commit)
                    unit.committed()
            return decisions
        except BaseException:
            self._ledgers.forget([self._name])
            raise

    def _unit(self) -> UnitOfWork:
        return UnitOfWork(self._store, self._ledgers, notify=self._notify, new_id=self._new_id, asked=_ASKED)
