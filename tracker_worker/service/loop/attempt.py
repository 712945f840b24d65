# SPDX-License-Identifier: Apache-2.0
"""One attempt at a batch: decide it and commit it, on the ledgers in memory or under the lock of its host.

An attempt on the ledgers in memory costs one round trip, and fails if another worker was first. A host that has lost two such
races is decided under lock: its rows are locked first, and read after that, so that nobody can be first any more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tracker_worker.counters import Counters
from tracker_worker.domain import commands
from tracker_worker.domain.queries import Query
from tracker_worker.service.loop.backlog import Lane
from tracker_worker.service.loop.batch import Batch, Decider
from tracker_worker.service.loop.inbox import Inbox
from tracker_worker.service.requests.items import Chore, Item, host_of, hosts_of, is_alone
from tracker_worker.service.requests.pending import PendingRequest
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers

# So many lost races in a row are enough.
_LOST_RACES = 2


class Attempts:
    """Belongs to the engine's thread."""

    def __init__(self, *, store: Store, ledgers: Ledgers, inbox: Inbox, decider: Decider, counters: Counters) -> None:
        self._store = store
        self._ledgers = ledgers
        self._inbox = inbox
        self._decider = decider
        self._counters = counters

    def is_ready(self, items: Sequence[Item]) -> bool:
        """Whether an attempt at these items would access the store once: their ledgers are in memory, and nothing else is to be
        read before."""
        begins = any(
            isinstance(item, PendingRequest)
            and item.operation
            and isinstance(item.operation.action, commands.BeginMove)
            for item in items
        )
        return not begins and not self._ledgers.in_doubt and all(map(self._ledgers.holds, hosts_of(items)))

    def make(self, lane: Lane, items: list[Item], cursors: Mapping[tuple[int, str], int]) -> Batch:
        """Decide and commit ``items``, which are the next ones of ``lane``, and with them these cursors of the relay.

        Raises Conflict (after ``_LOST_RACES`` lost races only AnotherHistory), StoreUnavailable, Unstorable and Unexpected.
        Then nothing of the attempt is in the store, but after StoreUnavailable all of it may be; the ledgers of the items'
        hosts are forgotten.
        """
        try:
            self._ledgers.confirm()
            if lane.host is not None and self._has_to_lock(lane.host, lane.lost_races, items):
                self._counters.add("locked_decisions")
                return self._locked(lane.host, items)
            return self._optimistic(items, lane.lost_races > 0, cursors)
        except BaseException:
            self._ledgers.forget(hosts_of(items))
            raise

    def _has_to_lock(self, host: str, lost_races: int, items: Sequence[Item]) -> bool:
        """An item that is alone reads the store, of which nothing may be asked under the lock, and is in no race."""
        return lost_races >= _LOST_RACES and not is_alone(items[0]) and self._ledgers.find(host) is not None

    def _optimistic(self, items: list[Item], lost_race: bool, cursors: Mapping[tuple[int, str], int]) -> Batch:
        self._create_nodes(items)
        self._ledgers.refresh({host for item in items if _reads(item) and (host := host_of(item)) is not None})
        ids = _ids(items)
        known = self._inbox.look_up(ids) if lost_race else self._inbox.recall(ids)
        batch = self._decider.decide(items, known, self._moving(items))
        if batch.unrecorded and not lost_race and self._inbox.look_up(batch.unrecorded):
            raise Conflict("a message is answered already")
        if batch.commits:
            batch.cursors = dict(cursors)
            batch.unit.commit(inbox_rows=batch.inbox_rows, cursors=batch.cursors)
        return batch

    def _locked(self, host: str, items: list[Item]) -> Batch:
        self._create_nodes(items)
        ids, moving = _ids(items), self._moving(items)
        with self._store.locked(self._ledgers.get(host).id) as locked:
            self._ledgers.put(locked.ledger)
            known = self._inbox.recall(ids)
            unseen = [unique_id for unique_id in ids if unique_id not in known]
            if unseen:
                known.update(locked.answered(unseen))
            batch = self._decider.decide(items, known, moving)
            if batch.commits:
                batch.unit.commit(inbox_rows=batch.inbox_rows, write=locked.commit)
        return batch

    def _moving(self, items: Sequence[Item]) -> dict[str, tuple[str, str]]:
        """Where the instances are incoming for which moves are to begin. A move that begins elsewhere at the same time fails
        the commit, and is seen by the next attempt."""
        begins = [item.operation.action for item in items if isinstance(item, PendingRequest) and item.operation]
        uuids = {action.begin.instance.uuid for action in begins if isinstance(action, commands.BeginMove)}
        return self._store.incoming(sorted(uuids)) if uuids else {}

    def committed(self, batch: Batch) -> None:
        """Note in the ledgers and the inbox that the store has the batch. Call it before the next attempt."""
        batch.unit.committed()
        self._inbox.keep(batch.inbox_rows)

    def end_chores(self, batch: Batch) -> None:
        """Tell the chores of the batch that they are committed."""
        for chore in batch.chores:
            if chore.done is not None:
                chore.done(self._ledgers.get(chore.host))

    def _create_nodes(self, items: Sequence[Item]) -> None:
        reported: dict[str, set[str]] = {}
        for item in items:
            if isinstance(item, Chore):
                for command in item.commands:
                    if isinstance(command, commands.ReportNode):
                        reported.setdefault(item.host, set()).add(command.node)
                    elif isinstance(command, commands.ReportList) and not item.if_new:
                        reported.setdefault(item.host, set()).update(command.nodes)
        if reported:
            self._ledgers.create_nodes({host: sorted(nodes) for host, nodes in sorted(reported.items())})


def _reads(item: Item) -> bool:
    """Whether the item's outcome shows a ledger that its commit need not change, so that the ledger has to be the store's."""
    if isinstance(item, PendingRequest):
        return item.operation is not None and isinstance(item.operation.action, Query)
    return True


def _ids(items: Sequence[Item]) -> list[str]:
    return [item.unique_id for item in items if isinstance(item, PendingRequest) and item.unique_id is not None]
