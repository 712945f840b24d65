# SPDX-License-Identifier: Apache-2.0
"""What is due when: for everything that waits for a time and may end before it."""

from __future__ import annotations

import heapq
import itertools
from typing import Generic, TypeVar

Item = TypeVar("Item")

# So many removed entries may stay in the heap, however few others there are. A small heap is not worth the work of sorting it.
_SLACK = 64


class Entry(Generic[Item]):
    """One item of an agenda. ``item`` is None when the entry was removed or taken."""

    __slots__ = ("due", "item")

    def __init__(self, due: float, item: Item) -> None:
        self.due = due
        self.item: Item | None = item


class Agenda(Generic[Item]):
    """Items in the order in which they are due; of two that are due at the same time, the one that was added first comes first.

    A removed item is dropped at once. Its place in the heap follows when there are more removed entries than others, so that
    the heap never holds more than twice the entries that are left, and ``_SLACK``. ``remove`` costs O(1) amortised, ``add`` and
    ``take`` cost O(log n). Not thread-safe: a caller with several threads holds a lock of its own.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Entry[Item]]] = []
        self._numbers = itertools.count()
        self._removed = 0

    def __len__(self) -> int:
        """The number of items that are neither removed nor taken."""
        return len(self._heap) - self._removed

    def add(self, due: float, item: Item) -> Entry[Item]:
        """``item`` is due at ``due``, in seconds on the clock of the caller."""
        entry = Entry(due, item)
        heapq.heappush(self._heap, (due, next(self._numbers), entry))
        return entry

    def remove(self, entry: Entry[Item]) -> None:
        """Drop an entry of this agenda. Harmless when it was removed or taken."""
        if entry.item is None:
            return
        entry.item = None
        self._removed += 1
        if self._removed > _SLACK and self._removed * 2 > len(self._heap):
            self._heap = [place for place in self._heap if place[2].item is not None]
            heapq.heapify(self._heap)
            self._removed = 0

    def next_due(self) -> float | None:
        """When the first item is due; None: there is none."""
        while self._heap and self._heap[0][2].item is None:
            heapq.heappop(self._heap)
            self._removed -= 1
        return self._heap[0][0] if self._heap else None

    def take(self, now: float) -> Item | None:
        """Remove the first item and return it if it is due at ``now``; otherwise None."""
        due = self.next_due()
        if due is None or due > now:
            return None
        entry = heapq.heappop(self._heap)[2]
        item, entry.item = entry.item, None
        return item
