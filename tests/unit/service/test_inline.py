# SPDX-License-Identifier: Apache-2.0
"""Which thread decides a request: that which received it, if the engine has nothing else to do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.builders import instance_dict, node_name, uuid
from tests.support.engine import EngineHarness
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.loop import inline
from tracker_worker.service.loop.stored_answers import StoredAnswers
from tracker_worker.store.base import Commit

ENGINE = "tracker-engine"


class Case:
    """A running engine, and the names of the threads that have committed inbox rows."""

    def __init__(self) -> None:
        self.harness = EngineHarness()
        self.committed_by: list[str] = []
        self.failures: list[Exception] = []
        commit = self.harness.store.inner.commit

        def noted(made: Commit) -> None:
            if made.inbox_rows:
                self.committed_by.append(threading.current_thread().name)
                if self.failures:
                    raise self.failures.pop()
            commit(made)

        self.harness.store.inner.commit = noted  # type: ignore[method-assign]

    def claim(self, number: int) -> Any:
        wanted = instance_dict(number, node=node_name(1))
        return self.harness.caller.call("begin_resource_claim", instance=wanted, limits={})


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    case.harness.start()
    case.harness.finish()
    yield case
    case.harness.stop()


def test_a_call_that_comes_alone_is_decided_by_the_thread_that_receives_it(case: Case) -> None:
    for number in range(1, 21):
        case.harness.finish()
        assert case.claim(number).reply()["claim_id"]
    # The engine's own thread may just have looked for confirms.
    assert case.committed_by.count(threading.current_thread().name) > 10
    assert set(case.harness.ledger().node(node_name(1)).allocations) == {uuid(number) for number in range(1, 21)}


def test_while_the_engine_works_it_decides_what_comes(case: Case) -> None:
    with case.harness.busy():
        waiting = case.claim(1)
    assert waiting.reply()["claim_id"]
    assert case.committed_by == [ENGINE]


def test_many_requests_are_decided_by_the_engines_thread(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "_MOST", 0)
    assert case.claim(1).reply()["claim_id"]
    assert case.committed_by == [ENGINE]


def test_an_answer_that_is_read_from_the_store_is_left_to_the_engines_thread(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_by: list[str] = []
    read = StoredAnswers.read

    def noted(answers: StoredAnswers, *question: Any) -> Any:
        asked_by.append(threading.current_thread().name)
        return read(answers, *question)

    monkeypatch.setattr(StoredAnswers, "read", noted)
    assert case.harness.caller.call("get_notifications", node=node_name(1), after_sequence=0).reply()
    assert asked_by == [ENGINE]


def test_what_a_receiving_thread_could_not_commit_is_left_to_the_engines_thread(case: Case) -> None:
    case.failures = [StoreUnavailable(reason="away"), StoreUnavailable(reason="away")]
    assert case.claim(1).reply()["claim_id"]
    assert case.committed_by[1:] == [ENGINE, ENGINE]


def test_a_bus_that_may_not_be_held_up_has_everything_decided_by_the_engines_thread() -> None:
    case = Case()
    short = inline.Inline(
        case.harness.engine._engine,
        case.harness.engine._arrivals,
        case.harness.engine.thread,
        hold_seconds=inline.LONGEST_WAIT_SECONDS - 1,
        monotonic=lambda: 0.0,
    )
    case.harness.engine.receive = short.receive
    case.harness.start()
    try:
        case.harness.finish()
        assert case.claim(1).reply()["claim_id"]
    finally:
        case.harness.stop()
    assert case.committed_by == [ENGINE]
