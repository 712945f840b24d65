# SPDX-License-Identifier: Apache-2.0
"""Which time of a node is closed: everything that it was charged there has been told, and is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from tracker_worker.billing.reading import Record
from tracker_worker.billing.times import FIRST, LAST

Period = tuple[int, int]


@dataclass(slots=True)
class _Told:
    """What the exists notifications of one period add up to so far."""

    exists: int = 0
    seconds: int = 0
    sums: Counter[str] = field(default_factory=lambda: Counter[str]())


class Proof:
    """Takes what the events of a node say of its periods, in the order of their numbers.

    A period is closed by ``tracker.period.closed`` if the exists notifications before it are as many as it says, and have its
    sums. Periods follow one another without a hole for as long as a node exists; so a hole between two of them, with no number
    missing in between, is a time without a node.
    """

    def __init__(self) -> None:
        self.covered: list[Period] = []
        # Where the last period ended, if no number has been missing since.
        self._last: int | None = None
        self._retired: int | None = None
        self._told: dict[Period, _Told] = {}
        # Nothing proves what was before that time.
        self._void = FIRST

    def exists(self, record: Record) -> None:
        begin, end = record["period"]
        told = self._told.setdefault((begin, end), _Told())
        told.exists += 1
        told.seconds += record["seconds"]
        told.sums.update(record["sums"])

    def closed(self, record: Record, *, complete: bool) -> None:
        """``complete``: no number before it is missing."""
        begin, end = record["period"]
        told = self._told.pop((begin, end), _Told())
        self._told = {period: each for period, each in self._told.items() if period[1] > end}
        counted = told.exists, told.seconds, +told.sums, -told.sums
        sums: Counter[str] = Counter(record["sums"])
        if complete and counted == (record["exists"], record["seconds"], +sums, -sums):
            self._cover(begin if self._last is None else min(begin, self._last), end)
            self._last = end
        else:
            self._last = None

    def broken(self) -> None:
        """A number before the next event is not known."""
        self._last = None

    def void(self, before: int) -> None:
        """What was said may never have happened: nothing of what was before that time is closed, whatever is said of it."""
        self._void = max(before, self._void)
        self.covered = [(max(begin, self._void), end) for begin, end in self.covered if end > self._void]
        self._last = None
        self._told = {}

    def born(self, at: int) -> None:
        """The node did not exist before that time."""
        if at > FIRST:
            self._cover(FIRST, at)
        self._last = at

    def state(self, state: str, at: int) -> None:
        """A retired node's last period is that of its retirement, until it is in service again."""
        if state != "retired":
            if self._retired is not None and self.closed_from(self._retired) is not None:
                self._cover(self._retired, at)
            self._retired = None
        elif self._retired is None:
            self._retired = at

    def ended(self, at: int, charged_until: int) -> None:
        """The node is no more from ``at`` on, and was charged nothing after ``charged_until``."""
        closed = self.covered[-1][1] if self.covered else at
        self._cover(max(closed, charged_until), LAST)

    def closed_from(self, begin: int) -> int | None:
        """Up to when everything from ``begin`` on is closed; None: not even that time is."""
        return next((last for first, last in self.covered if first <= begin <= last), None)

    def is_over(self, end: int) -> bool:
        """Whether no period follows the one that ends there."""
        return self._retired is not None and self._retired <= end

    def _cover(self, begin: int, end: int) -> None:
        begin = max(begin, self._void)
        if begin >= end:
            return
        joined = [(begin, end), *(each for each in self.covered if begin <= each[1] and each[0] <= end)]
        apart = [each for each in self.covered if each not in joined]
        self.covered = sorted([*apart, (min(each[0] for each in joined), max(each[1] for each in joined))])

    def dump(self) -> Record:
        """Everything, as JSON values."""
        told = [[*period, each.exists, each.seconds, dict(each.sums)] for period, each in self._told.items()]
        return {
            "covered": [list(each) for each in self.covered],
            "last": self._last,
            "retired": self._retired,
            "told": told,
            "void": self._void,
        }


def load(dumped: Record) -> Proof:
    """What ``Proof.dump`` has returned."""
    proof = Proof()
    proof.covered = [(begin, end) for begin, end in dumped["covered"]]
    proof._last, proof._retired, proof._void = dumped["last"], dumped["retired"], dumped.get("void", FIRST)
    proof._told = {
        (begin, end): _Told(exists, seconds, Counter(sums)) for begin, end, exists, seconds, sums in dumped["told"]
    }
    return proof
