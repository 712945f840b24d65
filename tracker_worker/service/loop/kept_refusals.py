# SPDX-License-Identifier: Apache-2.0
"""Refusals that made no event, on their way into the store.

They are written once a second, all of them with one statement. Nothing depends on them: a store that does not take them ends
nothing and puts nothing off, and a crash may lose those of the last second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from tracker_worker.errors import StoreUnavailable
from tracker_worker.history import Entry
from tracker_worker.ids import NewIds
from tracker_worker.store.base import RefusalRow, Store
from tracker_worker.text import described

LOG = logging.getLogger(__name__)

MOST_WAITING = 200
"""Of more than this in a second, the last ones are kept."""


class KeptRefusals:
    """Belongs to the engine's thread."""

    def __init__(self, store: Store, *, most: Callable[[], int], new_id: NewIds) -> None:
        """``most``: the most refusals that the store keeps; 0: none."""
        self._store = store
        self._most = most
        self._new_id = new_id
        self._waiting: deque[RefusalRow] = deque(maxlen=MOST_WAITING)

    def add(self, entry: Entry) -> None:
        """Keep this refusal with the next ``keep``."""
        self._waiting.append(entry.refusal_row(self._new_id(entry.at)))

    def keep(self) -> bool:
        """Write what waits. Returns whether the store was there: if not, it waits on. What the store cannot keep is dropped,
        with a warning."""
        most = self._most()
        rows = list(self._waiting) if most else []
        if not rows:
            self._waiting.clear()
            return True
        try:
            self._store.keep_refusals(rows, most)
        except StoreUnavailable as error:
            LOG.debug("%d refusals wait for the history: %s", len(rows), error)
            return False
        except Exception as error:  # noqa: BLE001 perhaps because of one of them
            if not self._one_by_one(rows, most, error):
                return False
        self._waiting.clear()
        return True

    def _one_by_one(self, rows: list[RefusalRow], most: int, error: Exception) -> bool:
        """Write each row by itself. Returns whether the store was there for all of them."""
        dropped = 0
        for row in rows:
            try:
                self._store.keep_refusals([row], most)
            except StoreUnavailable:
                return False
            except Exception as failure:  # noqa: BLE001 it is said below
                dropped, error = dropped + 1, failure
        if dropped:
            LOG.warning("%d refusals cannot be kept for the history: %s", dropped, described(error))
        return True
