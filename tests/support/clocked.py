# SPDX-License-Identifier: Apache-2.0
"""A system whose clock a test sets."""

from __future__ import annotations

from collections.abc import Callable

from tracker_worker import threads
from tracker_worker.bus.amqp.system import System


class _Runtime(threads.Runtime):
    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def monotonic(self) -> float:
        return self._now()


def clocked_system(now: Callable[[], float]) -> System:
    """The real system, but for its monotonic clock."""
    return System(_Runtime(now))
