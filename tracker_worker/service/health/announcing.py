# SPDX-License-Identifier: Apache-2.0
"""Logs what nobody else logs: that nothing arrives, that the broker is silent, that the engine stands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from tracker_worker.service.health.problems import Problem

LOG = logging.getLogger(__name__)


class Announcer:
    """Belongs to the thread that looks at the health."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """``monotonic`` gives seconds."""
        self._monotonic = monotonic
        self._since: dict[str, float] = {}  # by code

    def note(self, problems: Iterable[Problem]) -> None:
        """These are all problems at this moment: one line when one begins, and one when it is over."""
        now, found = self._monotonic(), {problem.code: problem for problem in problems if not problem.logged}
        for code, problem in found.items():
            if code not in self._since:
                self._since[code] = now
                LOG.warning("not ready (%s): %s", code, problem.message)
        for code in self._since.keys() - found.keys():
            LOG.info("the problem %s is over after %.1f s", code, now - self._since.pop(code))
