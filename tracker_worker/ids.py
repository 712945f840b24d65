# SPDX-License-Identifier: Apache-2.0
"""Ids: time-ordered ones that are made here, and the one spelling of those that come from outside."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import lru_cache

from tracker_worker import threads

# Random numbers of 64 bits are read for many ids at a time, because each read is a call of the system.
_READ_AHEAD = struct.Struct("512Q")
# The 32 digits of a UUID with hyphens, or without, in braces, or behind "urn:uuid:" (RFC 9562, section 4).
_UUID = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?"
    r"([0-9a-f]{8})(?P<hyphen>-?)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{12})"
    r"(?(brace)\})",
    re.ASCII | re.IGNORECASE,
)


def uuid7(at: int, random: int) -> str:
    """A UUID of version 7 as text: the time ``at`` (microseconds since the epoch) and the lower 62 bits of ``random``.

    48 bits are milliseconds; the next 12 are the fraction of the millisecond, so that ids sort as their times do (RFC 9562,
    sections 5.7 and 6.2, method 3).
    """
    return f"{_head(at)}{0x8000 | random >> 48 & 0x3FFF:04x}-{random & 0xFFFFFFFFFFFF:012x}"


@lru_cache(maxsize=256)  # ids that are made together have the same time
def _head(at: int) -> str:
    milliseconds, microseconds = divmod(at, 1000)
    digits = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
    return f"{digits[:8]}-{digits[8:]}-7{microseconds * 4096 // 1000:03x}-"


class NewIds:
    """Makes a new id for each call with a time in microseconds. Belongs to one thread at a time."""

    def __init__(self, random_bytes: Callable[[int], bytes] = threads.random_bytes) -> None:
        self._random_bytes = random_bytes
        self._ahead: list[int] = []

    def __call__(self, at: int) -> str:
        if not self._ahead:
            self._ahead.extend(_READ_AHEAD.unpack(self._random_bytes(_READ_AHEAD.size)))
        return uuid7(at, self._ahead.pop())


def canonical(name: str) -> str:
    """``name`` in lower case with hyphens if it is a UUID in any spelling; otherwise as it is."""
    if len(name) < 32:
        return name
    match = _UUID.fullmatch(name)
    return name if match is None else "-".join(match.group(2, 4, 5, 6, 7)).lower()
