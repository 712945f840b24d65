# SPDX-License-Identifier: Apache-2.0
"""What the engine counts about requests, by label, and how long they take. The figures have no effect; metrics show them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

STAGES = ("queued", "decided", "committed", "answered")
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
MOST_LABELS = 100
OTHERS = "(others)"
SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Histogram:
    """Counts values by the first of ``bounds`` that is not smaller; the last count is of those above all bounds. One thread
    observes; any thread may read."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, number: int = 1) -> None:
        """Count ``number`` values that are the same."""
        self.counts[bisect_left(self.bounds, value)] += number
        self.total += value * number

    def buckets(self) -> list[tuple[str, float]]:
        """Bound -> number of values up to it, as Prometheus has them; the last bound is +Inf."""
        found, total = [], 0
        for bound, count in zip((*map(float, self.bounds), float("inf")), list(self.counts), strict=True):
            total += count
            found.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        return found


class Tally:
    """Belongs to the engine's thread; any thread may read.

    ``requests``: (method, outcome) -> number, where the outcome is ``ok`` or the code of the error; ``refusals``: resource
    class -> how often it was short; ``dead_letters``: code -> number; ``audits``: outcome -> number; ``stages``: seconds from
    the receipt of a request until it was taken by an attempt, decided, committed, and its answer was on its way;
    ``batch_size``: requests and chores that were committed together. ``copies`` counts the requests that were answered from the
    inbox, ``expired`` the claims that expired, ``drift`` the differences that audits found."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str], int] = {}
        self.refusals: dict[str, int] = {}
        self.dead_letters: dict[str, int] = {}
        self.audits: dict[str, int] = {}
        self.stages = {stage: Histogram(SECONDS) for stage in STAGES}
        self.batch_size = Histogram(SIZES)
        self.copies = 0
        self.expired = 0
        self.drift = 0

    def request(self, method: str, outcome: str) -> None:
        key = method, outcome
        self.requests[key] = self.requests.get(key, 0) + 1

    def add(self, counts: dict[str, int], label: str) -> None:
        """Count one more under ``label`` in one of this tally's dictionaries. Labels may come from outside: of too many, the
        later ones are counted together."""
        if label not in counts and len(counts) >= MOST_LABELS:
            label = OTHERS
        counts[label] = counts.get(label, 0) + 1
