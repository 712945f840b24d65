# SPDX-License-Identifier: Apache-2.0
"""Which messages have had their effect, and the answer that each copy of them gets.

Every command leaves a row, also one that changed nothing: a copy of it that comes much later could change something. No
command is answered before its row is committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from tracker_worker.store.base import InboxRow, Store

# Answers kept in memory: more than can be in flight.
_MOST_RECENT = 4096
_MOST_BYTES = 16 << 20


class Inbox:
    """Belongs to the engine's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

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

    def clear(self) -> None:
        """Forget every answer: the store may not have it any more."""
        self._recent.clear()
        self._bytes = 0

    def keep(self, rows: Sequence[InboxRow]) -> None:
        """These rows are committed."""
        for message in rows:
            self._recent[message.unique_id] = message.reply
            self._bytes += len(message.reply)
        while len(self._recent) > _MOST_RECENT or self._bytes > _MOST_BYTES:
            _, reply = self._recent.popitem(last=False)
            self._bytes -= len(reply)
