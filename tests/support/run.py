# SPDX-License-Identifier: Apache-2.0
"""Schedulers at work while a test causes a fault, and the proof that nothing was lost and nothing was done twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.invariants.check import proved
from tests.invariants.collect import Log, RecordingClient, evidence, wait_relayed
from tests.invariants.listening import Listener, listener
from tests.invariants.record import ERROR, RESULT, Heard, Request
from tests.support import stock
from tests.support.deadline import SECONDS, wait_until
from tests.support.traffic import Scheduler
from tests.support.worker_process import NODE, Nodes, WorkerProcess

TIGHT = "tight"
HOSTS: Mapping[str, Nodes] = {"h1": {"n1": NODE, "n2": NODE}, "h2": {"n3": NODE, TIGHT: NODE}}

# The [oslo_messaging_rabbit] options of all programs when a broker restarts: without them, the broker drops their queues.
DURABLE: Mapping[str, Any] = {"amqp_durable_queues": True}
# The shortest possible heartbeat: an outage of a few seconds is longer than the broker tolerates.
SHORT_HEARTBEAT: Mapping[str, Any] = {"heartbeat_timeout_threshold": 2}

_SCHEDULERS = 6
# The pause between two requests of a scheduler keeps the record of an outage of seconds short enough to judge quickly.
_PAUSE_SECONDS = 0.02


class SchedulerRun:
    """One broker, one store, one listener, and schedulers that work on every node of ``hosts``. Not thread-safe."""

    def __init__(
        self,
        *,
        client: stock.Client,
        listening: Listener,
        url: str,
        database_url: str,
        hosts: Mapping[str, Nodes],
        shared_topic: bool,
    ) -> None:
        self._listening = listening
        self._url = url
        self._database_url = database_url
        self._hosts = hosts
        self._places = [(host, node) for host, nodes in hosts.items() for node in nodes]
        self._log = Log()
        self.client = RecordingClient(client, self._log)
        self._schedulers = [
            Scheduler(
                self.client,
                name=f"s{number}",
                seed=number,
                places=self._places,
                tight=[place for place in self._places if place[1] == TIGHT],
                shared_topic=shared_topic,
            )
            for number in range(_SCHEDULERS)
        ]

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Run the schedulers while the body runs; on exit, wait until they have finished their current requests."""
        stopping = threading.Event()

        def work(scheduler: Scheduler) -> None:
            while not stopping.wait(_PAUSE_SECONDS):
                scheduler.step()

        with ThreadPoolExecutor(len(self._schedulers)) as pool:
            working = [pool.submit(work, scheduler) for scheduler in self._schedulers]
            try:
                self.wait_answers(20)
                yield
            finally:
                stopping.set()
                for one in working:
                    one.result(90)

    @property
    def heard(self) -> Sequence[Heard]:
        """Every notification so far."""
        return self._listening.heard

    @property
    def requests(self) -> Sequence[Request]:
        """Every request that was sent and has ended."""
        return self._log.requests

    @property
    def answered(self) -> int:
        """The number of calls that the worker has answered."""
        return sum(request.call and request.outcome in (RESULT, ERROR) for request in self._log.requests)

    @property
    def results(self) -> int:
        """The number of answered calls with a result: in a long outage, calls get the error that the store is unavailable."""
        return sum(request.call and request.outcome == RESULT for request in self._log.requests)

    def wait_answers(self, more: int, *, seconds: float = SECONDS) -> None:
        """Wait until ``more`` further calls have been answered."""
        before = self.answered
        wait_until(
            lambda: self.answered >= before + more,
            lambda: f"{more} more answers than {before}; there are {self.answered}",
            seconds=seconds,
        )

    def settle(self) -> None:
        """Wait until every sent request has been processed and every notification has arrived."""
        for host in self._hosts:
            self.client.insist(host, "list_nodes")
        wait_relayed(self._database_url, self._listening)

    def prove(self, *workers: WorkerProcess) -> None:
        """End the workers and judge all answers that clients received."""
        self.settle()
        for worker in workers:
            assert "Traceback" not in worker.log(), worker.log().partition("Traceback")[2][:4000]
            assert worker.terminate() == 0
        proved(
            evidence(
                requests=self._log.requests,
                listening=self._listening,
                transport_url=self._url,
                database_url=self._database_url,
            )
        )


@contextmanager
def scheduler_run(
    url: str,
    database_url: str,
    *,
    hosts: Mapping[str, Nodes] = HOSTS,
    rabbit: Mapping[str, Any] | None = None,
    timeout: float = 30,
    shared_topic: bool = True,
) -> Iterator[SchedulerRun]:
    """Run schedulers against ``url``.

    ``rabbit`` holds the [oslo_messaging_rabbit] options of clients and listener; ``timeout`` of their calls is in
    seconds. With ``shared_topic``, some calls go to the shared topic, which any worker serves, including a standby.
    """
    rabbit = rabbit or {}
    durable = bool(rabbit.get("amqp_durable_queues"))
    with listener(url, durable=durable) as listening, stock.client(url, timeout=timeout, **rabbit) as client:
        yield SchedulerRun(
            client=client,
            listening=listening,
            url=url,
            database_url=database_url,
            hosts=hosts,
            shared_topic=shared_topic,
        )


def connections(worker: WorkerProcess) -> int:
    """The number of this worker's connects to the broker since its start. Each connection of the worker counts separately."""
    return worker.log().count(": connected to ")
