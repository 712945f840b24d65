# SPDX-License-Identifier: Apache-2.0
"""Times are whole seconds, floored, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tracker_worker.billing import times

NEW_YEAR = 1_767_225_600


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-01",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00.999999+01:00",
        datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
        datetime(2025, 12, 31, 19, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_a_time_is_floored_to_whole_seconds(value: str | datetime) -> None:
    assert times.seconds(value) == NEW_YEAR
    assert times.text(NEW_YEAR) == "2026-01-01T00:00:00Z"


@pytest.mark.parametrize("value", ["", "yesterday", 1_767_225_600, None, "1969-12-31T23:59:59Z", datetime(2026, 1, 1)])  # noqa: DTZ001
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        times.seconds(value)  # type: ignore[arg-type]


def test_the_last_time_that_is_known_can_be_shown() -> None:
    assert times.seconds(times.text(times.LAST)) == times.LAST


def test_an_interval_ends_after_it_begins() -> None:
    assert times.interval("2026-01-01", "2026-01-02") == (NEW_YEAR, NEW_YEAR + 86400)
    with pytest.raises(ValueError, match="end 2026-01-01T00:00:00Z is not after begin 2026-01-01T00:00:00Z"):
        times.interval("2026-01-01", "2026-01-01")
