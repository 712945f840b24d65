# SPDX-License-Identifier: Apache-2.0
"""Whether the store is unavailable, as far as the engine knows."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tracker_worker import threads
from tracker_worker.counters import Counters
from tracker_worker.errors import StoreUnavailable

LOG = logging.getLogger(__name__)


class Outage:
    """``error``: the error of the last access, if the store was unavailable to it; ``seconds``: how long that access took, as
    the next one may take as long. ``in_this_pass``: the engine has waited for the store in this pass already.
    ``unproven``: the last error, until something was written since; any thread may read it."""

    def __init__(
        self,
        counters: Counters,
        doubt_history: Callable[[], None],
        *,
        place: str = "",
        monotonic: Callable[[], float] = threads.monotonic,
    ) -> None:
        """``doubt_history`` is called whenever the store was unavailable: it may come back at an earlier state. ``place``:
        where the store is and which option says so, for the log. ``monotonic`` gives seconds."""
        self._counters = counters
        self._doubt_history = doubt_history
        self.error: StoreUnavailable | None = None
        self.seconds = 0.0
        self.in_this_pass = False
        self.unproven: StoreUnavailable | None = None
        self._place = place
        self._monotonic = monotonic
        self._since: float | None = None

    def note(self, error: StoreUnavailable, seconds: float) -> None:
        """The store was unavailable to an access, which failed after so many seconds."""
        self._counters.add("outages")
        self._doubt_history()
        self.error, self.seconds, self.in_this_pass = error, seconds, True
        self.unproven = error
        if self._since is None:
            self._since = self._monotonic() - seconds
            LOG.warning("the database is away%s: %s", self._place and f" ({self._place})", error)

    def written(self) -> None:
        """The store has kept something."""
        self.unproven = None
        if self._since is not None:
            LOG.info("the database is there again after %.1f s", self._monotonic() - self._since)
            self._since = None

    def over(self) -> None:
        """The store has answered, or nobody waits for it."""
        self.error, self.seconds = None, 0.0
