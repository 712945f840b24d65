# SPDX-License-Identifier: Apache-2.0
"""Calls that wait for an audit hold nothing of their host: their limits, their ends and their answers, in virtual time."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.support.builders import HOST, driver_resource_dict, instance_dict, node_name
from tests.support.caller import Call, Refused
from tests.support.deadline import SECONDS
from tests.support.engine import EngineHarness
from tracker_worker.bus.base import FANOUT
from tracker_worker.service.chores import audit_calls as module
from tracker_worker.service.chores.audit_calls import AuditCalls

N1, N2 = node_name(1), node_name(2)
AUDIT = "update_available_resource"


class ManualPool:
    """Asks the drivers when the test says so: until then they hang."""

    def __init__(self) -> None:
        self.questions: list[Callable[[], None]] = []

    def start(self) -> None: ...

    def submit(self, function: Callable[[], None]) -> None:
        self.questions.append(function)

    def stop(self) -> None: ...


class Case:
    """A worker without threads; ``now`` is the monotonic clock, in seconds."""

    def __init__(self, *, hosts: tuple[str, ...] = (HOST,), nodes: int = 1) -> None:
        self.now = 1000.0
        self.pool = ManualPool()
        self.harness = EngineHarness(hosts=hosts, nodes=nodes, monotonic=lambda: self.now, pool=self.pool)
        self.harness.connect()
        self.harness.engine.renew_leases()
        self.settle()

    @property
    def calls(self) -> AuditCalls:
        return self.harness.engine._audits._calls

    def call(self, *, seconds: float | None = None, source: str = HOST, **arguments: Any) -> Call:
        deadline = None if seconds is None else self.now + seconds
        return self.harness.caller.call(AUDIT, source=source, deadline=deadline, **arguments)

    def settle(self) -> None:
        """Step until nothing is due now."""
        while self.harness.engine.step(self.now) == 0.0 or self.harness.engine._arrivals:
            pass

    def forward(self, seconds: float) -> None:
        """Step whenever a step is due, for so many seconds."""
        end = self.now + seconds
        while True:
            self.settle()
            due = self.harness.engine.step(self.now)
            if due is None or self.now + due > end:
                break
            self.now += due
        self.now = end
        self.settle()

    def ask(self) -> None:
        """The drivers answer, until no question is left."""
        self.settle()
        while self.pool.questions:
            self.pool.questions.pop(0)()
            self.settle()

    def nothing_is_kept(self) -> bool:
        audits, calls = self.harness.engine._audits, self.calls
        held = [(held.calls, held.size) for held in calls._held.values()]
        return not (calls._waiting or calls._answers or len(calls._ends) or audits._running or any(map(any, held)))


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.harness.stop()


def test_a_call_is_settled_before_the_driver_has_answered(case: Case) -> None:
    calls = [case.call(seconds=seconds) for seconds in (None, 60)]
    case.settle()
    assert case.harness.unsettled() == 0
    assert not any(call.replied() for call in calls)
    claim = case.harness.caller.call("begin_resource_claim", instance=instance_dict(1))
    case.settle()
    assert claim.reply()["node"] == N1
    case.ask()
    assert [call.reply()[0]["running_vms"] for call in calls] == [1, 1]
    assert case.nothing_is_kept()


def test_a_call_ends_at_its_deadline_and_nothing_is_kept_of_it(case: Case) -> None:
    late, waiting = case.call(seconds=60, timeout=10), case.call(seconds=90, timeout=10)
    case.settle()
    case.forward(59.9)
    assert [monitor.cancelled for monitor in case.harness.monitors] == [False, False]
    case.forward(0.2)
    assert [monitor.cancelled for monitor in case.harness.monitors] == [True, False]
    assert len(case.calls._waiting) == 1
    case.ask()
    assert waiting.reply()[0]["node"] == N1
    assert not late.replied()
    assert case.nothing_is_kept()


def test_a_call_without_a_deadline_gets_an_error_after_ten_minutes(case: Case) -> None:
    call = case.call(timeout=10)
    case.forward(599)
    assert not call.replied()
    case.forward(2)
    assert call.reply() == Refused("InventoryUnavailable", {"host": HOST, "reason": "no answer within 600 s"})
    assert [monitor.cancelled for monitor in case.harness.monitors] == [True]
    case.ask()
    assert not call.replied()
    assert case.nothing_is_kept()


def test_calls_of_one_batch_share_a_look_and_later_ones_share_the_next(case: Case) -> None:
    early = [case.call() for _ in range(5)]
    case.settle()
    case.pool.questions.pop(0)()  # the list of nodes
    later = [case.call() for _ in range(5)]
    case.settle()
    case.pool.questions.pop(0)()
    case.harness.drivers[HOST].nodes[N1] = driver_resource_dict(vcpus=64)
    case.ask()
    assert {call.reply()[0]["vcpus"] for call in early} == {32}
    assert {call.reply()[0]["vcpus"] for call in later} == {64}
    assert case.harness.drivers[HOST].calls == [N1, N1]


def test_a_look_for_which_nobody_waits_any_more_is_not_begun(case: Case) -> None:
    case.call(seconds=60)
    case.settle()
    case.call(seconds=5)
    case.forward(10)
    case.ask()
    assert case.harness.drivers[HOST].calls == [N1]
    assert case.nothing_is_kept()
    call = case.call()
    case.ask()
    assert call.reply()


def test_too_many_calls_are_dropped_with_one_warning_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MOST_CALLS", 10)
    case = Case(hosts=(HOST, "host-2"))
    counted: list[str] = []
    monkeypatch.setattr(case.calls, "_count", counted.append)
    caplog.set_level(logging.WARNING, module.__name__)
    kept = [case.call(seconds=200) for _ in range(10)]
    dropped = [case.call(seconds=200, timeout=10) for _ in range(25)]
    case.settle()
    assert case.harness.unsettled() == 0
    assert [monitor.cancelled for monitor in case.harness.monitors] == [True] * 25
    assert counted == ["audits_dropped"] * 25
    assert [record.getMessage() for record in caplog.records] == [
        f"host {HOST}: 10 calls wait for an audit; 1 further ones were dropped"
    ]
    other = case.call(seconds=200, source="host-2")
    case.forward(60)
    dropped += [case.call(seconds=100) for _ in range(5)]
    case.settle()
    assert [record.getMessage() for record in caplog.records[1:]] == [
        f"host {HOST}: 10 calls wait for an audit; 25 further ones were dropped"
    ]
    case.ask()
    assert all(call.replied() for call in [*kept, other])
    assert not any(call.replied() for call in dropped)
    again = case.call()
    case.ask()
    assert again.replied()
    case.harness.stop()


def test_a_fanout_call_is_dropped_if_one_of_its_hosts_has_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CALLS", 1)
    case = Case(hosts=(HOST, "host-2"))
    first = case.call(source="host-2")
    case.settle()
    fanout = case.call(source=FANOUT)
    own = case.call()
    case.ask()
    assert (first.replied(), fanout.replied(), own.replied()) == (True, False, True)
    assert case.nothing_is_kept()
    case.harness.stop()


def test_calls_are_limited_in_bytes(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 100_000)
    small = [case.call(seconds=60) for _ in range(20)]
    case.settle()
    assert len(case.calls._waiting) == 20
    monkeypatch.setattr(module, "_CALL_BYTES", 30_000)
    more = [case.call(seconds=60) for _ in range(20)]
    case.settle()
    assert case.calls._held[HOST].size <= 100_000
    case.ask()
    assert all(call.replied() for call in small)
    assert sum(call.replied() for call in more) == 2


def test_places_become_free_when_callers_have_gone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CALLS", 10)
    for _ in range(50):
        for _ in range(20):
            case.call(seconds=3)
        case.forward(3)
        assert len(case.calls._waiting) == 0
    looks = case.harness.engine._audits._next.values()
    assert [len(look.calls) for look in looks] == [0]
    call = case.call(seconds=3)
    case.ask()
    assert call.replied()


def test_a_node_that_hangs_holds_neither_the_audits_of_other_nodes_nor_the_periodic_ones() -> None:
    case = Case(nodes=2)
    whole = case.call()
    case.settle()
    case.pool.questions.pop(0)()
    hang = case.harness.drivers[HOST].hang(N1)
    hanging = threading.Thread(target=case.pool.questions.pop(0))  # the first node
    hanging.start()
    assert hang.entered.wait(SECONDS)
    case.ask()
    for vcpus in (40, 50):
        case.harness.drivers[HOST].nodes[N2] = driver_resource_dict(vcpus=vcpus)
        case.harness.engine.audit(HOST)
        case.ask()
        one = case.call(node=N2)
        case.ask()
        assert one.reply()[0]["vcpus"] == vcpus
    assert {node.name: node.inventory.total["VCPU"] for node in case.harness.ledger() if node.inventory}[N2] == 50
    assert case.harness.drivers[HOST].calls.count(N1) == 1
    assert not whole.replied()
    hang.release()
    hanging.join(SECONDS)
    case.ask()
    assert len(whole.reply()) == 2
    case.harness.stop()


def test_answers_go_out_in_pieces(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ANSWER_BYTES", 10_000)
    calls = [case.call(seconds=600) for _ in range(50)]
    case.ask()
    answered = [sum(call.replied() for call in calls)]
    assert 0 < answered[0] < 20
    while answered[-1] < 50:
        case.forward(module._ANSWER_PAUSE_SECONDS)
        answered.append(sum(call.replied() for call in calls))
    assert max(later - earlier for earlier, later in pairwise(answered)) <= answered[0]
    assert case.nothing_is_kept()


def test_a_stop_answers_the_calls_that_wait(case: Case) -> None:
    call, late = case.call(seconds=60), case.call(seconds=5)
    case.settle()
    case.now += 10
    case.harness.engine.stop()
    assert call.reply() == Refused("InventoryUnavailable", {"host": HOST, "reason": "the worker stops"})
    assert not late.replied()


class _Trace:
    """What one call of the random run saw."""

    def __init__(self, call: Call, sent: float, deadline: float, version: int) -> None:
        self.call = call
        self.sent = sent
        self.deadline = deadline
        self.version = version
        self.answered: tuple[float, int] | None = None


@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_each_call_gets_one_answer_in_time_from_a_look_that_began_after_it(seed: int) -> None:
    """A driver's answer is a version that rises with the time at which it was asked."""
    drawn = random.Random(seed)
    case = Case(nodes=3)
    names = [node_name(number) for number in (1, 2, 3)]
    version = 0
    traces: list[_Trace] = []

    def see() -> None:
        case.settle()
        for trace in traces:
            if trace.call.replied():
                assert trace.answered is None
                views = trace.call.reply()
                assert case.now < trace.deadline
                trace.answered = case.now, min(view["vcpus"] for view in views)
                assert trace.answered[1] >= trace.version

    for _ in range(600):
        act = drawn.random()
        if act < 0.4:
            version += 1
            for name in names:
                case.harness.drivers[HOST].nodes[name] = driver_resource_dict(vcpus=version)
            seconds = drawn.choice([1, 5, 30])
            node = drawn.choice([None, *names])
            call = case.call(seconds=seconds, node=node)
            traces.append(_Trace(call, case.now, case.now + seconds, version))
        elif act < 0.5:
            case.harness.engine.audit(HOST)
        elif act < 0.6:
            case.harness.caller.cast(AUDIT, node=drawn.choice([None, *names]))
        elif act < 0.9 and case.pool.questions:
            case.pool.questions.pop(drawn.randrange(len(case.pool.questions)))()
        else:
            case.forward(drawn.choice([0.1, 1, 3]))
        see()
        assert len(case.pool.questions) <= 1 + len(names)
    case.ask()
    see()
    case.forward(60)
    assert case.nothing_is_kept()
    assert sum(trace.answered is not None for trace in traces) > 20
    assert all(trace.answered or trace.deadline <= case.now for trace in traces)
    case.harness.stop()
