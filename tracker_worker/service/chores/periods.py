# SPDX-License-Identifier: Apache-2.0
"""The periods of the nodes are closed when they are over: see ``domain.closing``.

All nodes have the same boundaries, so that they are over at the same moment. Their steps therefore take turns: a few of them
are decided at a time, together with the requests that have arrived meanwhile. A sweep only remembers what is still to be told;
where it stands says the ledger, which other workers and a database that goes back change too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from tracker_worker.domain import commands
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.segments import InstanceUsage
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Store
from tracker_worker.store.ledgers import Ledgers

LOOK_SECONDS = 1
"""``look`` is called this often."""
_MOST_NODES = 20
_MOST_INSTANCES = 50
"""What is decided at a time. An instance with many segments counts for several."""
_SEGMENTS_OF_AN_INSTANCE = 2
"""So many segments take as long as an instance."""
_REST_LOOKS = 15
_MOST_LOOKS = 30
"""Steps that were not decided within so many looks were dropped: the host is another worker's, or gone."""


@dataclass(slots=True, eq=False)
class _Sweep:
    """A node whose period is being closed. ``left``: the instances that are still to be told of ``period`` (the id of the
    ledger, and when the period ends), by uuid, and for how many instances each counts; None: it is not known which these are.
    ``look``: the number of the last look before its present step."""

    host: str
    node_id: int
    period: tuple[str, int] | None = None
    left: deque[tuple[str, int]] = field(default_factory=deque)
    look: int = 0

    def go_on_after(self, uuid: str) -> None:
        """The instances up to this one are told."""
        while self.left and self.left[0][0] <= uuid:
            self.left.popleft()


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
        jumped: Callable[[], bool] = lambda: False,
    ) -> None:
        """``hosts`` returns those whose chores this worker does; ``soon`` has a task called between two batches; ``clock``
        gives microseconds; ``jumped`` says whether it was stepped forward so recently that no period is believed to be over."""
        self._store = store
        self._ledgers = ledgers
        self._calendar = calendar
        self._hosts = hosts
        self._submit = submit
        self._soon = soon
        self._clock = clock
        self._jumped = jumped
        self._waiting: deque[_Sweep] = deque()
        self._known: dict[int, _Sweep] = {}
        self._deciding: dict[_Sweep, int] = {}  # for how many instances each counts
        self._looks = 0
        self._rests_until = 0
        self._goes_on = False

    def look(self) -> None:
        """Begin to close what is over, and go on with what has begun. Raises StoreUnavailable; then it rests for a while, as
        requests wait for each try."""
        self._looks += 1
        if self._looks < self._rests_until:
            return
        try:
            self._look()
        except StoreUnavailable:
            self._rests_until = self._looks + _REST_LOOKS
            raise

    def _look(self) -> None:
        for sweep in [sweep for sweep in self._deciding if self._looks - sweep.look > _MOST_LOOKS]:
            del self._deciding[sweep]
            del self._known[sweep.node_id]
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
        if not periods.until or self._jumped():
            return False
        if retired is not None and not ledger.allocations and periods.closed > max(retired.since, periods.learned_at):
            return False
        return ledger.time(now) >= periods.following(self._calendar)[1]

    def _add(self, host: str, ledger: NodeLedger) -> None:
        sweep = _Sweep(host, ledger.id)
        self._known[ledger.id] = sweep
        self._waiting.append(sweep)

    def _go_on(self) -> None:
        """Have the next steps decided, as many as there is room for. Raises StoreUnavailable."""
        self._goes_on = False
        mine, room = frozenset(self._hosts()), _MOST_INSTANCES - sum(self._deciding.values())
        while self._waiting and room > 0 and len(self._deciding) < _MOST_NODES:
            sweep = self._waiting[0]
            step = self._step(sweep, room) if sweep.host in mine else None
            self._waiting.popleft()  # not what the store could not be asked for
            if step is None:
                del self._known[sweep.node_id]
                continue
            command, count = step
            room -= count
            self._deciding[sweep] = count
            sweep.look = self._looks
            done, failed = partial(self._done, sweep), partial(self._failed, sweep)
            self._submit(Chore(host=sweep.host, commands=[command], done=done, failed=failed))

    def _ledger(self, sweep: _Sweep) -> NodeLedger | None:
        host = self._ledgers.find(sweep.host)
        return None if host is None else next((ledger for ledger in host if ledger.id == sweep.node_id), None)

    def _step(self, sweep: _Sweep, room: int) -> tuple[commands.BeginPeriod | commands.TellUsage, int] | None:
        """The next step of a node, and for how many instances it counts; None: there is nothing left to do."""
        ledger = self._ledger(sweep)
        if ledger is not None and ledger.periods.ending and sweep.period != _period(ledger):
            # What is read now is not older than the moment when the period was frozen.
            self._ledgers.refresh([sweep.host])
            ledger = self._ledger(sweep)
            if ledger is not None and ledger.periods.ending:
                self._list(sweep, ledger)
        if ledger is None:
            return None
        periods = ledger.periods
        if not periods.ending:
            if not self._is_due(ledger, self._clock()):
                return None
            beginning, ending = periods.following(self._calendar)
            begin = commands.BeginPeriod(
                node=ledger.name, node_id=ledger.id, known=periods.until, beginning=beginning, ending=ending
            )
            return begin, 0
        sweep.go_on_after(periods.after)
        page, count = _page(sweep.left, room)
        usages = self._usage(ledger, page)
        tell = commands.TellUsage(
            node=ledger.name,
            node_id=ledger.id,
            ending=periods.ending,
            after=periods.after,
            usages=tuple(usages),
            closed=self._closed(ledger, usages),
            last=len(page) == len(sweep.left),
        )
        return tell, count

    def _list(self, sweep: _Sweep, ledger: NodeLedger) -> None:
        """Find the instances that are to be told. What is charged now and was not when the period was frozen began after it;
        what was charged then and is not now has a segment."""
        periods = ledger.periods
        counts = self._store.billed(ledger.id, beginning=periods.until, ending=periods.ending)
        charged = {uuid for uuid, held in ledger.allocations.items() if held.since < periods.ending}
        sweep.left = deque(
            (uuid, 1 + counts.get(uuid, 0) // _SEGMENTS_OF_AN_INSTANCE) for uuid in sorted(charged | counts.keys())
        )
        sweep.period = _period(ledger)

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

    def _done(self, sweep: _Sweep, host: HostLedger) -> None:
        """A step is decided: a node that has more to do waits for its next turn."""
        if self._deciding.pop(sweep, None) is None:
            return
        if any(ledger.id == sweep.node_id for ledger in host):
            self._waiting.append(sweep)
        else:
            del self._known[sweep.node_id]
        self._go_on_soon()

    def _failed(self, sweep: _Sweep, error: Exception) -> None:
        """A step cannot be decided: the next look tries again."""
        if self._deciding.pop(sweep, None) is not None:
            del self._known[sweep.node_id]
            self._go_on_soon()

    def _go_on_soon(self) -> None:
        if not self._goes_on:
            self._goes_on = True
            self._soon(self._go_on)


def _period(ledger: NodeLedger) -> tuple[str, int]:
    return ledger.ledger_id, ledger.periods.ending


def _page(left: Iterable[tuple[str, int]], room: int) -> tuple[list[str], int]:
    """The next instances for which there is room, at least one, and for how many they count."""
    page: list[str] = []
    total = 0
    for uuid, count in left:
        if page and total + count > room:
            break
        page.append(uuid)
        total += count
    return page, total
