# SPDX-License-Identifier: Apache-2.0
"""What is wrong in the world, and since when nothing is: some promises hold only then."""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import inf

from tests.simulation.stage import Stage

AWAY = "store"
"""The kind of a store that is away and says so at once."""
SILENT = "silent store"
DRIVERS = "drivers"
"""The kind of a driver that hangs or fails."""
_SAME = {"driver hangs": DRIVERS, "driver fails": DRIVERS}
"""Faults that are of another kind than their name."""
HINDERS_NOTES = (
    AWAY,
    SILENT,
    "slow commits",
    "commits in doubt",
    "no writes",
    "unstorable",
    "store set back",
    "pause",
    "hang",
)
"""What keeps a worker from storing what it has noticed."""
_AFTERMATH_SECONDS = 35.0
"""A lost connection is noticed, a lease is taken over, and what has waited is done within this time."""
_START_SECONDS = 15.0
"""After the first start everybody knows within this time what he is there for."""


class Troubles:
    """Each trouble has a kind: the name of a fault, or AWAY. ``stepped``: whether a clock was stepped."""

    def __init__(self, stage: Stage, well: Callable[[], bool]) -> None:
        """``well``: whether everybody is well at this moment, as far as can be seen."""
        self._stage = stage
        self._well = well
        self._last: dict[str, float] = {"start": stage.now + _START_SECONDS - _AFTERMATH_SECONDS}
        self._present: dict[str, int] = {}
        self.stepped = False

    def happened(self, kind: str) -> None:
        """Something has gone wrong, or has ended, at this moment."""
        self._last[_SAME.get(kind, kind)] = self._stage.now

    def begun(self, kind: str) -> None:
        """Something is wrong from now on, until ``ended`` is called once."""
        self.happened(kind)
        self._present[kind] = self._present.get(kind, 0) + 1

    def ended(self, kind: str) -> None:
        self.happened(kind)
        self._present[kind] -= 1

    def none(self, since: float) -> bool:
        """Whether nothing has been wrong since then, and long enough before."""
        return self._none(since, lambda kind: True)

    def only(self, kind: str, since: float) -> bool:
        """Whether ``kind`` is a trouble at this moment, or was since then, and nothing else was for long enough before."""
        there = self._present.get(kind, 0) > 0 or self._last.get(kind, -inf) >= since
        return there and self._none(since, lambda other: other != kind)

    def none_of(self, kinds: Collection[str], since: float) -> bool:
        """Whether none of these kinds has been a trouble since then, and long enough before."""
        return not any(self._present.get(kind, 0) or self._last.get(kind, -inf) >= since for kind in kinds)

    def none_but(self, kinds: Collection[str], since: float) -> bool:
        """Whether nothing but these kinds is a trouble at this moment, or was since then."""
        others = [kind for kind, number in self._present.items() if number] + [
            kind for kind, at in self._last.items() if at >= since
        ]
        return all(kind in kinds for kind in others)

    def _none(self, since: float, counts: Callable[[str], bool]) -> bool:
        return (
            not any(number for kind, number in self._present.items() if counts(kind))
            and all(at < since - _AFTERMATH_SECONDS for kind, at in self._last.items() if counts(kind))
            and self._well()
        )
