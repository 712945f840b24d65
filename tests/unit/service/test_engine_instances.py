# SPDX-License-Identifier: Apache-2.0
"""The instances of a node are read as of a number: in pages, and with what the period that is not closed yet has so far.

The file is long because each class is one question about the same worker, asked by the same few functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from tests.support.backup import Backup
from tests.support.builders import HOST, NOW, begin, instance_dict, node_name, update, uuid
from tests.support.caller import Refused, drained
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.support.scripted import Clock
from tests.support.store import Writer
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tests.unit.service.test_engine_progress import H1, H2, Worker
from tracker_worker.administration import Administration
from tracker_worker.domain.commands import RetireNode
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.loop import engine as loop
from tracker_worker.store.base import Unstorable
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import JSON, MSGPACK, decode_message

N1, N2 = node_name(1), node_name(2)
HOUR = 3600
SIZE = {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
"""Of ``instance_dict``."""
LARGE = {"VCPU": 4, "MEMORY_MB": 8192, "DISK_GB": 50}
OTHER = "another-project"
# In the order of code points. Neither UTF-16 nor a language orders them so.
ORDERED = ["A", "B", "Z-1", "a", "b", "\u00e9", "\uffee", "\U0001f98a"]


def ask(harness: EngineHarness, node: str = N1, **options: Any) -> Any:
    return harness.caller.call("get_instances", node=node, **options).reply()


def claim(harness: EngineHarness, number: int = 1, **fields: Any) -> Any:
    said = {"node": N1, **fields}
    return harness.caller.call("begin_resource_claim", instance=instance_dict(number, **said), timeout=86400).reply()


def change(harness: EngineHarness, number: int = 1, **fields: Any) -> None:
    answer = harness.caller.call("update_usage", instance={"uuid": uuid(number), **fields}).reply()
    assert answer["changed"]


def uuids(answer: Any) -> list[str]:
    return [entry["instance_id"] for entry in answer["instances"]]


def held(harness: EngineHarness, number: int = 1, node: str = N1) -> tuple[str, dict[str, int]]:
    """``since``, as minutes and seconds behind noon, and ``period_resource_seconds`` of an instance."""
    (entry,) = [entry for entry in ask(harness, node)["instances"] if entry["instance_id"] == uuid(number)]
    day, time = entry["since"].split("T")
    assert day == "2026-01-15"
    return time, entry["period_resource_seconds"]


def times(seconds: int, resources: dict[str, int] = SIZE) -> dict[str, int]:
    return {name: amount * seconds for name, amount in resources.items()}


def total(*parts: dict[str, int]) -> dict[str, int]:
    return {name: sum(part[name] for part in parts) for name in SIZE}


@pytest.fixture
def clock() -> Clock:
    """It begins at noon, which is when the period and the node begin."""
    return Clock()


@pytest.fixture
def worker(make_harness: MakeHarness, clock: Clock) -> EngineHarness:
    """A host with two nodes."""
    return make_harness(clock=clock, nodes=2).start()


@pytest.mark.behaviour("starting-late")
@pytest.mark.parametrize("content_type", [JSON, MSGPACK])
def test_an_entry_is_what_an_event_would_say_now(worker: EngineHarness, clock: Clock, content_type: str) -> None:
    claim(worker, display_name='"\\ é 🦊')
    worker.finish()
    told = decode_message(drained(worker.broker.notifications)[-1])["payload"]
    clock.forward(7.25)
    claim(worker, 2, node=N2)
    answer = ask(worker, content_type=content_type)
    assert answer == {
        "ledger_id": worker.ledger().ledger_id,
        "sequence": 2,
        "audit_period_beginning": "2026-01-15T12:00:00Z",
        "instances": [
            {
                **told,
                "occurred_at": "2026-01-15T12:00:07.250000Z",
                "since": "2026-01-15T12:00:00.000000Z",
                "period_resource_seconds": times(7),
            }
        ],
        "next": None,
    }
    assert told["charged"] == SIZE
    assert (told["claim_state"], told["role"], told["sequence"]) == ("begun", "instance", 2)


class TestPages:
    @pytest.fixture
    def named(self, worker: EngineHarness) -> EngineHarness:
        """A node with eight instances."""
        for name in reversed(ORDERED):
            claim(worker, uuid=name)
        return worker

    @pytest.mark.behaviour("starting-late")
    def test_they_are_in_the_order_of_code_points(self, named: EngineHarness) -> None:
        answer = ask(named)
        assert (uuids(answer), answer["next"], answer["sequence"]) == (ORDERED, None, 9)

    @pytest.mark.parametrize("limit", [1, 3, 7, 8, 9, 500])
    def test_each_is_on_exactly_one_page(self, named: EngineHarness, limit: int) -> None:
        pages, after = [], None
        while True:
            answer = ask(named, after=after, limit=limit)
            pages.append(uuids(answer))
            after = answer["next"]
            if after is None:
                break
            assert after == pages[-1][-1]
        assert pages == [ORDERED[n : n + limit] for n in range(0, len(ORDERED), limit)]

    def test_a_page_begins_behind_a_uuid_that_need_not_be_there(self, named: EngineHarness) -> None:
        assert uuids(ask(named, after="Y")) == ORDERED[2:]
        last = ask(named, after=ORDERED[-1])
        assert (last["instances"], last["next"], last["sequence"]) == ([], None, 9)

    def test_a_uuid_has_one_spelling(self, worker: EngineHarness) -> None:
        for number in (1, 2):
            claim(worker, number)
        assert uuids(ask(worker, after=uuid(1).upper())) == [uuid(2)]

    @pytest.mark.parametrize("limit", [0, 501, -1, 1.0, True, "1"])
    def test_another_limit_is_refused(self, worker: EngineHarness, limit: Any) -> None:
        refused = ask(worker, limit=limit)
        assert (refused.error, refused.kwargs["field"]) == ("InvalidInput", "limit")

    @pytest.mark.behaviour("starting-late")
    def test_each_page_is_as_of_its_own_number(self, worker: EngineHarness) -> None:
        for number in (2, 4):
            claim(worker, number)
        first = ask(worker, limit=1)
        claim(worker, 3)
        change(worker, 2, vm_state="deleted")
        second = ask(worker, after=first["next"], limit=1)
        assert (uuids(first), first["sequence"], first["next"]) == ([uuid(2)], 3, uuid(2))
        assert (uuids(second), second["sequence"], second["next"]) == ([uuid(3)], 5, uuid(3))

    def test_an_answer_that_is_too_large_says_what_to_do(self, make_harness: MakeHarness, clock: Clock) -> None:
        worker = make_harness(clock=clock, max_answer_bytes=65536).start()
        for number in (1, 2, 3):
            claim(worker, number, metadata={"text": "x" * 25_000})
        refused = ask(worker)
        assert refused.error == "AnswerTooLarge"
        assert "limit" in refused.kwargs["how"]
        assert "after" in refused.kwargs["how"]
        assert uuids(ask(worker, limit=2)) == [uuid(1), uuid(2)]
        assert uuids(ask(worker, after=uuid(2), limit=2)) == [uuid(3)]


class TestWhatIsOnIt:
    def test_a_node_without_instances_has_an_empty_page(self, worker: EngineHarness) -> None:
        claim(worker)
        answer = ask(worker, N2)
        assert (answer["instances"], answer["next"], answer["sequence"]) == ([], None, 1)

    def test_an_instance_whose_charge_has_ended_is_not(self, worker: EngineHarness) -> None:
        for number in (1, 2, 3, 4):
            claim(worker, number)
        change(worker, 1, vm_state="deleted")
        change(worker, 2, vm_state="shelved_offloaded")
        worker.caller.call("abort_resource_claim", claim_id=uuid(3)).reply()
        assert uuids(ask(worker)) == [uuid(4)]

    @pytest.mark.behaviour("starting-late")
    def test_what_is_incoming_or_on_hold_is_not(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        clock.forward(10)
        move = {"id": "m1", "kind": "migration"}
        target = instance_dict(1, node=N2)
        worker.caller.call("begin_move_claim", instance=target, move=move).reply()
        clock.forward(10)
        assert (uuids(ask(worker)), ask(worker, N2)["instances"]) == ([uuid(1)], [])
        worker.caller.call("finish_move", move_id="m1").reply()
        clock.forward(5)
        assert ask(worker)["instances"] == []
        assert held(worker, node=N2) == ("12:00:20.000000Z", times(5))
        assert [entry["role"] for entry in ask(worker, N2)["instances"]] == ["instance"]
        worker.caller.call("revert_move", move_id="m1").reply()
        clock.forward(3)
        # Here it was charged before it left, and is since it is back.
        assert held(worker) == ("12:00:25.000000Z", times(20 + 3))
        assert ask(worker, N2)["instances"] == []

    def test_a_node_that_is_retired_has_none_and_one_that_never_was_is_refused(
        self, make_harness: MakeHarness, clock: Clock
    ) -> None:
        harness = make_harness(clock=clock, nodes=2)
        Administration(harness.store.inner, notify=True).decide(HOST, RetireNode(node=N2, reason="sold"))
        harness.start()
        retired = ask(harness, N2)
        assert (retired["instances"], retired["sequence"]) == ([], 2)
        assert ask(harness, "node-9") == Refused("NodeNotFound", {"host": HOST, "node": "node-9"})

    def test_a_cast_is_settled(self, worker: EngineHarness) -> None:
        worker.caller.cast("get_instances", node=N1)
        worker.finish()
        wait_until(lambda: worker.unsettled() == 0, "it is settled")
        assert worker.parked() == []


@pytest.mark.behaviour("starting-late")
class TestThePeriodSoFar:
    def test_a_change_of_the_state_begins_anew_and_counts_on(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        clock.forward(30)
        change(worker, vm_state="active", task_state=None)
        assert held(worker) == ("12:00:30.000000Z", times(30))
        clock.forward(15)
        assert held(worker) == ("12:00:30.000000Z", times(45))
        worker.caller.call("finish_resource_claim", claim_id=uuid(1)).reply()
        assert held(worker) == ("12:00:45.000000Z", times(45))

    def test_a_change_of_the_size_is_counted_from_then_on(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        clock.forward(30)
        change(worker, vcpus=4, memory_mb=8192)
        assert held(worker) == ("12:00:30.000000Z", times(30))
        clock.forward(11)
        assert held(worker) == ("12:00:30.000000Z", total(times(30), times(11, LARGE)))

    def test_what_no_bill_shows_begins_nothing(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        clock.forward(30)
        change(worker, display_name="web", task_state="networking")
        clock.forward(1)
        assert held(worker) == ("12:00:00.000000Z", times(31))

    def test_the_amount_is_the_present_owner_s_only(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        first = instance_dict()["project_id"]
        clock.forward(30)
        change(worker, project_id=OTHER)
        assert held(worker) == ("12:00:30.000000Z", times(0))
        clock.forward(4)
        assert held(worker) == ("12:00:30.000000Z", times(4))
        assert ask(worker)["instances"][0]["tenant_id"] == OTHER
        change(worker, project_id=first)
        clock.forward(5)
        # What the owner was charged before is in the same period.
        assert held(worker) == ("12:00:34.000000Z", times(35))

    def test_a_charge_that_ended_and_one_that_began_again_are_in_one_amount(
        self, worker: EngineHarness, clock: Clock
    ) -> None:
        claim(worker)
        clock.forward(30)
        change(worker, vm_state="shelved_offloaded")
        clock.forward(100)
        claim(worker)
        clock.forward(2)
        assert held(worker) == ("12:02:10.000000Z", times(32))

    def test_whole_seconds_are_counted(self, worker: EngineHarness, clock: Clock) -> None:
        clock.forward(0.75)
        claim(worker)
        clock.forward(0.5)
        # From second 0 to second 1, whatever is between.
        assert held(worker) == ("12:00:00.750000Z", times(1))
        change(worker, vm_state="active")
        clock.forward(0.5)
        assert held(worker) == ("12:00:01.250000Z", times(1))

    def test_a_period_that_was_closed_is_in_it_no_more(self, worker: EngineHarness, clock: Clock) -> None:
        claim(worker)
        clock.forward(HOUR - 10)
        change(worker, vm_state="active")
        clock.forward(15)
        # It is over, and not closed yet.
        assert held(worker) == ("12:59:50.000000Z", times(HOUR + 5))
        before = ask(worker)["sequence"]
        worker.engine.close_periods()
        wait_until(lambda: ask(worker)["sequence"] == before + 2, "an exists, and the end of the period")
        assert held(worker) == ("12:59:50.000000Z", times(5))
        change(worker, vm_state="stopped")
        clock.forward(1)
        assert held(worker) == ("13:00:05.000000Z", times(6))

    def test_what_is_learned_late_of_a_closed_period_is_not_in_it(
        self, make_harness: MakeHarness, clock: Clock
    ) -> None:
        worker = make_harness(hosts=[HOST, H2], clock=clock).start()

        def move(method: str, host: str, **arguments: Any) -> Any:
            return worker.caller.call(method, source=host, **arguments).reply()

        claim(worker)
        clock.forward(HOUR - 10)
        record = {"id": "m1", "kind": "migration", "from_host": HOST, "from_node": N1}
        move("begin_move_claim", H2, instance=instance_dict(1, node=N1), move=record, timeout=86400)
        finished = move("finish_move", H2, move_id="m1")
        clock.forward(15)
        worker.engine.close_periods()
        wait_until(lambda: worker.ledger().nodes[N1].periods.until == NOW + HOUR * SECOND, "the period is closed")
        assert held(worker) == ("12:00:00.000000Z", times(5))
        move("finish_move", HOST, move_id="m1", move=finished)
        assert ask(worker)["instances"] == []
        clock.forward(15)
        reverted = move("revert_move", H2, move_id="m1")
        clock.forward(2)
        move("revert_move", HOST, move_id="m1", move=reverted)
        clock.forward(3)
        # Ten seconds are to be taken back from the period before.
        assert held(worker) == ("13:00:20.000000Z", times(5))

    def test_where_nothing_is_told_only_what_goes_on_is_known(self, make_harness: MakeHarness, clock: Clock) -> None:
        worker = make_harness(clock=clock, notify=False).start()
        claim(worker)
        clock.forward(30)
        change(worker, vm_state="active")
        clock.forward(4)
        assert held(worker) == ("12:00:30.000000Z", times(4))


class TestOrder:
    @pytest.mark.behaviour("starting-late")
    def test_it_sees_the_commands_before_it_and_delays_none_behind_it(self, worker: EngineHarness) -> None:
        with worker.busy():
            worker.caller.cast("begin_resource_claim", instance=instance_dict(1, node=N1))
            between = worker.caller.call("get_instances", node=N1)
            for number in (2, 3):
                worker.caller.cast("begin_resource_claim", instance=instance_dict(number, node=N1))
            after = worker.caller.call("get_instances", node=N1)
            worker.store.commits.clear()
        one, three = between.reply(), after.reply()
        assert (uuids(one), one["sequence"]) == ([uuid(1)], 2)
        assert (uuids(three), three["sequence"]) == ([uuid(1), uuid(2), uuid(3)], 4)
        # What comes together is still committed together.
        assert [commit.events for commit in worker.store.commits if commit.events] == [
            ["tracker.claim.begun"],
            ["tracker.claim.begun"] * 2,
        ]

    @pytest.mark.parametrize("method", ["refreshed", "usage"])
    @pytest.mark.parametrize("lost", [1, 2, 3, 4, 9])
    def test_both_are_read_again_when_another_worker_commits_in_between(
        self, worker: EngineHarness, clock: Clock, method: str, lost: int
    ) -> None:
        claim(worker)
        clock.forward(10)
        store = worker.store
        sizes = iter(range(3, 99))

        def grows() -> None:
            clock.forward(1)
            Writer(store.inner).put(update(1, vcpus=next(sizes)), clock()).commit()

        script: list[Exception | Callable[[], object]] = [grows] * lost
        with worker.busy():
            call = worker.caller.call("get_instances", node=N1)
            store.script[method] = script
        answer = call.reply()
        (entry,) = answer["instances"]
        (ledger,) = [ledger for ledger in worker.ledger() if ledger.name == N1]
        assert answer["sequence"] == entry["sequence"] == ledger.sequence == 2 + lost
        assert entry["charged"]["VCPU"] == lost + 2
        assert entry["since"] == f"2026-01-15T12:00:{10 + lost}.000000Z"
        # 2 for ten seconds and one more, and then one second for each.
        assert entry["period_resource_seconds"]["VCPU"] == 2 * 11 + sum(range(3, lost + 2))

    def test_a_commit_on_another_node_of_the_host_is_none_in_between(self, worker: EngineHarness) -> None:
        claim(worker)
        reads = count()

        def claims_elsewhere() -> None:
            Writer(worker.store.inner).put(begin(10 + next(reads), node=N2)).commit()

        with worker.busy():
            call = worker.caller.call("get_instances", node=N1)
            worker.store.script["usage"] = [claims_elsewhere] * 9
        assert uuids(call.reply()) == [uuid(1)]
        assert next(reads) == 1


class TestStore:
    @pytest.mark.parametrize("method", ["refreshed", "usage"])
    def test_it_waits_for_a_store_that_is_away(self, worker: EngineHarness, method: str) -> None:
        claim(worker)
        worker.store.script[method] = [StoreUnavailable(reason="away")] * 3
        assert uuids(ask(worker)) == [uuid(1)]

    def test_a_call_that_cannot_wait_is_told(self, harness: EngineHarness, deadline_clock: DeadlineClock) -> None:
        claim(harness)

        def away() -> None:
            deadline_clock.forward(1)
            raise StoreUnavailable(reason="away")

        harness.store.script["usage"] = [away] * 99
        assert ask(harness, deadline=deadline_clock() + 30).error == "StoreUnavailable"

    def test_a_call_that_loses_every_race_ends_at_its_deadline(
        self, harness: EngineHarness, deadline_clock: DeadlineClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It holds up what comes behind it no longer than that."""
        claim(harness)
        monkeypatch.setattr(loop, "_MOST_LOST_RACES", 10**9)
        sizes = iter(range(3, 99))

        def grows() -> None:
            deadline_clock.forward(1)
            Writer(harness.store.inner).put(update(1, vcpus=next(sizes))).commit()

        harness.store.script["usage"] = [grows] * 40
        with harness.busy():
            call = harness.caller.call("get_instances", node=N1, deadline=deadline_clock() + 30)
            view = harness.caller.call("get_node", node=N1, deadline=deadline_clock() + SECONDS + 60)
        assert view.reply()["vcpus_used"] > 30
        assert not call.replied()

    @pytest.mark.behaviour("starting-late")
    def test_what_a_store_says_that_went_back_is_no_answer(self, harness: EngineHarness) -> None:
        assert isinstance(harness.store.inner, MemoryStore)
        claim(harness, 1)
        backup = Backup(harness.store.inner)
        old = ask(harness)["ledger_id"]
        claim(harness, 2)
        harness.store.script["usage"] = [backup.restore]
        answer = ask(harness)
        assert answer["ledger_id"] == harness.store.inner.histories()[-1].ledger_id != old
        assert (uuids(answer), answer["sequence"]) == ([uuid(1)], 3)


@pytest.fixture
def raced() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.harness.stop()


def test_it_takes_no_lock_though_its_host_has_lost_races(raced: Worker) -> None:
    raced.busy(H1)
    unstorable = raced.begin(1, H1)
    call = raced.harness.caller.call("get_instances", source=H1, node=N1)
    raced.step()
    assert raced.harness.counters.snapshot()["most_lost_races"] == 2
    raced.store.script["locked"] = [Unstorable("this one"), AssertionError("a read needs no lock")]
    raced.step(2)
    assert isinstance(unstorable.reply(), Refused)
    assert uuids(call.reply()) != []
    assert raced.store.calls.count("locked") == 1


def test_the_time_of_an_answer_is_not_before_the_node_s_last_event(make_harness: MakeHarness, clock: Clock) -> None:
    """Another worker's clock was ahead."""
    worker = make_harness(clock=clock).start()
    claim(worker)
    Writer(worker.store.inner).put(update(1, vcpus=4), NOW + 20 * SECOND).commit()
    (entry,) = ask(worker)["instances"]
    assert entry["occurred_at"] == entry["since"] == "2026-01-15T12:00:20.000000Z"
    assert entry["period_resource_seconds"] == times(20)
