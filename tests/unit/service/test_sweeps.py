# SPDX-License-Identifier: Apache-2.0
"""What happens beside a sweep: a database that goes back, other workers, steps of the clock, and large instances."""

from __future__ import annotations

import os
from typing import Any

import pytest
from msgspec.structs import replace

from tests.support.backup import Backup
from tests.support.builders import HOST, NOW, TIMEOUT, begin, node_name, update, uuid
from tests.support.closing import Closer
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer, load, settle
from tests.unit.service.conftest import MakeHarness
from tests.unit.service.test_periods import CLOSED, EXISTS, HOUR, TO_THE_HOUR, close, told
from tracker_worker.administration import Administration, Refused
from tracker_worker.domain.calendar import Calendar
from tracker_worker.domain.commands import Command, ForgetUsage
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.queries import GetInstances
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.ids import NewIds
from tracker_worker.notifications.render import PLAIN
from tracker_worker.service.chores import periods
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.store.base import Commit, Unstorable
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.memory import MemoryStore
from tracker_worker.unit_of_work import UnitOfWork

N1 = node_name(1)
_COUNT = 12


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """The node is charged for so many instances that a sweep of it takes four steps."""
    monkeypatch.setattr(periods, "_MOST_INSTANCES", _COUNT // 3)
    store = MemoryStore(now=clock)
    writer = settle(store, nodes=1)
    for number in range(1, _COUNT + 1):
        writer.put(begin(number, node=N1, timeout=10**6 * TIMEOUT, memory_mb=1))
    writer.commit()
    return store


def instances(store: MemoryStore, host: str = HOST) -> list[str]:
    """Of the exists notifications, in their order."""
    return [payload["instance_id"] for event, payload in told(store, host=host) if event == EXISTS]


ALL = sorted(uuid(number) for number in range(1, _COUNT + 1))


@pytest.mark.behaviour("closed-periods")
@pytest.mark.parametrize("to", ["the freeze", "before the freeze"])
def test_a_sweep_of_a_database_that_goes_back_is_whole_in_the_new_history(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    worker = make_harness(store=store, clock=clock, nodes=1).start()
    backups = [Backup(store)]
    commit = store.commit

    def goes_back(written: Commit) -> None:
        commit(written)
        found = [ledger.periods for ledger in written.ledgers]
        if found and found[0].ending and not found[0].after and to == "the freeze" and len(backups) == 1:
            backups.append(Backup(store))
        if found and found[0].exists == 2 * _COUNT // 3:
            monkeypatch.undo()
            backups[-1].restore()

    monkeypatch.setattr(store, "commit", goes_back)
    monkeypatch.setattr(periods, "_MOST_INSTANCES", _COUNT // 3)
    clock.forward(TO_THE_HOUR + 2)
    for _ in range(3):
        close(worker, steps=20)
        worker.engine.renew_leases()
        worker.finish()
    assert len(store.histories()) == 2
    assert instances(store) == ALL
    assert [payload["exists"] for event, payload in told(store) if event == CLOSED] == [_COUNT]


class Worker:
    """The chore of a worker that has ledgers of its own."""

    def __init__(self, store: MemoryStore, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.ledgers = Ledgers(store)
        self.closer = Closer(store, self.ledgers, [HOST], calendar=Calendar.parse("hour"), clock=clock, do=self.decide)

    def decide(self, host: str, command: Command) -> Decision:
        unit = UnitOfWork(self.store, self.ledgers, notify=True, new_id=NewIds(os.urandom))
        decision = unit.decide(self.ledgers.get(host), command, self.clock())
        if unit.changed:
            unit.commit()
            unit.committed()
        return decision


@pytest.mark.behaviour("closed-periods")
def test_what_another_worker_has_told_meanwhile_is_not_told_again(store: MemoryStore, clock: Clock) -> None:
    clock.forward(TO_THE_HOUR + 2)
    first, second = Worker(store, clock), Worker(store, clock)
    first.closer.close(2)
    second.closer.close(1)
    assert len(instances(store)) == 2 * _COUNT // 3
    first.ledgers.refresh([HOST])
    first.closer.close()
    second.ledgers.refresh([HOST])
    second.closer.close()
    assert instances(store) == ALL
    assert len([event for event, _ in told(store) if event == CLOSED]) == 1


@pytest.mark.behaviour("closed-periods")
def test_no_period_is_over_because_of_a_step_of_the_clock(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    """Time that is billed is not taken back when the clock is set right."""
    worker = make_harness(store=store, clock=clock, nodes=1).start()
    clock.now += 24 * HOUR * SECOND
    worker.engine.renew_leases()
    close(worker)
    clock.now -= 24 * HOUR * SECOND
    worker.engine.renew_leases()
    close(worker)
    assert told(store) == []
    clock.forward(TO_THE_HOUR + TIMEOUT / SECOND)
    close(worker)
    assert [payload["seconds"] for event, payload in told(store) if event == CLOSED] == [_COUNT * TO_THE_HOUR]


def test_an_instance_that_has_changed_often_counts_for_several(store: MemoryStore, clock: Clock) -> None:
    writer = Writer(store)
    for number in range(1, 9):
        writer.put(update(2, vcpus=1 + number % 2), NOW + number * SECOND)
    writer.commit()
    clock.forward(TO_THE_HOUR + 2)
    worker = Worker(store, clock)
    worker.closer.close(2)
    assert instances(store) == ALL[:1]
    worker.closer.close(1)
    assert instances(store) == ALL[:2]


def test_one_node_that_cannot_be_told_holds_up_no_other(
    make_harness: MakeHarness, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore(now=clock)
    settle(store, nodes=2).put(begin(1, node=N1)).commit()
    worker = make_harness(store=store, clock=clock, nodes=2).start()
    commit = store.commit

    def refuses(written: Any) -> None:
        if any(ledger.name == N1 and ledger.periods.ending for ledger in written.ledgers):
            raise Unstorable("the database cannot keep this")
        commit(written)

    monkeypatch.setattr(store, "commit", refuses)
    clock.forward(TO_THE_HOUR + 2)
    for _ in range(5):
        close(worker)
    assert [event for event, _ in told(store, node_name(2))] == [CLOSED]
    assert load(store).nodes[N1].periods.ending == 0


def test_the_outbox_of_a_host_that_nobody_serves_is_pruned(
    make_harness: MakeHarness, store: MemoryStore, clock: Clock
) -> None:
    worker: EngineHarness = make_harness(store=store, clock=clock, nodes=1).start()
    settle(store, host="orphan", nodes=1).put(begin(99, node=N1)).commit()
    worker.engine.look_for_orphans()
    worker.finish()
    clock.forward(30 * HOUR)
    worker.engine.look_for_orphans()
    close(worker, steps=100)
    assert len(told(store, host="orphan")) == 60
    clock.forward(30 * HOUR)
    worker.engine.look_for_orphans()
    close(worker, steps=100)
    worker.engine._relay.flush()
    worker.engine.prune(inbox_seconds=HOUR, outbox_seconds=24 * HOUR)
    for _ in range(5):
        worker.finish()
    assert len(told(store, host="orphan")) == 60


def test_a_node_keeps_its_name_while_a_period_is_told(store: MemoryStore, clock: Clock) -> None:
    """Else a part of the period would be told under each name, and no name could prove it."""
    clock.forward(TO_THE_HOUR + 2)
    worker = Worker(store, clock)
    worker.closer.close(2)
    administration = Administration(store, notify=True)
    with pytest.raises(Refused, match=f"a period of node {N1} of host {HOST} is being told to billing"):
        administration.move_node(N1, host=HOST, to=HOST, name="other")
    worker.closer.close()
    administration.move_node(N1, host=HOST, to=HOST, name="other")
    assert instances(store) == ALL


def test_a_late_consumer_begins_where_the_period_ends_that_is_being_told(store: MemoryStore, clock: Clock) -> None:
    clock.forward(TO_THE_HOUR + 10)
    worker = Worker(store, clock)
    worker.closer.close(2)
    answers = StoredAnswers(
        store=store,
        ledgers=worker.ledgers,
        calendar=Calendar.parse("hour"),
        style=PLAIN,
        max_answer_bytes=2**20,
    )
    page = answers.read(HOST, GetInstances(node=N1, after=None, limit=500), clock())
    assert page["audit_period_beginning"] == "2026-01-15T13:00:00Z"
    assert {entry["period_resource_seconds"]["VCPU"] for entry in page["instances"]} == {2 * 10}


def test_what_was_learned_late_is_told_before_anything_is_forgotten(store: MemoryStore, clock: Clock) -> None:
    worker = Worker(store, clock)
    clock.forward(TO_THE_HOUR + 10)
    worker.closer.close()
    node = worker.ledgers.get(HOST).nodes[N1]
    forget = ForgetUsage(node=N1, node_id=node.id, ended_before=2**60)
    node.periods = replace(node.periods, learned_at=node.periods.until)
    assert worker.decide(HOST, forget).events == ()
    node.periods = replace(node.periods, learned_at=node.periods.until - 1)
    assert worker.decide(HOST, forget).events != ()


def test_where_nothing_is_told_a_host_may_be_forgotten(store: MemoryStore, clock: Clock) -> None:
    """What was charged before notifications were switched off is never told."""
    clock.forward(60)
    writer = Writer(store)
    for number in range(1, _COUNT + 1):
        writer.put(update(number, vm_state="deleted"), clock())
    writer.commit()
    with pytest.raises(Refused, match=f"was charged for {_COUNT} instances is not told"):
        Administration(store, notify=True).forget_host(HOST)
    Administration(store, notify=False).forget_host(HOST)
    assert store.host_names() == []


def test_a_sweep_rests_while_the_store_is_away(
    store: MemoryStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try may take seconds, in which no request is tried."""
    worker = Worker(store, clock)
    tries: list[str] = []

    def away(host: str) -> None:
        tries.append(host)
        raise StoreUnavailable(reason="silent")

    with monkeypatch.context() as silent:
        silent.setattr(worker.ledgers, "find", away)
        with pytest.raises(StoreUnavailable):
            worker.closer.close()
        for _ in range(10):
            worker.closer.close()
    assert tries == [HOST]
    clock.forward(TO_THE_HOUR + 2)
    for _ in range(10):
        worker.closer.close()
    assert instances(store) == ALL
