# SPDX-License-Identifier: Apache-2.0
"""How far the periods of a node are closed. A period that is closed was told to billing as a whole."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.values import SECOND


class Periods(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Times are in microseconds, and whole seconds except ``learned_at``.

    ``until``: everything before it is closed, and the next period begins there; before the first one is closed, it is when the
    node had its first event. ``first``: when the first period began; 0: none has begun to be closed. ``ending``: when the
    period ends that is being closed; 0: none is. Of that period, the instances up to the uuid ``after`` are told, in ``exists``
    notifications, the first of which has the number ``first_sequence`` and the last one ``last_sequence``; ``seconds`` and
    ``resource_seconds`` are their sums.

    ``learned_at``: when something was learned last of a period that was closed, or charged to a node that had retired; the
    period in which that is tells it.
    ``kept_from``: segments that ended before it are no longer kept.
    """

    until: int = 0
    first: int = 0
    ending: int = 0
    after: str = ""
    exists: int = 0
    first_sequence: int = 0
    last_sequence: int = 0
    seconds: int = 0
    resource_seconds: Mapping[str, int] = msgspec.field(default_factory=dict)
    learned_at: int = 0
    kept_from: int = 0

    @property
    def closed(self) -> int:
        """What is learned of a time before this is an adjustment; 0: nothing is."""
        return max(self.until, self.ending) if self.first else 0

    def following(self, calendar: Calendar) -> tuple[int, int]:
        """The beginning and the ending of the period that is not closed yet. One begins where the one before has ended, and the
        first one at the boundary before the node's first event."""
        until = self.until // SECOND
        beginning = until if self.first else calendar.last(until)
        return beginning * SECOND, calendar.next(beginning) * SECOND
