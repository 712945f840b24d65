# SPDX-License-Identifier: Apache-2.0
"""The periods of the nodes are closed when they are over: see ``domain.closing``.

All nodes have the same boundaries, so that they are over at the same moment. Their steps therefore take turns: a few of them
are decided at a time, together with the requests that have arrived meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from tracker_worker.domain import commands
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOOK_SECONDS = 1
"""``look`` is called this often."""
_MOST_NODES = 20
_MOST_INSTANCES = 50
"""What is decided at a time."""
_MOST_LOOKS = 30
"""Steps that were not decided within so many looks were dropped: the host is another worker's, or gone."""


@dataclass(slots=True, eq=False)
class _Sweep:
    """A node whose period is being closed. ``uuids``: the instances that are still to be told of the period that ends at
    ``ending``, by uuid; while that is 0, it is not known which these are."""

    host: str
    node_id: int
    ending: int = 0
    uuids: deque[str] = field(default_factory=deque)


class PeriodChores:
    """Belongs to the engine's thread."""

    def __init__(
        self,
        *,
        store: Store,
        ledgers: Ledgers,
        calendar: Calendar,
        hosts: Callable[[], Collection[str]],
        submit: Callable[[Chore], None],
        soon: Callable[[Callable[[], None]], None],
        clock: Callable[[], int],
    ) -> None:
        """``hosts`` returns those whose chores this worker does; ``soon`` has a task called between two batches; ``clock``
        gives microseconds."""
        self._store = store
        self._ledgers = ledgers
        self._calendar = calendar
        self._hosts = hosts
        self._submit = submit
        self._soon = soon
        self._clock = clock
        self._waiting: deque[_Sweep] = deque()
        self._known: dict[int, _Sweep] = {}
        self._deciding: dict[_Sweep, None] = {}  # in order: what follows has to be the same in each run
        self._looks = 0

    def look(self) -> None:
        """Begin to close what is over, and go on with what has begun. Raises StoreUnavailable."""
        self._looks += 1
        if self._looks > _MOST_LOOKS:
            for sweep in self._deciding:
                self._known.pop(sweep.node_id, None)
            self._deciding.clear()
        now = self._clock()
        for name in sorted(self._hosts()):
            host = self._ledgers.find(name)
            for ledger in () if host is None else host:
                if ledger.id not in self._known and self._is_due(ledger, now):
                    self._add(name, ledger)
        self._go_on()

    def _is_due(self, ledger: NodeLedger, now: int) -> bool:
        """Whether a period of the node is being closed, or is over. A retired node's last one is that of its retirement, unless
        it was charged, or something was learned, after that."""
        periods, retired = ledger.periods, ledger.life.retired
        if periods.ending:
            return True
        if not periods.until:
            return False
        if retired is not None and not ledger.allocations and periods.closed > max(retired.since, periods.learned_at):
            return False
        return ledger.time(now) >= periods.following(self._calendar)[1]

    def _add(self, host: str, ledger: NodeLedger) -> None:
        sweep = _Sweep(host, ledger.id)
        self._known[ledger.id] = sweep
        self._waiting.append(sweep)

    def _go_on(self) -> None:
        """Have the next steps decided, unless some are. Raises StoreUnavailable."""
        if self._deciding:
            return
        self._looks = 0
        steps: dict[str, list[commands.BeginPeriod | commands.TellUsage]] = {}
        mine, room = frozenset(self._hosts()), _MOST_INSTANCES
        try:
            while self._waiting and room > 0 and len(self._deciding) < _MOST_NODES:
                sweep = self._waiting[0]
                command = self._step(sweep, room) if sweep.host in mine else None
                self._waiting.popleft()  # not what the store could not be asked for
                if command is None:
                    del self._known[sweep.node_id]
                    continue
                room -= len(command.usages) if isinstance(command, commands.TellUsage) else 0
                self._deciding[sweep] = None
                steps.setdefault(sweep.host, []).append(command)
        finally:
            for host, some in steps.items():
                self._submit(Chore(host=host, commands=some, done=self._done, failed=partial(self._failed, host)))

    def _ledger(self, sweep: _Sweep) -> NodeLedger | None:
        host = self._ledgers.find(sweep.host)
        return None if host is None else next((ledger for ledger in host if ledger.id == sweep.node_id), None)

    def _step(self, sweep: _Sweep, room: int) -> commands.BeginPeriod | commands.TellUsage | None:
        """The next step of a node; None: there is nothing left to do."""
        ledger = self._ledger(sweep)
        if ledger is not None and ledger.periods.ending and sweep.ending != ledger.periods.ending:
            self._ledgers.refresh(
                [sweep.host]
            )  # what is read now is not older than the moment when the period was frozen
            ledger = self._ledger(sweep)
            if ledger is not None:
                self._list(sweep, ledger)
        if ledger is None:
            return None
        periods = ledger.periods
        if not periods.ending:
            if not self._is_due(ledger, self._clock()):
                return None
            beginning, ending = periods.following(self._calendar)
            return commands.BeginPeriod(
                node=ledger.name, node_id=ledger.id, known=periods.until, beginning=beginning, ending=ending
            )
        page = list(islice(sweep.uuids, room))
        usages = self._usage(ledger, page)
        return commands.TellUsage(
            node=ledger.name,
            node_id=ledger.id,
            ending=periods.ending,
            after=periods.after,
            usages=tuple(usages),
            closed=self._closed(ledger, usages),
            last=len(page) == len(sweep.uuids),
        )

    def _list(self, sweep: _Sweep, ledger: NodeLedger) -> None:
        """Find the instances that are to be told. What is charged now and was not when the period was frozen began after it;
        what was charged then and is not now has a segment."""
        periods = ledger.periods
        charged = {uuid for uuid, held in ledger.allocations.items() if held.since < periods.ending}
        charged.update(self._store.billed(ledger.id, beginning=periods.until, ending=periods.ending))
        sweep.uuids = deque(sorted(charged))
        sweep.ending = periods.ending
        _pass(sweep, periods.after)

    def _usage(self, ledger: NodeLedger, uuids: Sequence[str]) -> list[InstanceUsage]:
        periods = ledger.periods
        if not uuids:
            return []
        return self._store.usage(ledger.id, uuids, beginning=periods.until, ending=periods.ending)

    def _closed(self, ledger: NodeLedger, usages: Sequence[InstanceUsage]) -> tuple[tuple[int, int], ...]:
        """The closed periods that adjustments concern."""
        adjusted = [each for usage in usages for each in usage.segments if each.adjusts]
        if not adjusted:
            return ()
        since, until = min(each.since for each in adjusted), max(each.until for each in adjusted)
        return tuple(self._store.closed_periods(ledger.id, since=since, until=until))

    def _done(self, host: HostLedger) -> None:
        """The steps of a host are decided: those of its nodes that have more to do wait for their next turn."""
        for sweep in [sweep for sweep in self._deciding if sweep.host == host.name]:
            del self._deciding[sweep]
            ledger = next((ledger for ledger in host if ledger.id == sweep.node_id), None)
            if ledger is None:
                del self._known[sweep.node_id]
                continue
            if sweep.ending == ledger.periods.ending:
                _pass(sweep, ledger.periods.after)
            self._waiting.append(sweep)
        if not self._deciding:
            self._soon(self._go_on)

    def _failed(self, host: str, error: Exception) -> None:
        """The steps of a host cannot be decided: the next look tries again."""
        for sweep in [sweep for sweep in self._deciding if sweep.host == host]:
            del self._deciding[sweep]
            del self._known[sweep.node_id]
        if not self._deciding:
            self._soon(self._go_on)


def _pass(sweep: _Sweep, after: str) -> None:
    """The instances up to ``after`` are told."""
    while sweep.uuids and sweep.uuids[0] <= after:
        sweep.uuids.popleft()
