# SPDX-License-Identifier: Apache-2.0
"""What can happen between a worker and its store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

from tests.simulation.database import Database
from tests.simulation.machine import Machine
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, LockedHost, LockedStore, Store, Unstorable

_WAIT_SECONDS = 5.0
"""How long a call waits for a store that does not answer."""


class Link:
    """The way from one machine to the store. ``away``: calls fail at once; ``silent``: they fail after a time. ``delay``: what
    each commit takes, at the most. ``doubtful``: the part of the writes whose outcome the worker does not learn; half of them
    did not happen."""

    def __init__(self) -> None:
        self.away = False
        self.silent = False
        self.delay = 0.0
        self.doubtful = 0.0


class Unstorables:
    """The messages that the database cannot keep. ``more``: so many of the next ones are among them."""

    def __init__(self) -> None:
        self.more = 0
        self._ids: set[str] = set()
        self._seen: set[str] = set()

    def check(self, commit: Commit) -> None:
        """Raises Unstorable: one of the messages is in the commit."""
        if not self.more and not self._ids:
            return
        new = [row.unique_id for row in commit.inbox_rows if row.unique_id not in self._seen]
        self._seen.update(new)
        self._ids.update(new[: self.more])
        self.more -= min(self.more, len(new))
        for row in commit.inbox_rows:
            if row.unique_id in self._ids:
                raise Unstorable(f"the store cannot keep the answer to message {row.unique_id}")

    def kept(self, commit: Commit) -> None:
        """What was stored once can be stored."""
        self._seen.update(row.unique_id for row in commit.inbox_rows)


def linked(
    database: Database,
    machine: Machine,
    link: Link,
    unstorable: Unstorables,
    committed: Callable[[Commit], None],
    unheard: Callable[[], None] = lambda: None,
) -> Store:
    """The store as a worker on the machine sees it. ``committed`` gets each commit that the store has taken; ``unheard`` is
    called when the worker does not learn of that."""
    return _Linked(database, machine, link, unstorable, committed, unheard)


class _Linked(Store):
    def __init__(
        self,
        database: Database,
        machine: Machine,
        link: Link,
        unstorable: Unstorables,
        committed: Callable[[Commit], None],
        unheard: Callable[[], None],
    ) -> None:
        self._committed = committed
        self._unheard = unheard
        self._unstorable = unstorable
        self._store = database.opened(machine)
        self._database = database
        self._machine = machine
        self._link = link

    def stop(self) -> None:
        self._store.stop()

    def _check(self) -> None:
        if self._link.silent:
            self._machine.sleep(_WAIT_SECONDS * self._machine.stage.random.random())
        if self._link.silent or self._link.away:
            raise StoreUnavailable()

    def _in_doubt(self) -> bool:
        link = self._link
        return link.doubtful > 0 and self._machine.stage.random.random() < link.doubtful

    def commit(self, commit: Commit) -> None:
        link, machine = self._link, self._machine
        self._check()
        if link.delay:
            machine.sleep(link.delay * machine.stage.random.random())
            self._check()
        self._write(self._store.commit, commit)
        if link.delay:
            machine.sleep(link.delay * machine.stage.random.random())

    def _write(self, write: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if self._database.refuses is not None and self._database.shared:
            raise StoreUnavailable(reason=self._database.refuses)
        in_doubt = self._in_doubt()
        if in_doubt and self._machine.stage.random.random() < 0.5:
            raise StoreUnavailable()
        commit = arguments[0] if arguments and isinstance(arguments[0], Commit) else None
        if commit is not None:
            self._machine.reach("before commit")
            self._unstorable.check(commit)
        done = write(*arguments, **options)
        if commit is not None:
            self._unstorable.kept(commit)
            self._committed(commit)
            self._machine.reach("after commit")
        if in_doubt:
            self._unheard()
            raise StoreUnavailable()
        return done

    @contextmanager
    def locked(self, host_id: int) -> Iterator[LockedHost]:
        self._check()
        with self._store.locked(host_id) as locked:
            yield _LinkedHost(locked, self._write)

    @contextmanager
    def all_locked(self) -> Iterator[LockedStore]:
        self._check()
        with self._store.all_locked() as locked:
            yield _LinkedStore(locked, self._write)


class _LinkedHost(LockedHost):
    def __init__(self, locked: LockedHost, write: Callable[..., Any]) -> None:
        self.ledger = locked.ledger
        self._locked = locked
        self._write = write

    def answered(self, unique_ids: Collection[str]) -> dict[str, bytes]:
        return self._locked.answered(unique_ids)

    def commit(self, commit: Commit) -> None:
        self._write(self._locked.commit, commit)


class _LinkedStore(LockedStore):
    def __init__(self, locked: LockedStore, write: Callable[..., Any]) -> None:
        self.hosts = locked.hosts
        self._locked = locked
        self._write = write

    def commit(self, commit: Commit) -> None:
        self._write(self._locked.commit, commit)


def _reading(name: str) -> Callable[..., Any]:
    def read(self: _Linked, *arguments: Any, **options: Any) -> Any:
        self._check()
        return getattr(self._store, name)(*arguments, **options)

    return read


def _writing(name: str) -> Callable[..., Any]:
    def write(self: _Linked, *arguments: Any, **options: Any) -> Any:
        self._check()
        self._machine.reach(f"before {name}")
        written = self._write(getattr(self._store, name), *arguments, **options)
        self._machine.reach(f"after {name}")
        return written

    return write


_WRITES = frozenset(
    {
        "count_attempt",
        "create_node",
        "drop_dead_letters",
        "forget_host",
        "keep_dead_letters",
        "mark_refused",
        "open_cursors",
        "probe",
        "prune",
        "register_host",
        "release_lease",
        "renew_token",
        "stream_id",
        "take_lease",
    }
)
for _name in Store.__abstractmethods__ - {"commit", "locked", "all_locked", "stop"}:
    setattr(_Linked, _name, (_writing if _name in _WRITES else _reading)(_name))
_Linked.__abstractmethods__ = frozenset()
