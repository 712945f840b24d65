# SPDX-License-Identifier: Apache-2.0
"""The resource-claim ledger of compute hosts: the four names that other programs import.

- ``TrackerAPI``: the RPC API as methods, on a stock oslo.messaging client.
- ``TrackerClient``: the same methods with many requests under way at once.
- ``ResourceTracker``: the ledger of one node as a library, without a bus.
- ``errors``: the errors that they raise.

The names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracker_worker import errors
    from tracker_worker.client.api import TrackerAPI
    from tracker_worker.client.pipelined import TrackerClient
    from tracker_worker.library.tracker import ResourceTracker

__all__ = ["ResourceTracker", "TrackerAPI", "TrackerClient", "errors"]

_MODULES = {"ResourceTracker": "library.tracker", "TrackerAPI": "client.api", "TrackerClient": "client.pipelined"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name == "errors":
        return importlib.import_module(f"{__name__}.errors")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
