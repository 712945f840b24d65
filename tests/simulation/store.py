# SPDX-License-Identifier: Apache-2.0
"""What can happen between a worker and its store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.simulation.machine import Machine
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit, Store, Unstorable

_WAIT_SECONDS = 5.0
"""How long a call waits for a store that does not answer."""


class Link:
    """The way from one machine to the store. ``away``: calls fail at once; ``silent``: they fail after a time. ``delay``: what
    each write takes, at the most. ``doubtful``: the part of the commits whose outcome the worker does not learn."""

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
        new = [row.unique_id for row in commit.inbox_rows if row.unique_id not in self._seen]
        self._seen.update(new)  # what was tried before may be stored
        self._ids.update(new[: self.more])
        self.more -= min(self.more, len(new))
        for row in commit.inbox_rows:
            if row.unique_id in self._ids:
                raise Unstorable(f"the store cannot keep the answer to message {row.unique_id}")


def linked(
    store: Store, machine: Machine, link: Link, unstorable: Unstorables, committed: Callable[[Commit], None]
) -> Store:
    """The store as a worker on the machine sees it. ``committed`` gets each commit that the store has taken."""
    return _Linked(store, machine, link, unstorable, committed)


class _Linked(Store):
    def __init__(
        self,
        store: Store,
        machine: Machine,
        link: Link,
        unstorable: Unstorables,
        committed: Callable[[Commit], None],
    ) -> None:
        self._committed = committed
        self._unstorable = unstorable
        self._store = store
        self._machine = machine
        self._link = link

    def _check(self) -> None:
        if self._link.silent:
            self._machine.sleep(_WAIT_SECONDS * self._machine.stage.random.random())
        if self._link.silent or self._link.away:
            raise StoreUnavailable()

    def _through(self, name: str, *arguments: Any, **options: Any) -> Any:
        self._check()
        found = getattr(self._store, name)(*arguments, **options)
        if name == "renew_token":
            self._machine.reach("after token")
        return found

    def _write(self, write: Callable[[Commit], None], commit: Commit) -> None:
        link, machine = self._link, self._machine
        self._check()
        if link.delay:
            machine.sleep(link.delay * machine.stage.random.random())
            self._check()
        machine.reach("before commit")
        self._unstorable.check(commit)
        write(commit)
        self._committed(commit)
        machine.reach("after commit")
        if link.delay:
            machine.sleep(link.delay * machine.stage.random.random())
        if link.doubtful and machine.stage.random.random() < link.doubtful:
            raise StoreUnavailable()

    def commit(self, commit: Commit) -> None:
        self._write(self._store.commit, commit)


def _passing(name: str) -> Callable[..., Any]:
    def passed(self: _Linked, *arguments: Any, **options: Any) -> Any:
        return self._through(name, *arguments, **options)

    return passed


def _holding(name: str) -> Callable[..., AbstractContextManager[Any]]:
    @contextmanager
    def held(self: _Linked, *arguments: Any) -> Iterator[Any]:
        self._check()
        with getattr(self._store, name)(*arguments) as locked:
            yield locked

    return held


for _name in Store.__abstractmethods__:
    if _name in ("locked", "all_locked"):
        setattr(_Linked, _name, _holding(_name))
    elif _name == "stop":
        setattr(_Linked, _name, lambda self: None)  # the database outlives the worker
    elif _name != "commit":
        setattr(_Linked, _name, _passing(_name))
_Linked.__abstractmethods__ = frozenset()
