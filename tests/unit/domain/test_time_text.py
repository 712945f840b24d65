# SPDX-License-Identifier: Apache-2.0
"""Times as text."""

from __future__ import annotations

import pytest

from tests.support.builders import NOW
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (NOW, "2026-01-15T12:00:00.000000Z"),
        (NOW + 2**31 * SECOND, "2094-02-02T15:14:08.000000Z"),
    ],
)
def test_a_time_is_iso_8601_in_utc_with_microseconds(at, text):
    assert iso(at) == text


def test_the_text_sorts_as_the_times_do():
    times = [NOW - 1, NOW, NOW + 1, NOW + SECOND]
    assert sorted(iso(at) for at in times) == [iso(at) for at in times]
