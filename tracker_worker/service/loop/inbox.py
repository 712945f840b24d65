# SPDX-License-Identifier: Apache-2.0
"""Which messages have had their effect, and what each copy of them is told.

Every command leaves a row, also one that changed nothing: a copy of it that came much later could change something. A batch
that changed nothing is not committed for its rows alone; they ride with the next commit of any other. Until then nothing they
could see has changed, so that deciding them again after a crash would come out the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tracker_worker.store.base import Answered, Store

# Replies kept in memory: more than can be in flight, and than wait to ride.
_MOST_RECENT = 4096
_MOST_RIDING = 1000


class Inbox:
    """Belongs to the engine's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._riding: list[Answered] = []

    def recall(self, unique_ids: Iterable[str]) -> dict[str, bytes]:
        """unique_id -> recorded reply, of those that this worker has answered lately."""
        recent = self._recent
        return {unique_id: recent[unique_id] for unique_id in unique_ids if unique_id in recent}

    def look(self, unique_ids: Iterable[str]) -> dict[str, bytes]:
        """unique_id -> recorded reply, of all that are known. Raises StoreUnavailable."""
        wanted = list(unique_ids)
        known = self.recall(wanted)
        unseen = [unique_id for unique_id in wanted if unique_id not in known]
        if unseen:
            known.update(self._store.answered(unseen))
        return known

    def rows(self, answered: Sequence[Answered]) -> list[Answered]:
        """What a commit made now is to write."""
        return [*self._riding, *answered]

    def full(self, rows: Sequence[Answered]) -> bool:
        """So many wait that they want a commit of their own."""
        return len(rows) > _MOST_RIDING

    def keep(self, rows: Sequence[Answered], *, committed: bool) -> None:
        """They are written, or ride with the next commit."""
        self._riding = [] if committed else list(rows)
        for message in rows:
            self._recent[message.unique_id] = message.reply
        while len(self._recent) > _MOST_RECENT:
            self._recent.popitem(last=False)

    def recheck(self) -> None:
        """A commit met a conflict: drop what another worker has recorded meanwhile. Raises StoreUnavailable."""
        if self._riding:
            recorded = self._store.answered([message.unique_id for message in self._riding])
            self._riding = [message for message in self._riding if message.unique_id not in recorded]
