# SPDX-License-Identifier: Apache-2.0
"""When the periods end for which a project is billed. Times are in whole seconds since the epoch, in UTC.

The option is that of nova's ``instance_usage_audit_period``: a unit and an offset. ``<N>s`` is for tests and demonstrations.
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass
from datetime import UTC, datetime

_OPTION = re.compile(r"(?:(hour|day|month|year)(?:@(\d{1,2}))?|(\d{1,5})s)", re.ASCII)
_DAY = 86400
# unit -> its first offset and its last one: minutes of an hour, hours of a day, days of a month, months of a year.
_OFFSETS = {"hour": (0, 59), "day": (0, 23), "month": (1, 31), "year": (1, 12)}
_SECONDS = {"hour": (3600, 60), "day": (_DAY, 3600)}


@dataclass(frozen=True, slots=True)
class Calendar:
    """``length`` seconds from ``shift`` seconds after the epoch on; or, with ``length`` 0, each month or each year of
    the calendar, from its day or its month ``shift`` on. A day that a month lacks is its last one."""

    unit: str
    length: int
    shift: int

    @classmethod
    def parse(cls, option: str) -> Calendar:
        """Read ``hour|day|month|year[@offset]`` or ``<N>s``. Raises ValueError, whose text says what is wrong."""
        found = _OPTION.fullmatch(option)
        if found is None:
            raise ValueError(f"{option!r} is not hour, day, month or year, with or without @<offset>, nor <N>s")
        unit, offset, seconds = found.groups()
        if unit is None:
            length = int(seconds)
            if not length or _DAY % length:
                raise ValueError(f"{length} s do not divide a day")
            return cls("s", length, 0)
        first, last = _OFFSETS[unit]
        shift = first if offset is None else int(offset)
        if not first <= shift <= last:
            raise ValueError(f"the offset of a {unit} is from {first} to {last}, not {shift}")
        if unit in _SECONDS:
            length, step = _SECONDS[unit]
            return cls(unit, length, shift * step)
        return cls(unit, 0, shift)

    def last(self, at: int) -> int:
        """The last boundary that is not after ``at``."""
        if self.length:
            return (at - self.shift) // self.length * self.length + self.shift
        year, month = _month(at)
        boundary = self._boundary(year, month)
        return boundary if boundary <= at else self._boundary(*self._step(year, month, -1))

    def next(self, at: int) -> int:
        """The first boundary that is after ``at``."""
        last = self.last(at)
        if self.length:
            return last + self.length
        # A clamped day makes months of different lengths, so that the next boundary is that of the next month.
        return self._boundary(*self._step(*_month(last), 1))

    def _boundary(self, year: int, month: int) -> int:
        if self.unit == "year":
            return _seconds(year, self.shift, 1)
        return _seconds(year, month, min(self.shift, calendar.monthrange(year, month)[1]))

    def _step(self, year: int, month: int, by: int) -> tuple[int, int]:
        if self.unit == "year":
            return year + by, month
        number = year * 12 + month - 1 + by
        return number // 12, number % 12 + 1


HOURS = Calendar.parse("hour")


def _month(at: int) -> tuple[int, int]:
    date = datetime.fromtimestamp(at, UTC)
    return date.year, date.month


def _seconds(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())
