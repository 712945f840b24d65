# SPDX-License-Identifier: Apache-2.0
"""Times as integers, microseconds since 1970-01-01T00:00:00Z, and as text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=256)  # commands that are decided together have the same times
def iso(at: int) -> str:
    """The time as ISO 8601 text in UTC with 'Z', always with microseconds."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
