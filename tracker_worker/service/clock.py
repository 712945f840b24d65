# SPDX-License-Identifier: Apache-2.0
"""The clock of a worker: the time of its database, carried on by the monotonic clock of its machine.

All workers of a database have the same time, whatever the clocks of their machines say. What the database says is taken over
only by ``sync``. A step of its clock therefore comes to light before anything can be decided by the new time, and what must
not happen because of a jump asks ``jumped_within``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf

from tracker_worker import threads
from tracker_worker.domain.values import SECOND

LOG = logging.getLogger(__name__)

STEP_SECONDS = 2
"""A larger difference between the clock of the database and the monotonic clock is a step."""
# An answer that took longer says too little about the moment that it stands for.
_LONGEST_READ_SECONDS = 1.0


class Clock:
    """A call returns microseconds since the epoch; any thread may make it. ``sync`` belongs to the engine's thread, once that
    thread is started. The first use of either reads the database, and raises StoreUnavailable if that fails."""

    def __init__(self, read: Callable[[], int], *, monotonic: Callable[[], float] = threads.monotonic) -> None:
        """``read`` returns the time of the database in microseconds, and may raise StoreUnavailable. ``monotonic`` gives
        seconds."""
        self._read = read
        self.monotonic = monotonic
        self._known: tuple[int, float] | None = None  # the time of the database, and the monotonic clock then
        self._synced_at = -inf
        self._first_at = -inf
        self._jumped_at = -inf
        self._stepped_at = -inf

    def __call__(self) -> int:
        if self._known is None:
            self.sync()
        return self._at(self.monotonic())

    def _at(self, now: float) -> int:
        assert self._known is not None
        time, then = self._known
        return time + int((now - then) * SECOND)

    def sync(self, *, older_than_seconds: float = 0.0) -> None:
        """Take over the time of the database, unless that was done within so many seconds, and log a step of its clock. Raises
        StoreUnavailable."""
        before = self.monotonic()
        if before - self._synced_at < older_than_seconds:
            return
        time = self._read()
        after = self.monotonic()
        self._synced_at = after
        if self._known is None:
            self._known = time, after
            self._first_at = after
            return
        # The database has answered between the two moments.
        least, most = time - self._at(after), time - self._at(before)
        step = least if least > STEP_SECONDS * SECOND else most if most < -STEP_SECONDS * SECOND else 0
        if step:
            self._stepped(step, after)
        if step or after - before <= _LONGEST_READ_SECONDS:
            self._known = time, after

    def _stepped(self, step: int, now: float) -> None:
        self._stepped_at = now
        if step > 0:
            self._jumped_at = now
        LOG.warning(
            "the clock of the database was stepped by %+.1f s%s",
            step / SECOND,
            ": no claim expires and no row is dropped because of that" if step > 0 else "",
        )

    def jumped_within(self, seconds: float) -> bool:
        """Whether the clock was stepped forward within so many seconds, on the monotonic clock."""
        return self.monotonic() - self._jumped_at < seconds

    def unsure_within(self, seconds: float) -> bool:
        """The same, and also whether the database was first asked within so many seconds: a step before that is not known."""
        return self.monotonic() - max(self._first_at, self._jumped_at) < seconds

    def stepped_within(self, seconds: float) -> bool:
        """The same, for a step in either direction."""
        return self.monotonic() - self._stepped_at < seconds
