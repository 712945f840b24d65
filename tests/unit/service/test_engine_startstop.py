# SPDX-License-Identifier: Apache-2.0
"""The engine keeps the contract of every part that starts and stops."""

from __future__ import annotations

import pytest

from tests.support.builders import instance_dict
from tests.support.engine import House
from tests.support.startstop import stress
from tracker_worker.service.loop.engine import Engine


@pytest.mark.parametrize("work", [False, True], ids=["idle", "with work"])
def test_starting_and_stopping_leaves_nothing_behind(work: bool) -> None:
    def make() -> Engine:
        house = House()
        if work:
            house.connect()
            for number in range(5):
                house.caller.cast("begin_resource_claim", instance=instance_dict(number))
            house.engine.renew_leases()
        return house.engine

    stress(make)


def test_a_house_keeps_it_as_a_whole() -> None:
    stress(House)


def test_letting_go_without_a_start_is_harmless() -> None:
    house = House()
    house.engine.release()
    assert house.store.calls == []
