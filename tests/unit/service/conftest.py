# SPDX-License-Identifier: Apache-2.0
"""Houses that are stopped with their test, and in which nothing waits for longer than it must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.service.support import House
from tracker_worker.service import engine, work

MakeHouse = Callable[..., House]


class WaitClock:
    """The monotonic clock by which callers' deadlines are judged, in seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def forward(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again is tried at once."""
    monkeypatch.setattr(engine, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(engine, "_LONGEST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(engine, "_FLUSH_SECONDS", 0.01)


@pytest.fixture
def wait_clock(monkeypatch: pytest.MonkeyPatch) -> WaitClock:
    """Stands still."""
    clock = WaitClock()
    monkeypatch.setattr(work, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


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
