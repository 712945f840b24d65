# SPDX-License-Identifier: Apache-2.0
"""A stock notification listener, without anything of this project, receives every event type once, with one thread in order."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.billing.agent import prefix
from tests.billing.conftest import MakeStage
from tests.billing.stage import RABBIT, TOPIC, Counts, Stage
from tests.support.deadline import wait_until

PROGRAM = Path(__file__).with_name("listen.py")
QUEUE = f"{TOPIC}.info"
_HEARD = ("message_id", "publisher_id", "event_type", "timestamp", "payload")


class Listener:
    """``listen.py`` in Ceilometer's environment, which has all that a stock listener needs."""

    def __init__(self, directory: Path, stage: Stage, threads: int) -> None:
        self._output = directory / "heard.json"
        self._log = directory / "listener.log"
        configuration = directory / "billing.conf"
        options = [f"{name} = {value}" for name, value in stage.rabbit.items()]
        lines = ["[DEFAULT]", f"transport_url = {stage.url}", "[oslo_messaging_rabbit]", *options, ""]
        configuration.write_text("\n".join(lines), encoding="utf-8")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [prefix() / "bin" / "python", PROGRAM, configuration, TOPIC, str(threads), self._output],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def heard(self) -> list[dict[str, Any]]:
        text = self._output.read_text(encoding="utf-8") if self._output.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, count: int) -> None:
        wait_until(
            lambda: len(self.heard()) >= count,
            lambda: f"{count} notifications; it says:\n{self._log.read_text(encoding='utf-8')}",
        )

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(30)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize("kind", RABBIT)
def test_every_notification_arrives_once(
    kind: str, threads: int, make_stage: MakeStage, closing: ExitStack, tmp_path: Path
) -> None:
    stage = make_stage(kind)
    listener = Listener(tmp_path, stage, threads)
    closing.callback(listener.close)
    stage.waits_for_consumer(QUEUE)

    published = stage.play()
    listener.wait_for(len(published))
    counts = stage.counts(QUEUE, len(published))
    assert listener.stop() == 0

    number = len(published)
    assert counts == Counts(delivered=number, redelivered=0, acknowledged=number)
    assert stage.left(QUEUE) == 0
    heard, sent = ([{name: one[name] for name in _HEARD} for one in many] for many in (listener.heard(), published))
    assert Counter(map(json.dumps, heard)) == Counter(map(json.dumps, sent))
    if threads == 1:
        assert by_node(heard) == by_node(sent)


def by_node(notifications: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The ids of the notifications of each node, in order. Between nodes, two topics may differ in it."""
    found: dict[str, list[str]] = {}
    for one in notifications:
        found.setdefault(one["payload"]["node"], []).append(one["message_id"])
    return found
