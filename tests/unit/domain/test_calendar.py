# SPDX-License-Identifier: Apache-2.0
"""Tests of the boundaries of periods."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tracker_worker.domain.calendar import Calendar


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("option", "time", "last", "following"),
    [
        ("hour", "2026-02-28T23:59:59", "2026-02-28T23:00:00", "2026-03-01T00:00:00"),
        ("hour", "2026-02-28T23:00:00", "2026-02-28T23:00:00", "2026-03-01T00:00:00"),
        ("hour@30", "2026-01-01T00:10:00", "2025-12-31T23:30:00", "2026-01-01T00:30:00"),
        ("day", "2024-02-29T12:00:00", "2024-02-29T00:00:00", "2024-03-01T00:00:00"),
        ("day@6", "2026-03-01T05:59:59", "2026-02-28T06:00:00", "2026-03-01T06:00:00"),
        ("month", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("month@31", "2026-02-27T00:00:00", "2026-01-31T00:00:00", "2026-02-28T00:00:00"),
        ("month@31", "2026-02-28T00:00:00", "2026-02-28T00:00:00", "2026-03-31T00:00:00"),
        ("month@30", "2024-03-01T00:00:00", "2024-02-29T00:00:00", "2024-03-30T00:00:00"),
        ("month@15", "2026-01-14T23:59:59", "2025-12-15T00:00:00", "2026-01-15T00:00:00"),
        ("year", "2026-07-01T00:00:00", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
        ("year@7", "2026-06-30T23:59:59", "2025-07-01T00:00:00", "2026-07-01T00:00:00"),
        ("900s", "2026-01-01T00:14:59", "2026-01-01T00:00:00", "2026-01-01T00:15:00"),
        ("1s", "2026-01-01T00:14:59", "2026-01-01T00:14:59", "2026-01-01T00:15:00"),
    ],
)
def test_boundaries(option: str, time: str, last: str, following: str) -> None:
    calendar = Calendar.parse(option)
    assert (calendar.last(at(time)), calendar.next(at(time))) == (at(last), at(following))


@pytest.mark.parametrize(
    "option", ["hour", "hour@59", "day@23", "month", "month@29", "month@31", "year@2", "86400s", "7200s"]
)
def test_periods_follow_one_another(option: str) -> None:
    calendar = Calendar.parse(option)
    boundary = calendar.last(at("2023-11-30T12:34:56"))
    for _ in range(200):
        following = calendar.next(boundary)
        assert following > boundary
        assert calendar.last(boundary) == calendar.last(following - 1) == boundary
        assert calendar.next(following - 1) == following
        boundary = following


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("week", "is not hour"),
        ("", "is not hour"),
        ("hour@", "is not hour"),
        ("hour@60", "from 0 to 59, not 60"),
        ("day@24", "from 0 to 23, not 24"),
        ("month@0", "from 1 to 31, not 0"),
        ("month@32", "from 1 to 31, not 32"),
        ("year@13", "from 1 to 12, not 13"),
        ("hour@-1", "is not hour"),
        ("7s", "do not divide a day"),
        ("0s", "do not divide a day"),
        ("172800s", "is not hour"),
        ("86401s", "do not divide a day"),
        ("٣s", "is not hour"),
    ],
)
def test_what_is_no_period(option: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Calendar.parse(option)
