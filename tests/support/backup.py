# SPDX-License-Identifier: Apache-2.0
"""A backup of a store in memory, which a test restores while a worker uses the store."""

from __future__ import annotations

import pickle

from tracker_worker.store.memory import MemoryStore

_STATE = ("_rows", "_attempts", "_dead_letters", "_refusals")


class Backup:
    """Everything that ``store`` holds now."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        with store._lock:
            self._state = pickle.dumps({name: getattr(store, name) for name in _STATE})

    def restore(self, store: MemoryStore | None = None) -> None:
        """Let the store, or another one, become what the store was then. The backup can be restored again."""
        target = self._store if store is None else store
        with target._lock:
            for name, value in pickle.loads(self._state).items():
                setattr(target, name, value)
