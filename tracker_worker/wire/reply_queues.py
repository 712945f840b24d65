# SPDX-License-Identifier: Apache-2.0
"""Which queues replies may go to: those of RPC clients, and never one that the worker or a consumer of notifications reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyQueues:
    """A queue is allowed if its name begins with one of ``prefixes``, is none of ``own``, and begins with none of
    ``own_prefixes``."""

    prefixes: tuple[str, ...]
    own: frozenset[str] = frozenset()
    own_prefixes: tuple[str, ...] = ()

    @staticmethod
    def of_clients(
        prefixes: Iterable[str], *, topic: str, dead_letter_queue: str, notification_topics: Iterable[str]
    ) -> ReplyQueues:
        """The queues of clients of this cloud. Whatever ``prefixes`` say, the queues of the topic and of its hosts, the fanout
        and dead-letter queues, the notification queues, and the names that the broker reserves are not among them."""
        topics = [topic, *notification_topics]
        return ReplyQueues(
            prefixes=tuple(prefixes),
            own=frozenset([*topics, dead_letter_queue]),
            own_prefixes=("amq.", f"{topic}_fanout", *(f"{name}." for name in topics)),
        )

    def allows(self, name: str) -> bool:
        return name.startswith(self.prefixes) and name not in self.own and not name.startswith(self.own_prefixes)


ANY_QUEUE = ReplyQueues(prefixes=("",))
"""For a reader that answers nobody."""
