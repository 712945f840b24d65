# SPDX-License-Identifier: Apache-2.0
"""Random moves between hosts of two databases."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.model.moving import DirectCloud
from tests.model.scheduling import Scheduler
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore
from tracker_worker.store.sql.store import SQLStore

ACTS = int(os.environ.get("MODEL_MOVES", "300"))


def play(cloud: DirectCloud, acts: int) -> None:
    scheduler = Scheduler(cloud)
    for number in range(acts):
        if number == acts // 3:
            cloud.begin_calendar("hour@7")
        elif number == acts * 2 // 3:
            cloud.begin_calendar("60s")
        scheduler.act()
    for one in cloud.instances:
        cloud.check_bill(one)
    cloud.check_invoices()
    assert cloud.steps > acts // 5


@pytest.mark.timeout(120 + ACTS)
@pytest.mark.parametrize("seed", range(10))
def test_every_instance_is_charged_once_and_billed_without_a_gap(seed: int) -> None:
    random = Random(seed)
    play(DirectCloud(random, lambda now: MemoryStore(now=now, random_bytes=random.randbytes)), ACTS)


@pytest.mark.timeout(120 + ACTS)
def test_the_same_in_sqlite(tmp_path: Path) -> None:
    stores: list[Store] = []

    def make(_now: Callable[[], int]) -> Store:
        stores.append(SQLStore(f"sqlite:///{tmp_path}/{len(stores)}.db"))
        stores[-1].start()
        return stores[-1]

    try:
        play(DirectCloud(Random(1), make), ACTS // 3)
    finally:
        for store in stores:
            store.stop()
