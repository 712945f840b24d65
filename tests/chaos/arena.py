# SPDX-License-Identifier: Apache-2.0
"""The target of a chaos run: servers, two workers for the same hosts, and clients in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.chaos.administrator import MOVES, Administrator
from tests.invariants.collect import Log, RecordingClient, evidence, opened, wait_relayed
from tests.invariants.listening import TOPIC, Listener, listener
from tests.invariants.record import RESULT, Evidence, Place, Request, read_lines
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.network import Network
from tests.support import stock
from tests.support.deadline import wait_until
from tests.support.faulty import FaultyWorker
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, Nodes

# Faults delete the queue of this host with its messages, so casts to it would be lost.
FRAGILE = "h3"
_FIXED: dict[str, Nodes] = {
    "h1": {"n1": NODE, "n2": NODE},
    "h2": {"n3": NODE, "tight": NODE, "spare": NODE},
    FRAGILE: {"n4": NODE},
}
# An operator gives one node other names, and another one other hosts.
_NAMES = ("r1", "r2", "r3")
ROAMING = "m1"
_RENAMED, _MOVED = ("h1", _NAMES), (ROAMING, ("h1", "h2"))
HOSTS: dict[str, Nodes] = {**_FIXED, "h1": {**_FIXED["h1"], _NAMES[0]: NODE, ROAMING: NODE}}
MOVING = [("h1", _NAMES[0]), ("h1", ROAMING)]
# Only what nobody claims can be retired.
RETIRED = ("h2", "spare")
PLACES: list[Place] = [(host, node) for host, nodes in HOSTS.items() for node in nodes if (host, node) != RETIRED]
DRAINED = [("h1", "n2"), ("h2", "n3")]
TIGHT = [("h2", "tight")]
CALLS_ONLY = [FRAGILE]
# The second topic of the notifications: faults let its queues refuse them.
SLOW = "slow"

_ROOT = Path(__file__).parents[2]
_CLIENT_PROCESSES = 2
_OPTIONS: dict[str, dict[str, Any]] = {
    "tracker": {"audit_interval_seconds": 5, "claim_timeout_seconds": 30},
    "notifications": {"topics": f"{TOPIC}, {SLOW}"},
    # Queues are durable because the broker is restarted. The heartbeat decides how long a stalled worker stays the active one.
    "oslo_messaging_rabbit": {"amqp_durable_queues": True, "heartbeat_timeout_threshold": 5},
}


class Arena:
    """The servers, workers and clients of one run. ``store`` is sqlite or postgresql.

    ``billing`` and ``slow`` hear the notifications of the two topics. ``stop`` ends everything that was started, at any time.
    """

    billing: Listener
    slow: Listener
    administrator: Administrator

    def __init__(self, directory: Path, store: str, seed: int, network: Network) -> None:
        self.directory = directory
        self.store = store
        self.seed = seed
        self.network = network
        self.rabbitmq = RabbitMQServer()
        self.postgresql = PostgreSQLServer() if store == "postgresql" else None
        self.workers: list[FaultyWorker] = []
        self.sqlite = directory / "tracker.sqlite"
        self.database_url = f"sqlite:///{self.sqlite}"
        self.transport_url = ""
        self._clients: list[subprocess.Popen[bytes]] = []
        self._answers = _Answers(directory)
        self._stack = ExitStack()

    @property
    def virtual_host(self) -> str:
        return self.transport_url.rpartition("/")[2]

    def start(self) -> None:
        self._stack.callback(self.rabbitmq.close)
        self.rabbitmq.open()
        self.transport_url = self.rabbitmq.virtual_host_url()
        if self.postgresql is not None:
            self._stack.callback(self.postgresql.close)
            self.postgresql.open()
            self.database_url = migrated(self.postgresql.create_database())
        self._stack.callback(self.network.close)
        port = self.network.port(self.rabbitmq.port)
        for name in ("a", "b"):
            worker = FaultyWorker(
                self.directory,
                transport_url=self.transport_url.replace(f":{self.rabbitmq.port}/", f":{port}/"),
                hosts=HOSTS,
                options={**_OPTIONS, "database": {"connection": self.database_url}},
                name=f"worker-{name}",
            )
            self._stack.callback(worker.close)
            self.workers.append(worker)
            worker.start()
            worker.wait_ready()
        self.billing = self._stack.enter_context(listener(self.transport_url, durable=True))
        self.slow = self._stack.enter_context(listener(self.transport_url, durable=True, topic=SLOW))
        self.administrator = Administrator(
            self.directory,
            self.workers,
            seed=self.seed,
            fixed=_FIXED,
            renamed=_RENAMED,
            moved=_MOVED,
            drained=DRAINED,
            retired=RETIRED,
        )
        for number in range(_CLIENT_PROCESSES):
            self._start_client(number)
        self._stack.callback(self.administrator.stop)
        self.administrator.start()

    def _start_client(self, number: int) -> None:
        name = f"c{number}"
        with (self.directory / f"{name}.err").open("wb") as errors:
            client = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.chaos.load", "--url", self.transport_url, "--name", name),
                    *("--log", str(self.directory / f"{name}.jsonl"), "--seed", str(self.seed)),
                    *("--moves", str(self.directory / MOVES)),
                ],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
            )
        self._stack.callback(client.wait)
        self._stack.callback(client.kill)
        self._clients.append(client)

    def heal(self) -> None:
        """Assert that both workers run. Raises AssertionError: a worker has ended by itself."""
        for worker in self.workers:
            assert worker.is_alive(), f"{worker.log_path} tells of an end that nobody asked for"

    def drain(self) -> Evidence:
        """End the load, wait until all requests are processed, and stop the workers."""
        self.administrator.stop()
        for client in self._clients:
            assert client.stdin is not None
            client.stdin.close()
        for client in self._clients:
            assert client.wait(300) == 0, f"a client failed; see {self.directory}/*.err"
        log = Log()
        with stock.client(self.transport_url, at_least_once=True, amqp_durable_queues=True) as last:
            for host in HOSTS:
                assert RecordingClient(last, log).insist(host, "list_nodes").outcome == RESULT
            # The shared topic has a queue of its own.
            assert RecordingClient(last, log).insist(None, "list_nodes").outcome == RESULT
        wait_relayed(self.database_url, self.billing, **{SLOW: self.slow})
        for worker in self.workers:
            assert worker.terminate() == 0
        return evidence(
            requests=[*self.requests(), *log.requests],
            listening=self.billing,
            transport_url=self.transport_url,
            database_url=self.database_url,
            others={SLOW: self.slow},
        )

    def requests(self) -> list[Request]:
        """The recorded requests of the clients so far."""
        logs = sorted(self.directory.glob("*.jsonl"))
        return [request for log in logs for request in read_lines(log, Request)]

    def wait_answered(self) -> None:
        """Wait until every host has answered a call that ended after this moment."""
        began_at = time.monotonic()

        def unanswered() -> list[str]:
            self._answers.read()
            return [host for host in HOSTS if self._answers.latest.get(host, 0.0) < began_at]

        wait_until(lambda: not unanswered(), lambda: f"an answer for {unanswered()} again", seconds=90)

    def wait_billed(self, seconds: float) -> None:
        """Wait until billing has heard of everything that was decided before this moment.

        Raises AssertionError: not within ``seconds``.
        """
        with opened(self.database_url) as store:
            decided = {(one.host, one.node): one.sequence for one in store.backlog()}

        def lacks() -> list[str]:
            heard = {(one.place, one.sequence) for one in self.billing.heard}
            missing = {
                place: [number for number in range(1, last + 1) if (place, number) not in heard]
                for place, last in decided.items()
            }
            return [f"{len(numbers)} of {place[0]}/{place[1]}" for place, numbers in missing.items() if numbers]

        wait_until(lambda: not lacks(), lambda: f"billing hears of everything; it lacks {lacks()}", seconds=seconds)

    def stop(self) -> None:
        self._stack.close()


class _Answers:
    """The time of each host's latest answer to a call, read from the growing logs of the clients."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._offsets: dict[Path, int] = {}
        self.latest: dict[str, float] = {}

    def read(self) -> None:
        for path in self._directory.glob("*.jsonl"):
            with path.open("rb") as log:
                log.seek(self._offsets.get(path, 0))
                whole, _, _ = log.read().rpartition(b"\n")
            if whole:
                self._offsets[path] = self._offsets.get(path, 0) + len(whole) + 1
            for one in whole.splitlines():
                told = json.loads(one)
                if told["call"] and told["outcome"] == RESULT and told["host"] is not None:
                    self.latest[told["host"]] = max(told["ended_at"], self.latest.get(told["host"], 0.0))
