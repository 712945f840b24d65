# SPDX-License-Identifier: Apache-2.0
"""Waits for a condition instead of a fixed time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")

# The deadline is generous: only a failure uses it up, and test machines are busy.
SECONDS = 30.0
_POLL_SECONDS = 0.02


def wait_until(condition: Callable[[], _Value], what: str | Callable[[], str], *, seconds: float = SECONDS) -> _Value:
    """Return the first true value of ``condition``.

    Raises AssertionError: no value was true within ``seconds``; the message holds ``what``.
    """
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what if isinstance(what, str) else what()}")
        pause.wait(_POLL_SECONDS)
    return value
