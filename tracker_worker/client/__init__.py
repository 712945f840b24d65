# SPDX-License-Identifier: Apache-2.0
"""Clients for schedulers: ``TrackerAPI`` on a stock oslo.messaging client, and ``TrackerClient``, the same pipelined.

Both are imported when they are first used, so that a program pays only for the one that it uses.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracker_worker.client.api import TrackerAPI
    from tracker_worker.client.pipelined import TrackerClient

__all__ = ["TrackerAPI", "TrackerClient"]

_MODULES = {"TrackerAPI": "api", "TrackerClient": "pipelined"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
