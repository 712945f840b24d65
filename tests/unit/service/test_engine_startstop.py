# SPDX-License-Identifier: Apache-2.0
"""The engine keeps the contract of every part that starts and stops."""

from __future__ import annotations

import pytest

from tests.support.builders import instance_dict
from tests.support.engine import EngineHarness
from tests.support.startstop import stress
from tracker_worker.service.loop.engine import Engine


@pytest.mark.parametrize("work", [False, True], ids=["idle", "with work"])
def test_start_and_stop_leave_no_thread_and_no_open_file(work: bool) -> None:
    def make() -> Engine:
        harness = EngineHarness()
        if work:
            harness.connect()
            for number in range(5):
                harness.caller.cast("begin_resource_claim", instance=instance_dict(number))
            harness.engine.renew_leases()
        return harness.engine

    stress(make)


def test_an_engine_harness_keeps_the_contract_of_start_and_stop_as_a_whole() -> None:
    stress(EngineHarness)


def test_releasing_the_leases_without_a_start_has_no_effect() -> None:
    harness = EngineHarness()
    harness.engine.release()
    assert harness.store.calls == []
