# SPDX-License-Identifier: Apache-2.0
"""The ``_unique_id`` of messages, by which receivers recognise copies."""

from __future__ import annotations

import itertools

from tracker_worker import threads

_series = threads.random_bytes(10).hex()
_numbers = itertools.count(1)


def fresh_id() -> str:
    """An id that no other message has, 32 hexadecimal digits: 80 random bits of this process, and a number."""
    return f"{_series}{next(_numbers):012x}"


def begin_series(series: str) -> None:
    """Make the ids that follow from ``series`` (20 hexadecimal digits), numbered from 1: for runs that are to be repeatable."""
    global _series, _numbers
    _series, _numbers = series, itertools.count(1)
