# SPDX-License-Identifier: Apache-2.0
"""Harnesses that are stopped after their test, with short delays before retries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.support.builders import HOST, driver_resource_dict, node_name
from tests.support.engine import EngineHarness
from tests.support.relay import Case
from tests.support.worker import WorkerHarness
from tracker_worker.conf import register_opts
from tracker_worker.inventory import base
from tracker_worker.inventory.fake import FakeDriver
from tracker_worker.service.chores import pause, relay, track
from tracker_worker.service.loop import backlog

MakeHarness = Callable[..., EngineHarness]
MakeWorker = Callable[..., WorkerHarness]


class DeadlineClock:
    """The monotonic clock for callers' deadlines, in seconds. It keeps running, and ``forward`` moves it ahead."""

    def __init__(self) -> None:
        self._ahead = 0.0

    @property
    def now(self) -> float:
        return self()

    def __call__(self) -> float:
        return time.monotonic() + self._ahead

    def forward(self, seconds: float) -> None:
        self._ahead += seconds


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make retries immediate."""
    monkeypatch.setattr(backlog, "_FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(backlog, "_LONGEST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(relay, "_FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(pause, "_LONGEST_SECONDS", 0.01)


@pytest.fixture
def deadline_clock() -> DeadlineClock:
    """The clock of ``harness``."""
    return DeadlineClock()


@pytest.fixture
def make_harness() -> Iterator[MakeHarness]:
    """Makes harnesses that are not started."""
    made: list[EngineHarness] = []

    def make(**arguments: Any) -> EngineHarness:
        made.append(EngineHarness(**arguments))
        return made[-1]

    yield make
    for harness in made:
        harness.stop()
        assert harness.deaths.empty()


@pytest.fixture
def harness(make_harness: MakeHarness, deadline_clock: DeadlineClock) -> EngineHarness:
    """A started harness with one node on one host."""
    return make_harness(monotonic=deadline_clock).start()


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    path = tmp_path / "tracker.conf"
    path.write_text(f"[tracker]\nhosts = {HOST}\ninventory_driver = fake\n")
    return path


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDriver]:
    """The drivers by host, as workers have loaded them."""
    loaded: dict[str, FakeDriver] = {}

    def load(name: str, host: str, conf: cfg.ConfigOpts) -> Any:
        if name != "fake":
            return real(name, host, conf)
        return loaded.setdefault(host, FakeDriver(host, conf, nodes={node_name(1): driver_resource_dict()}))

    real = base.load_driver
    monkeypatch.setattr(base, "load_driver", load)
    return loaded


@pytest.fixture
def make_worker(configuration: Path, drivers: dict[str, FakeDriver]) -> Iterator[MakeWorker]:
    """Makes workers that are not started. ``listen``: the option of [health]; other arguments are ``Worker``'s."""
    made: list[WorkerHarness] = []

    def make_case(listen: str = "", **arguments: Any) -> WorkerHarness:
        conf = cfg.ConfigOpts()
        register_opts(conf)
        conf([f"--config-file={configuration}"], default_config_dirs=[])
        conf.set_override("listen", listen, group="health")
        made.append(WorkerHarness(conf, drivers, **arguments))
        return made[-1]

    yield make_case
    for worker_harness in made:
        worker_harness.worker.stop()
        assert worker_harness.deaths.empty()


@pytest.fixture
def worker_harness(make_worker: MakeWorker) -> WorkerHarness:
    """A harness of a worker that is not started."""
    return make_worker()


@pytest.fixture
def started_worker(worker_harness: WorkerHarness) -> WorkerHarness:
    worker_harness.worker.start()
    return worker_harness


@pytest.fixture
def case() -> Case:
    return Case().taken()


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(track, "WINDOW", 4)
    monkeypatch.setattr(track, "SHARE", 4)
    return 4
