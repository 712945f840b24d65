# SPDX-License-Identifier: Apache-2.0
"""A backup of a store in memory, which a test restores while a worker uses the store."""

from __future__ import annotations

import copy

from tracker_worker.store.memory import MemoryStore

_STATE = ("_rows", "_attempts")


class Backup:
    """Everything that ``store`` holds now."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        with store._lock:
            self._state = copy.deepcopy({name: getattr(store, name) for name in _STATE})

    def restore(self) -> None:
        """Let the store go back to what it held then. The backup can be restored again."""
        with self._store._lock:
            for name, value in copy.deepcopy(self._state).items():
                setattr(self._store, name, value)
