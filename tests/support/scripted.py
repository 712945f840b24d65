# SPDX-License-Identifier: Apache-2.0
"""A clock, a timer and a store that do what a test says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from tests.support.builders import NOW
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Commit, Store
from tracker_worker.store.memory import MemoryStore


class Clock:
    """The time of day in microseconds, and a monotonic clock. Both stand still until ``forward``."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now
        self._ran = 0.0

    def __call__(self) -> int:
        return self.now

    def monotonic(self) -> float:
        """Seconds."""
        return self._ran

    def forward(self, seconds: float) -> None:
        """Time passes."""
        self._ran += seconds
        self.now += int(seconds * SECOND)

    def step(self, seconds: float) -> None:
        """Somebody sets the time of day."""
        self.now += int(seconds * SECOND)


class ScriptedStore(Store):
    """A store in memory that records every call and can fail.

    ``script["commit"]`` holds one entry for each coming commit: an exception to raise or a callable to call before it. Every
    other method has a script of its own.
    """

    def __init__(self, inner: Store | None = None) -> None:
        self.inner = MemoryStore() if inner is None else inner
        self.calls: list[str] = []
        self.commits: list[Committed] = []
        self.script: dict[str, list[Exception | Callable[[], object]]] = defaultdict(list)

    def _through(self, name: str, *arguments: Any, **options: Any) -> Any:
        self.calls.append(name)
        if self.script[name]:
            act = self.script[name].pop(0)
            if isinstance(act, Exception):
                raise act
            act()
        return getattr(self.inner, name)(*arguments, **options)

    def commit(self, commit: Commit) -> None:
        made = Committed.of(commit)
        self._through("commit", commit)
        self.commits.append(made)


def _passing(name: str) -> Callable[..., Any]:
    return lambda self, *arguments, **options: self._through(name, *arguments, **options)


for _name in Store.__abstractmethods__ - {"commit"}:
    setattr(ScriptedStore, _name, _passing(_name))
ScriptedStore.__abstractmethods__ = frozenset()


@dataclass(frozen=True)
class Committed:
    """A summary of one commit."""

    nodes: list[str]
    events: list[str]
    answered: list[str]
    cursors: dict[tuple[int, str], int]

    @classmethod
    def of(cls, commit: Commit) -> Committed:
        return cls(
            nodes=[ledger.name for ledger in commit.ledgers],
            events=[notification.event_type for notification in commit.notifications],
            answered=[message.unique_id for message in commit.inbox_rows],
            cursors=dict(commit.cursors),
        )


class ManualTimer:
    """A timer that a test fires by hand."""

    def __init__(self, interval_seconds: float, action: Callable[[], None], until: float = inf) -> None:
        self.interval_seconds = interval_seconds
        self.fire = action
        self.until = until
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
