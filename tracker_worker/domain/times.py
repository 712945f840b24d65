# SPDX-License-Identifier: Apache-2.0
"""Times: integers, microseconds since 1970-01-01T00:00:00Z, and their text."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

SECOND = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=256)  # what is decided together has the same times
def iso(at: int) -> str:
    """ISO 8601, UTC, 'Z', always with microseconds."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
