# SPDX-License-Identifier: Apache-2.0
"""Houses that are stopped with their test, and in which nothing waits for longer than it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.service.support import House
from tracker_worker.service import engine

MakeHouse = Callable[..., House]


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once."""
    monkeypatch.setattr(engine, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(engine, "_LONGEST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0.01)


@pytest.fixture
def make_house() -> Iterator[MakeHouse]:
    """Not yet started."""
    made: list[House] = []

    def make(**arguments: Any) -> House:
        made.append(House(**arguments))
        return made[-1]

    yield make
    for house in made:
        house.stop()
        assert house.deaths.empty()


@pytest.fixture
def house(make_house: MakeHouse) -> House:
    """Started, with one node on one host."""
    return make_house().start()
