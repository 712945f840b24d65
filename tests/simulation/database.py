# SPDX-License-Identifier: Apache-2.0
"""The database of a world: what the workers open, and what can happen to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tests.simulation.machine import Machine
from tests.simulation.stage import Stage
from tests.support.backup import Backup
from tracker_worker.domain.host import HostLedger
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore

FULL = "full"
READ_ONLY = "read-only"


class Database(ABC):
    """``store`` is for those who only read, between the actions of the stage."""

    store: Store
    refuses: str | None = None
    """FULL or READ_ONLY: it takes no writes."""
    shared = True
    """Whether all workers have one store, which cannot refuse by itself."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    @abstractmethod
    def opened(self, machine: Machine) -> Store:
        """The database for a process on a machine. What is open when that crashes ends without an effect."""

    def ledgers(self) -> list[HostLedger]:
        """What is stored of every host."""
        return [host for name in self.store.host_names() if (host := self.store.load_host(name)) is not None]

    def cursors_ahead(self) -> list[str]:
        """The cursors that are ahead of their streams."""
        return [
            f"{topic} of {name}/{stream.node}"
            for name in self.store.host_names()
            for stream in self.store.streams(name)
            for topic, cursor in stream.cursors.items()
            if cursor > stream.sequence
        ]

    @abstractmethod
    def refuse(self, why: str | None) -> None:
        """Take no writes; None: take them again."""

    @abstractmethod
    def back_up(self) -> Any:
        """A copy of its present state."""

    @abstractmethod
    def put_back(self, backup: Any, done: Callable[[], object]) -> None:
        """Go back to the state of a copy while workers run, and call ``done``: now, or as soon as no worker writes."""

    @abstractmethod
    def with_new_history(self, backup: Any) -> Any:
        """The copy after ``tracker-worker db new-history``."""

    def replace(self, backup: Any) -> bool:
        """Put a copy into the place of the database as another file. False: the database is no file."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Release what it holds outside of this process's memory."""

    def _begin_history(self, store: Store) -> None:
        begin_history(
            store,
            predecessor=store.histories()[-1].ledger_id,
            reason="a backup was restored",
            now=self.stage.microseconds(),
            new_id=NewIds(self.stage.random.randbytes),
        )


class MemoryDatabase(Database):
    """All workers share one MemoryStore."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.store = self._store = MemoryStore(now=stage.microseconds, random_bytes=stage.random.randbytes)

    def opened(self, machine: Machine) -> Store:
        return self._store

    def close(self) -> None:
        """There is nothing."""

    def refuse(self, why: str | None) -> None:
        self.refuses = why

    def back_up(self) -> Backup:
        return Backup(self._store)

    def put_back(self, backup: Backup, done: Callable[[], object]) -> None:
        backup.restore(self._store)
        done()

    def with_new_history(self, backup: Backup) -> Backup:
        other = MemoryStore(now=self.stage.microseconds, random_bytes=self.stage.random.randbytes)
        backup.restore(other)
        self._begin_history(other)
        return Backup(other)
