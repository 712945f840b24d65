# SPDX-License-Identifier: Apache-2.0
"""Waiting for what must become true, instead of for time to pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")

# Generous: it is only ever used up by a failure, and machines that test are busy.
SECONDS = 30.0
_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], _Value], what: str | Callable[[], str], *, seconds: float = SECONDS) -> _Value:
    """The first value of ``condition`` that is true. Raises AssertionError with ``what`` when there is none in time."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        pause.wait(_POLL_SECONDS)
    return value
