# SPDX-License-Identifier: Apache-2.0
"""Requests that come when the engine has nothing to do are decided by the thread that has received them.

To wake the engine's thread, and to give the interpreter to it, takes a call that comes alone as long as its decision. While the
engine works, or where many requests have come, the engine's thread decides them: the receiving thread then reads what comes
next while the store writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tracker_worker import threads
from tracker_worker.domain.queries import StoredQuery
from tracker_worker.service.loop.arrivals import Arrivals
from tracker_worker.service.loop.engine import Engine
from tracker_worker.service.requests.methods import Audit
from tracker_worker.service.requests.pending import PendingRequest

LONGEST_WAIT_SECONDS = 7.5
"""A store that is silent is given up by then; to connect again, or a write of another thread, may add to it."""
# After a pass that took so long, the engine's thread decides everything for so long.
_SLOW_SECONDS = 1.0
_REST_SECONDS = 30.0
# More requests are worth a thread of their own.
_MOST = 4


class Inline:
    """Any thread may call ``receive``."""

    def __init__(
        self,
        engine: Engine,
        arrivals: Arrivals,
        thread: threads.StepThread,
        *,
        hold_seconds: float,
        monotonic: Callable[[], float],
    ) -> None:
        """``thread`` is the engine's. ``hold_seconds``: how long the thread that receives may be kept."""
        self._engine = engine
        self._arrivals = arrivals
        self._thread = thread
        self._monotonic = monotonic
        self._may_hold = hold_seconds >= LONGEST_WAIT_SECONDS
        self._rests_until = 0.0

    def receive(self, requests: Sequence[PendingRequest]) -> None:
        """Decide the requests after everything that was submitted before: here, or soon on the engine's thread."""
        if (
            not self._may_hold
            or len(requests) > _MOST
            or not all(map(_is_quick, requests))
            or not self._thread.instead(lambda: self._decide(requests))
        ):
            self._arrivals.submit(requests)

    def _decide(self, requests: Sequence[PendingRequest]) -> float | None:
        now = self._monotonic()
        if now < self._rests_until or not self._engine.is_idle(requests, now):
            self._arrivals.submit(requests)
            return None
        due = self._engine.decide(requests, now)
        ended = self._monotonic()
        if ended > now + _SLOW_SECONDS:
            self._rests_until = ended + _REST_SECONDS
        return due


def _is_quick(request: PendingRequest) -> bool:
    """Whether the request is about one host at most, and its answer is not read from the store."""
    operation = request.operation
    return operation is None or (len(operation.hosts) < 2 and not isinstance(operation.action, Audit | StoredQuery))
