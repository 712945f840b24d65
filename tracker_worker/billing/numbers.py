# SPDX-License-Identifier: Apache-2.0
"""The numbers of a stream that are known. They take as much room as there are gaps."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Numbers:
    """A set of positive integers, kept as ranges in their order."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def __contains__(self, number: int) -> bool:
        index = bisect_right(self._firsts, number) - 1
        return index >= 0 and number <= self._lasts[index]

    def has(self, first: int, last: int) -> bool:
        """Whether all numbers from ``first`` to ``last`` are there."""
        index = bisect_right(self._firsts, last) - 1
        return first > last or (index >= 0 and self._firsts[index] <= first and last <= self._lasts[index])

    @property
    def highest(self) -> int:
        """The highest number, or 0."""
        return self._lasts[-1] if self._lasts else 0

    def add(self, number: int) -> bool:
        """Add a number. Return whether it is new."""
        after = bisect_right(self._firsts, number)
        before = after - 1
        if before >= 0 and number <= self._lasts[before]:
            return False
        joins_before = before >= 0 and self._lasts[before] == number - 1
        joins_after = after < len(self._firsts) and self._firsts[after] == number + 1
        if joins_before and joins_after:
            self._lasts[before] = self._lasts.pop(after)
            del self._firsts[after]
        elif joins_before:
            self._lasts[before] = number
        elif joins_after:
            self._firsts[after] = number
        else:
            self._firsts.insert(after, number)
            self._lasts.insert(after, number)
        return True

    def upto(self, last: int | None = None) -> Iterator[int]:
        """The numbers in their order, up to ``last`` or all."""
        for first, end in zip(self._firsts, self._lasts, strict=True):
            if last is not None and first > last:
                return
            yield from range(first, (end if last is None else min(end, last)) + 1)

    def gaps(self, after: int, last: int) -> list[tuple[int, int]]:
        """The ranges (first, last) of numbers above ``after`` and up to ``last`` that are not there."""
        found = []
        expected = after + 1
        for first, end in zip(self._firsts, self._lasts, strict=True):
            if first > last:
                break
            if first > expected:
                found.append((expected, first - 1))
            expected = max(expected, end + 1)
        if expected <= last:
            found.append((expected, last))
        return found

    def above(self, number: int) -> int:
        """How many numbers are above this one."""
        ranges = zip(self._firsts, self._lasts, strict=True)
        return sum(last - max(first - 1, number) for first, last in ranges if last > number)

    def remove_upto(self, last: int) -> None:
        """Remove the numbers up to ``last``."""
        below = bisect_left(self._lasts, last + 1)
        del self._firsts[:below], self._lasts[:below]
        if self._firsts:
            self._firsts[0] = max(self._firsts[0], last + 1)
