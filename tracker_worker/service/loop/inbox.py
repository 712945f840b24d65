# SPDX-License-Identifier: Apache-2.0
"""Which messages have had their effect, and the answer that each copy of them gets.

Every command leaves a row, also one that changed nothing: a copy of it that comes much later could change something. A
batch that changed nothing is not committed for its rows alone; the rows are written with the next commit of any other
batch. Until then nothing that the batch could see has changed, so that deciding it again after a crash comes out the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tracker_worker.store.base import InboxRow, Store

# Answers kept in memory: more than can be in flight, and more than can be unwritten.
_MOST_RECENT = 4096
_MOST_UNWRITTEN = 1000


class Inbox:
    """Belongs to the engine's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._unwritten: list[InboxRow] = []

    def recall(self, unique_ids: Iterable[str]) -> dict[str, bytes]:
        """unique_id -> recorded answer, of the messages that this worker has answered lately."""
        recent = self._recent
        return {unique_id: recent[unique_id] for unique_id in unique_ids if unique_id in recent}

    def look_up(self, unique_ids: Iterable[str]) -> dict[str, bytes]:
        """unique_id -> recorded answer, of all messages that are known. Raises StoreUnavailable."""
        wanted = list(unique_ids)
        known = self.recall(wanted)
        unseen = [unique_id for unique_id in wanted if unique_id not in known]
        if unseen:
            known.update(self._store.answered(unseen))
        return known

    def rows(self, new: Sequence[InboxRow]) -> list[InboxRow]:
        """The rows that a commit made now has to write."""
        return [*self._unwritten, *new]

    def full(self, rows: Sequence[InboxRow]) -> bool:
        """Whether so many rows are unwritten that they get a commit of their own."""
        return len(rows) > _MOST_UNWRITTEN

    def keep(self, rows: Sequence[InboxRow], *, committed: bool) -> None:
        """These rows are written, or wait for the next commit."""
        self._unwritten = [] if committed else list(rows)
        for message in rows:
            self._recent[message.unique_id] = message.reply
        while len(self._recent) > _MOST_RECENT:
            self._recent.popitem(last=False)

    def recheck(self) -> None:
        """A commit met a conflict: forget the unwritten rows that another worker has recorded. Raises StoreUnavailable."""
        if self._unwritten:
            recorded = self._store.answered([message.unique_id for message in self._unwritten])
            self._unwritten = [message for message in self._unwritten if message.unique_id not in recorded]
