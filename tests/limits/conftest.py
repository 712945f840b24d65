# SPDX-License-Identifier: Apache-2.0
"""One worker of two hosts with a gigabyte of memory, and the figures that a run has measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers import RabbitMQServer
from tests.support.callers import Callers, connected
from tests.support.migrated import migrated
from tests.support.pinger import Asked, Pinger, slowest
from tests.support.worker_process import NODE, Nodes, WorkerProcess

HOST, OTHER = "h1", "h2"
HOSTS: dict[str, Nodes] = {HOST: {"n1": NODE}, OTHER: {"n2": NODE}}
TOPIC = f"tracker.{HOST}"
GIGABYTE = 1 << 30
# On a machine that is busy with other work, a limit on time says nothing about the worker.
SLOWEST_SECONDS = float(os.environ.get("LIMITS_SECONDS", "1"))

_figures: list[str] = []


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _figures:
        terminalreporter.section("limits")
        for line in _figures:
            terminalreporter.line(line)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The worker under test, ready, and the broker that it is connected to. ``name`` stands before its figures."""

    name: str
    rabbitmq: RabbitMQServer
    url: str
    worker: WorkerProcess

    def note(self, what: str) -> None:
        """Add a figure to the summary of the run."""
        _figures.append(f"{self.name}: {what}")

    @contextmanager
    def callers(self) -> Iterator[Callers]:
        with connected(self.url) as callers:
            yield callers

    @contextmanager
    def served(self) -> Iterator[None]:
        """Ask the other host all the while. Raises AssertionError at the end: an answer took too long, or was an error."""
        with closing(Pinger(self.url, OTHER)) as pinger:
            yield
            asked = pinger.stop()
        self.note(f"peak memory {self.worker.peak_memory() / (1 << 20):.0f} MiB")
        self._judge(asked)

    def _judge(self, asked: list[Asked]) -> None:
        worst = slowest(asked)
        self.note(f"slowest of {len(asked)} answers of the other host {worst.seconds:.2f} s ({worst.method})")
        assert [one for one in asked if one.failure is not None] == []
        assert worst.seconds <= SLOWEST_SECONDS

    def survived(self) -> None:
        """Assert that the worker runs and has needed at most a gigabyte."""
        assert self.worker.is_alive()
        assert self.worker.peak_memory() <= GIGABYTE
        assert "MemoryError" not in self.worker.log()
        assert self.worker.terminate() == 0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database for the worker. A test that needs one store alone has a parameter of this name."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tracker.sqlite'}"
    return migrated(request.getfixturevalue("postgresql_url"))


MakeStage = Callable[..., Stage]


@pytest.fixture
def make_stage(
    request: pytest.FixtureRequest, tmp_path: Path, rabbitmq: RabbitMQServer, broker_vhost: str, store: str
) -> Iterator[MakeStage]:
    """Starts the worker, whose ``options`` override the defaults, and limits its memory when it is ready."""
    with ExitStack() as stack:

        def make(*, url: str = broker_vhost, **options: dict[str, Any]) -> Stage:
            worker = WorkerProcess(
                tmp_path,
                transport_url=url,
                hosts=HOSTS,
                options={**options, "database": {"connection": store}},
            )
            stack.callback(worker.close)
            worker.start()
            worker.limit_memory(GIGABYTE)
            worker.wait_ready()
            return Stage(name=request.node.name, rabbitmq=rabbitmq, url=broker_vhost, worker=worker)

        yield make
