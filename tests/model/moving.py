# SPDX-License-Identifier: Apache-2.0
"""The hosts of ``scheduling`` without processes: their decisions on two stores, whose process may end around a commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.model.scheduling import HOSTS, NODES, Cloud
from tests.support.asked import asked
from tests.support.builders import NOW, inventory
from tests.support.closing import Closer
from tests.support.invoice import NodeBill
from tracker_worker.domain import commands
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.resources import ZERO
from tracker_worker.domain.values import SECOND
from tracker_worker.ids import NewIds
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.unit_of_work import UnitOfWork

_HOUR = 3600 * SECOND
_POLICY = Policy(claim_timeout=_HOUR, capacity_limits=False, release_expired=False, reserved=ZERO)


class DirectCloud(Cloud):
    """``now``: the clock of both databases."""

    def __init__(self, random: Random, make_store: Callable[[Callable[[], int]], Store]) -> None:
        super().__init__(random)
        self.now = NOW
        first, second = (make_store(lambda: self.now) for _ in range(2))
        self.stores = {host: second if host == HOSTS[-1] else first for host in HOSTS}
        self._ledgers = {id(store): Ledgers(store) for store in (first, second)}
        self._new_id = NewIds(random.randbytes)
        self._late: list[tuple[int, str, commands.Command]] = []
        self.invoices: dict[tuple[str, str], NodeBill] = defaultdict(NodeBill)
        self._closers: list[Closer] = []
        self.begin_calendar("300s")
        for host, store in self.stores.items():
            host_id = store.register_host(host, topic="tracker", version="1", now=self.now)
            for node in NODES:
                store.create_node(host_id, node)
            for node in NODES:
                self.do(host, commands.ReportNode(node=node, inventory=inventory()))

    def begin_calendar(self, option: str) -> None:
        """The workers start anew, with this option."""
        self._closers = [
            Closer(
                store,
                self._ledgers[id(store)],
                [host for host, its in self.stores.items() if its is store],
                calendar=Calendar.parse(option),
                clock=lambda: self.now,
                do=self.do,
            )
            for store in {id(store): store for store in self.stores.values()}.values()
        ]

    def close_periods(self) -> None:
        """Close what is over, or, as if the worker ended in between, a part of it."""
        for closer in self._closers:
            closer.close(most=self.random.choice((1, 5, 10**6)))

    def check_invoices(self) -> None:
        """When everything is closed, both bills of each node are the same."""
        self.now += 2 * _HOUR
        for _ in range(3):
            for closer in self._closers:
                closer.close()
        for bill in self.invoices.values():
            bill.check()

    def call(self, host: str, method: str, **args: Any) -> Any:
        decision = self.do(host, self._command(host, method, args))
        if decision.error is not None:
            raise decision.error
        return decision.reply

    def repeat_later(self, host: str, method: str, args: dict[str, Any]) -> None:
        at = self.now + int(self.random.random() ** 3 * _HOUR)
        self._late.append((at, host, self._command(host, method, args)))

    def pass_time(self, seconds: int) -> None:
        self.now += self.random.randint(0, seconds) * SECOND + self.random.randint(1, SECOND - 1)
        due = [each for each in self._late if each[0] <= self.now]
        self._late = [each for each in self._late if each[0] > self.now]
        for _, host, command in due:
            self.do(host, command)
        self.close_periods()

    def charges(self, uuid: str) -> list[tuple[str, str, str]]:
        return charges(self.stores, uuid)

    def _command(self, host: str, method: str, args: dict[str, Any]) -> commands.Command:
        command: commands.Command = asked(host, method, args, _POLICY)
        return command

    def do(self, host: str, command: commands.Command) -> Decision:
        """Decide and commit a command, and have its notifications heard. Sometimes the process ends before or after that."""
        store = self.stores[host]
        ledgers = self._ledgers[id(store)]
        fate = self.random.random()
        for _ in range(3):
            if isinstance(command, commands.BeginMove):
                found = store.incoming([command.begin.instance.uuid]).get(command.begin.instance.uuid)
                elsewhere = None if found is None or found[0] == host else found
                command = msgspec.structs.replace(command, moves_to=elsewhere)
            unit = UnitOfWork(store, ledgers, notify=True, new_id=self._new_id)
            decision = unit.decide(ledgers.get(host), command, self.now)
            try:
                if fate < 0.03:
                    fate = 1.0
                    raise Conflict("the process ends before the commit")
                if unit.changed:
                    unit.commit()
            except Conflict:
                ledgers.forget(HOSTS)
                continue
            unit.committed()
            for notification in unit.notifications:
                payload = msgspec.json.decode(notification.payload)
                self.bill.add(notification.event_type, payload)
                self.invoices[notification.host, notification.node].add(notification.event_type, payload)
            if fate > 0.97:
                ledgers.forget(HOSTS)
            self.check(host)
            return decision
        raise AssertionError(f"{command} finds no end")

    def check(self, host: str) -> None:
        """The store has what the ledgers have, and the usage is the sum."""
        loaded = self.stores[host].load_host(host)
        assert loaded is not None
        known = self._ledgers[id(self.stores[host])].get(host)
        for ledger in loaded:
            mine = known.nodes[ledger.name]
            assert ledger.allocations == mine.allocations
            assert ledger.moving == mine.moving
            assert ledger.moves == mine.moves
            assert ledger.drift is None
            charged = [*ledger.allocations.values(), *ledger.moving.values()]
            assert ledger.charged.to_dict() == {
                name: sum(held.resources[name] for held in charged) for name in ("VCPU", "MEMORY_MB", "DISK_GB")
            }
            assert ledger.stats.num_instances == len(ledger.allocations)


def charges(stores: dict[str, Store], uuid: str) -> list[tuple[str, str, str]]:
    """(host, node, role) of all that is charged for an instance on these hosts."""
    found = []
    for host, store in stores.items():
        ledgers = store.load_host(host)
        assert ledgers is not None
        found += [(host, ledger.name, held.role) for ledger, held in ledgers.charges(uuid)]
    return found
