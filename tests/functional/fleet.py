# SPDX-License-Identifier: Apache-2.0
"""The hosts of ``tests.model.scheduling`` as processes: two workers with a database each, which are killed now and then."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.invariants.stored import opened
from tests.model.moving import charges
from tests.model.scheduling import HOSTS, NODES, Cloud
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.client.pipelined import PipelinedTransport

_CONTEXT = {"project_id": "p1", "user_id": "u1"}


class Fleet(Cloud):
    """``kills``: how many workers were killed while they were asked."""

    def __init__(
        self, random: Random, directory: Path, transport_url: str, client: PipelinedTransport, *, killed: float
    ) -> None:
        """``killed``: in which part of the calls the worker is killed."""
        super().__init__(random)
        self.kills = 0
        self._client = client
        self._killed = killed
        self._late: list[tuple[str, str, dict[str, Any]]] = []
        served = {"first": HOSTS[:-1], "second": HOSTS[-1:]}
        self._workers = {
            name: _made(directory / name, transport_url, hosts, self.urls(directory)[name])
            for name, hosts in served.items()
        }
        self._worker_of = {host: self._workers[name] for name, hosts in served.items() for host in hosts}
        self._urls = {host: self.urls(directory)[name] for name, hosts in served.items() for host in hosts}

    @staticmethod
    def urls(directory: Path) -> dict[str, str]:
        """The databases of the workers."""
        return {name: f"sqlite:///{directory / name / 'tracker.sqlite'}" for name in ("first", "second")}

    def start(self) -> None:
        for worker in self._workers.values():
            worker.start()
        for worker in self._workers.values():
            worker.wait_ready()

    def close(self) -> None:
        for worker in self._workers.values():
            worker.close()

    def call(self, host: str, method: str, **args: Any) -> Any:
        asked: Future[Any]
        (asked,) = self._client.send_many(_CONTEXT, host, method, [args])
        if self.random.random() < self._killed:
            worker = self._worker_of[host]
            worker.kill()
            worker.start()
            self.kills += 1
        return asked.result()

    def repeat_later(self, host: str, method: str, args: dict[str, Any]) -> None:
        self._late.append((host, method, args))

    def pass_time(self, seconds: int) -> None:
        """Time passes by itself; some of what is late arrives, and is waited for, but not judged."""
        self.random.shuffle(self._late)
        while self._late and self.random.random() < 0.4:
            host, method, args = self._late.pop()
            (asked,) = self._client.send_many(_CONTEXT, host, method, [args])
            asked.exception()

    def charges(self, uuid: str) -> list[tuple[str, str, str]]:
        found = []
        for url in sorted(set(self._urls.values())):
            with opened(url) as store:
                found += charges({host: store for host, its in self._urls.items() if its == url}, uuid)
        return found


def _made(directory: Path, transport_url: str, hosts: tuple[str, ...], database_url: str) -> WorkerProcess:
    directory.mkdir()
    return WorkerProcess(
        directory,
        transport_url=transport_url,
        hosts={host: dict.fromkeys(NODES, NODE) for host in hosts},
        options={"database": {"connection": database_url}},
    )
