# SPDX-License-Identifier: Apache-2.0
"""Stages and agents that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.billing.agent import Agent
from tests.billing.stage import Stage, counting
from tests.servers import RabbitMQServer

MakeStage = Callable[..., Stage]
MakeAgent = Callable[..., Agent]

_figures: list[str] = []


def note(what: str) -> None:
    """Add a figure to the summary of the run."""
    _figures.append(what)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _figures:
        terminalreporter.section("billing")
        for line in _figures:
            terminalreporter.line(line)


@pytest.fixture(scope="module")
def make_stage(rabbitmq: RabbitMQServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeStage]:
    """Starts a worker with this kind of notification queues; ``more`` are options of [notifications]."""
    rabbitmq.ensure_running()
    with ExitStack() as stack:
        stack.enter_context(counting(rabbitmq))

        def make(kind: str, **more: Any) -> Stage:
            stage = Stage(tmp_path_factory.mktemp("stage") / "worker", rabbitmq, kind, more)
            stack.callback(stage.close)
            stage.start()
            return stage

        yield make


@pytest.fixture(scope="module")
def make_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeAgent]:
    """Starts Ceilometer's agent on a topic of a stage, with ``Agent``'s other arguments."""
    with ExitStack() as stack:

        def make(stage: Stage, topic: str, **arguments: Any) -> Agent:
            agent = Agent(
                tmp_path_factory.mktemp("agent") / "ceilometer",
                transport_url=stage.url,
                topic=topic,
                rabbit=stage.rabbit,
                **arguments,
            )
            stack.callback(agent.close)
            agent.start()
            stage.waits_for_consumer(f"{topic}.info")
            return agent

        yield make
