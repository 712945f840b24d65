# SPDX-License-Identifier: Apache-2.0
"""Times of the books: whole seconds since the epoch, UTC. A time is floored before it is subtracted from another one, so that
the parts of an interval add up to the interval."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
FIRST = 0
"""The first time that the books know."""
LAST = (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC) - _EPOCH) // _SECOND
"""The last one."""


def seconds(value: str | datetime) -> int:
    """The time as whole seconds. A text is ISO 8601, and UTC where it has no offset. Raises ValueError: it is no time, it is
    before 1970, or a datetime has no time zone."""
    if isinstance(value, datetime):
        time = value
        if time.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
    elif isinstance(value, str):
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            time = time.replace(tzinfo=UTC)
    else:
        raise ValueError(f"{value!r} is neither a text nor a datetime")
    at = (time - _EPOCH) // _SECOND
    if not FIRST <= at <= LAST:
        raise ValueError(f"{value!r} is not between 1970 and 9999")
    return at


def text(at: int) -> str:
    """The time as ``YYYY-MM-DDTHH:MM:SSZ``."""
    return (_EPOCH + at * _SECOND).strftime("%Y-%m-%dT%H:%M:%SZ")


def interval(begin: str | datetime, end: str | datetime) -> tuple[int, int]:
    """Both times in seconds. Raises ValueError: one is no time, or ``end`` is not after ``begin``."""
    first, last = seconds(begin), seconds(end)
    if first >= last:
        raise ValueError(f"end {text(last)} is not after begin {text(first)}")
    return first, last
