# SPDX-License-Identifier: Apache-2.0
"""Questions about many hosts are answered a few hosts at a time, and hold up nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.builders import instance_dict, node_name
from tests.support.caller import Call
from tests.support.engine import EngineHarness
from tracker_worker.bus.base import SHARED
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.requests.items import AT_A_TIME

HOSTS = [f"host-{number:03}" for number in range(2 * AT_A_TIME + 1)]


class Case:
    """An engine whose passes the test makes."""

    def __init__(self, **options: Any) -> None:
        self.harness = EngineHarness(hosts=HOSTS, **options)
        self.harness.engine.acquire_leases()
        self.harness.inventories.start()
        self.harness.connect()

    def step(self) -> None:
        self.harness.engine.step(time.monotonic())

    def list_nodes(self) -> Call:
        return self.harness.caller.call("list_nodes", source=SHARED)

    def claim(self, host: str) -> Call:
        wanted = instance_dict(1, node=node_name(1))
        return self.harness.caller.call("begin_resource_claim", source=host, instance=wanted, limits={})


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.harness.stop()


def test_a_claim_that_comes_later_is_answered_before_and_seen(case: Case) -> None:
    listed = case.list_nodes()
    case.step()
    claimed = case.claim(HOSTS[-1])
    case.step()
    assert claimed.replied()
    assert not listed.replied()
    case.step()
    nodes = listed.reply()
    assert [node["host"] for node in nodes] == HOSTS
    assert [node["running_vms"] for node in nodes] == [*[0] * (len(HOSTS) - 1), 1]


def test_a_question_about_few_hosts_is_answered_at_once(case: Case) -> None:
    usage = case.harness.caller.call("get_usage", source=HOSTS[0])
    case.step()
    assert usage.replied()


def test_usage_of_many_hosts_is_summed(case: Case) -> None:
    for host in HOSTS[:3]:
        case.claim(host)
    case.step()
    usage = case.harness.caller.call("get_usage", source=SHARED)
    for _ in range(3):
        case.step()
    (project,) = usage.reply().values()
    assert project["instances"] == 3


def test_a_question_whose_caller_waits_no_more_is_not_worked_off(case: Case) -> None:
    listed = case.harness.caller.call("list_nodes", source=SHARED, deadline=time.monotonic() + 0.2)
    case.step()
    time.sleep(0.25)
    read = len(case.harness.store.calls)
    case.step()
    case.step()
    assert not listed.replied()
    assert len(case.harness.engine._backlog) == 0
    assert [number for (method, _), number in case.harness.tally.requests.items() if method == "list_nodes"] == [1]
    assert len(case.harness.store.calls) <= read + 4


def test_an_answer_that_is_too_large_ends_before_all_hosts_were_asked() -> None:
    case = Case(max_answer_bytes=10_000)
    listed = case.list_nodes()
    case.step()
    assert listed.reply().error == "AnswerTooLarge"
    case.step()
    case.step()
    assert len(case.harness.engine._backlog) == 0
    assert not listed.replied()
    case.harness.stop()


def test_while_the_store_is_away_a_call_that_cannot_wait_hears_so(case: Case) -> None:
    case.harness.store.script["refreshed"] = [StoreUnavailable(reason="away")] * 100
    listed = case.harness.caller.call("list_nodes", source=SHARED, deadline=time.monotonic() + 0.5)
    until = time.monotonic() + 5
    while not listed.replied() and time.monotonic() < until:
        case.step()
    assert listed.reply().error == "StoreUnavailable"
