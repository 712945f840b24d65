# SPDX-License-Identifier: Apache-2.0
"""What a fault is."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.arena import Arena

Inject = Callable[[Arena, random.Random], None]
"""Causes the fault. Returns when the cause is over; its effect on the worker may last longer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault. ``stores`` names the stores on which it is possible."""

    name: str
    inject: Inject
    weight: int
    stores: tuple[str, ...] = ("sqlite", "postgresql")


def passes(seconds: float) -> None:
    """Let time pass: the duration is part of a fault."""
    threading.Event().wait(seconds)
