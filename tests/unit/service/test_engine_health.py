# SPDX-License-Identifier: Apache-2.0
"""What the engine says of itself and of the store, step by step and without its thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.builders import HOST
from tests.unit.service.test_engine_steps import Steps
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import HostLocked


@pytest.fixture
def steps() -> Iterator[Steps]:
    steps = Steps()
    yield steps
    steps.harness.stop()


def test_a_store_that_does_not_answer_a_probe_is_known_until_something_was_written(steps: Steps) -> None:
    engine = steps.harness.engine
    engine.probe_store()
    steps.step()
    assert engine.store_error is None

    steps.store.script["histories"] = [StoreUnavailable("it says nothing")]
    engine.probe_store()
    engine.probe_store()
    steps.step()
    assert str(engine.store_error) == "it says nothing"
    steps.step()  # nobody waits for the store, and nothing is known of it
    engine.probe_store()
    steps.step()
    assert engine.store_error is not None  # it can be read

    engine.renew_leases()
    steps.step()
    assert engine.store_error is None  # and written


def test_probes_of_the_store_do_not_collect(steps: Steps) -> None:
    before = steps.store.calls.count("histories")
    for _ in range(10):
        steps.harness.engine.probe_store()
    steps.step()
    assert steps.store.calls.count("histories") == before + 1


def test_a_host_whose_rows_are_locked_is_known_while_something_waits_for_it(steps: Steps) -> None:
    engine = steps.harness.engine
    assert engine.locked == {}
    steps.store.script["commit"] = [HostLocked(reason="the row is locked") for _ in range(4)]
    steps.begin(1, seconds=60)
    steps.step()  # together with other hosts, which may have been the reason
    began = steps.now
    for _ in range(3):
        steps.step()
        assert engine.locked == {HOST: began}
        steps.now += 5
    assert engine.store_error is None  # the others' rows can be used
    steps.step()
    assert engine.locked == {}


def test_the_engine_knows_the_ledger(steps: Steps) -> None:
    assert steps.harness.engine.ledger_id == steps.store.histories()[-1].ledger_id


def test_each_turn_that_is_due_is_told_and_the_next_one_comes_in_time(steps: Steps) -> None:
    engine = steps.harness.engine
    told: list[float] = []

    def turned(now: float) -> float:
        told.append(now)
        return now + 0.5

    engine._turned = turned
    assert steps.step() == pytest.approx(0.5)
    steps.now += 0.25
    wait = steps.step()
    assert wait is not None
    assert wait <= 0.25
    steps.now += 0.25
    steps.step()
    assert told == [steps.now - 0.5, steps.now]
