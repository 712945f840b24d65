# SPDX-License-Identifier: Apache-2.0
"""Pauses between attempts that fail."""

from __future__ import annotations

_FIRST_SECONDS = 0.2
_LONGEST_SECONDS = 2.0


class Pause:
    """When the store may be asked again after errors in a row, in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self.until = 0.0
        self.succeeded()

    def succeeded(self) -> None:
        self._delay = _FIRST_SECONDS

    def failed(self, now: float) -> None:
        self._delay = min(self._delay * 2, _LONGEST_SECONDS)
        self.until = now + self._delay
