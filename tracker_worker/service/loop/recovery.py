# SPDX-License-Identifier: Apache-2.0
"""What the worker does when its store has gone back, or is in another history: it forgets everything that it has in memory, and
goes on in a history whose numbers mean nothing else anywhere.
"""

from __future__ import annotations

from collections.abc import Callable

from tracker_worker.counters import Counters
from tracker_worker.new_history import Begin, recover
from tracker_worker.service.chores.relay import Relay
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.store.base import AnotherHistory, Store
from tracker_worker.store.ledgers import Ledgers


class Recovery:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        inbox: Inbox,
        relay: Relay,
        begin: Begin,
        counters: Counters,
        clock: Callable[[], int],
        register: Callable[[], object],
        began: Callable[[str], None],
    ) -> None:
        """``begin`` begins a new history. ``clock`` gives microseconds. ``register`` makes the service records of the worker's
        hosts, which a database that has gone back may not have. ``began`` is called with the ledger_id of each history in which
        the worker goes on."""
        self._store = store
        self._ledgers = ledgers
        self._inbox = inbox
        self._relay = relay
        self._begin = begin
        self._counters = counters
        self._clock = clock
        self._register = register
        self._began = began

    def verify(self) -> None:
        """Compare the store with everything that was read, committed and published; the relay learns what is new. Raises
        AnotherHistory, StoreUnavailable; and StoreReplaced, which ends the worker: nothing that it could answer would last."""
        self._store.check()
        progress = self._ledgers.verify()
        for stream_id, topic, published, cursor in self._relay.reached():
            sequence = progress.sequences.get(stream_id)
            if sequence is not None and sequence < published:
                raise AnotherHistory(
                    f"event {published} was published, and the store has {sequence} events of its stream"
                )
            if progress.cursors.get((stream_id, topic), cursor) < cursor:
                raise AnotherHistory(f"the cursor of topic {topic} was at {cursor} already")
        self._relay.note(progress.sequences)

    def recover(self, why: AnotherHistory) -> None:
        """Go on in the history that has followed, or begin a new one, and forget everything of the old one.

        Raises StoreUnavailable; and Conflict: other writers were first again and again. Then nothing is forgotten, and the
        caller tries again."""
        self._go_on(str(why), with_holes=False)

    def hole(self, host: str, node: str, first: int, last: int) -> None:
        """The outbox lacks the events ``first`` to ``last`` of a node. Nobody has published them, and the relay has passed over
        them: begin a new history. Raises as ``recover`` does."""
        self._relay.flush()
        why = f"the outbox lacks the events {first} to {last} of node {host}/{node}, which nobody has published"
        self._go_on(why, with_holes=True)

    def _go_on(self, why: str, *, with_holes: bool) -> None:
        self._register()
        published: dict[int, int] = {}
        for stream_id, _, sent, _ in self._relay.reached():
            published[stream_id] = max(published.get(stream_id, 0), sent)
        ledger_id = recover(self._store, self._ledgers, self._begin, why=why, published=published, now=self._clock())
        self._counters.add("histories")
        self._inbox.clear()
        self._relay.restart(with_holes=with_holes)
        self._began(ledger_id)
