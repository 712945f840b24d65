# SPDX-License-Identifier: Apache-2.0
"""A worker that has published every event type, and what the broker says of the queue of a consumer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.billing.scene import HOST, NODES, Scene
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.deadline import wait_until
from tests.support.fleet import Fleet
from tests.support.worker_process import WorkerProcess
from tracker_worker.notifications import schema

RABBIT: Mapping[str, Mapping[str, Any]] = {
    "classic": {},
    "durable": {"amqp_durable_queues": True},
    "quorum": {"rabbit_quorum_queue": True},
}
"""Kind of the notification queues -> options of the worker and of every listener."""
TOPIC = "notifications"
# A second copy of everything, which the tests read themselves.
_COPIES = "copies"
_PERIOD_SECONDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How often the broker has handed over messages of one queue, and what came of it."""

    delivered: int
    redelivered: int
    acknowledged: int


class Stage:
    """A broker's virtual host with a worker of every event type. Not thread-safe."""

    def __init__(self, directory: Path, server: RabbitMQServer, kind: str, more: Mapping[str, Any]) -> None:
        self.rabbit = RABBIT[kind]
        self.url = server.virtual_host_url()
        self._server = server
        self._directory = directory
        directory.mkdir()
        fleet = Fleet(directory)
        fleet.answer(NODES)
        periods = {"usage_audit_period": f"{_PERIOD_SECONDS}s"}
        options = {
            "DEFAULT": {"region": "region-1"},
            "tracker": {"inventory_driver": "fleet", "audit_interval_seconds": 3600},
            "bus": {"queue_type": "classic" if kind == "classic" else "quorum"},
            "notifications": {"topics": f"{TOPIC}, {_COPIES}", **periods, **more},
            "oslo_messaging_rabbit": {"rabbit_interval_max": 1, **self.rabbit},
        }
        self._worker = WorkerProcess(
            directory, transport_url=self.url, hosts={HOST: {}}, options=options, environment=fleet.environment
        )

    def start(self) -> None:
        self._worker.start()
        self._worker.wait_ready()

    def play(self) -> list[dict[str, Any]]:
        """Have the worker publish everything, stop it, and return what was published to each topic, decoded and in order."""
        told: list[dict[str, Any]] = []
        with stock.client(self.url, **self.rabbit) as client, raw.connect(self.url) as connection:

            def complete() -> bool:
                told.extend(self._copies(connection))
                return not lacking(told)

            Scene(client).play()
            wait_until(complete, lambda: f"the worker publishes {lacking(told)}")
            assert self._worker.terminate() == 0
            told.extend(self._copies(connection))
        assert not lacking(told)
        return told

    def close(self) -> None:
        self._worker.close()

    def waits_for_consumer(self, queue: str) -> None:
        with raw.connect(self.url) as connection:
            wait_until(
                lambda: connection.channel.queue_declare(queue, passive=True).consumer_count, f"{queue} has a consumer"
            )

    def left(self, queue: str) -> int:
        """The messages in a queue that has no consumer any more."""
        with raw.connect(self.url) as connection:
            return connection.count(queue)

    def counts(self, queue: str, acknowledged: int) -> Counts:
        """What the broker counts of a queue whose consumer is connected, once so many messages are acknowledged; see
        ``counting``."""
        found: list[Counts] = []

        def done() -> bool:
            found.append(self._counts(queue))
            return found[-1].acknowledged >= acknowledged

        wait_until(done, lambda: f"{acknowledged} messages are acknowledged; {found[-1]}")
        return found[-1]

    def _counts(self, queue: str) -> Counts:
        name = self.url.rpartition("/")[2]
        found = self._server.ctl(
            "eval",
            f'Row = [{{D, R, A}} || {{{{_, {{resource, <<"{name}">>, queue, <<"{queue}">>}}}}, _, _, D, _, R, A, _, _}} '
            "<- ets:tab2list(channel_queue_metrics)], "
            'lists:foreach(fun({D, R, A}) -> io:format("~p ~p ~p~n", [D, R, A]) end, Row).',
        )
        rows = [[int(number) for number in line.split()] for line in found.splitlines() if line[:1].isdigit()]
        delivered, redelivered, acknowledged = (sum(column) for column in zip(*rows, strict=True))
        return Counts(delivered=delivered, redelivered=redelivered, acknowledged=acknowledged)

    def bodies(self, queue: str) -> list[bytes]:
        """Take all messages of a queue, whose publisher has stopped."""
        with raw.connect(self.url) as connection:
            return [bytes(connection.take(queue).body) for _ in range(connection.count(queue))]

    def _copies(self, connection: raw.RawConnection) -> Iterator[dict[str, Any]]:
        for _ in range(connection.count(f"{_COPIES}.info")):
            yield raw.unpacked(connection.take(f"{_COPIES}.info").body)
        assert connection.count(f"{_COPIES}.warn") == 0


@contextmanager
def counting(server: RabbitMQServer) -> Iterator[None]:
    """Have the broker count for the channels that are opened meanwhile."""
    server.ctl("eval", "application:set_env(rabbit, collect_statistics, fine).")
    try:
        yield
    finally:
        server.ctl("eval", "application:set_env(rabbit, collect_statistics, none).")


def lacking(told: Sequence[Mapping[str, Any]]) -> set[str]:
    """The event types of which there is no notification."""
    return schema.event_types() - {message["event_type"] for message in told}
