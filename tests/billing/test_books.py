# SPDX-License-Identifier: Apache-2.0
"""Books under load, on a real broker: queues that lose everything, and consumers that start late."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from oslo_config import cfg

from tests.billing.conftest import note
from tests.invariants.collect import Log, RecordingClient
from tests.invariants.listening import Listener
from tests.invariants.record import Heard
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.deadline import wait_until
from tests.support.traffic import Scheduler
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.billing import Books
from tracker_worker.client import TrackerClient
from tracker_worker.conf.opts import register_messaging_opts

HOSTS = {"h1": {"n1": NODE, "n2": NODE}, "h2": {"n3": NODE}}
PLACES = [(host, node) for host, nodes in HOSTS.items() for node in nodes]
CONTEXT = {"user_id": "billing"}
OTHERS = "others"
QUEUE = "notifications.info"
_SCHEDULERS = 6
_LOST = 10_000
_STARTS = 100
_SOME = 500
_BEGIN, _FOREVER = "2020-01-01", "2100-01-01"


class Cloud:
    """A worker with a listener that hears everything, and schedulers that never rest while ``load`` runs."""

    def __init__(self, directory: Path, url: str, stack: ExitStack) -> None:
        self.url = url
        self.database = directory / "tracker.sqlite"
        self.listening = self.listener(OTHERS, stack)
        self.worker = WorkerProcess(
            directory,
            transport_url=url,
            hosts=HOSTS,
            options={
                "database": {"connection": f"sqlite:///{self.database}"},
                "notifications": {"topics": f"notifications, {OTHERS}", "usage_audit_period": "10s"},
            },
        )
        stack.callback(self.worker.close)
        self.worker.start()
        self.worker.wait_ready()
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        register_messaging_opts(conf)
        conf.set_override("transport_url", url)
        self.api = stack.enter_context(TrackerClient(conf))

    def listener(self, topic: str, stack: ExitStack) -> Listener:
        listening = Listener(self.url, topic=topic)
        listening.start()
        stack.callback(listening.stop)
        return listening

    @contextmanager
    def load(self) -> Iterator[None]:
        ended = threading.Event()

        def work(number: int) -> None:
            with stock.client(self.url) as client:
                recording = RecordingClient(client, Log())
                scheduler = Scheduler(recording, name=f"s{number}", seed=number, places=PLACES, shared_topic=False)
                while not ended.is_set():
                    scheduler.step()

        threads = [threading.Thread(target=work, args=[number]) for number in range(_SCHEDULERS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            ended.set()
            for thread in threads:
                thread.join()

    def settle(self) -> None:
        """Wait until everything has arrived that the nodes have said."""
        views = [view for host in HOSTS for view in self.api.list_nodes(CONTEXT, host)]

        def arrived() -> bool:
            numbers = {one.place: one.sequence for one in self.listening.heard}
            return all(numbers.get((view["host"], view["node"]), 0) >= view["sequence"] for view in views)

        wait_until(arrived, "every notification", seconds=60)

    def forget(self) -> None:
        """As time would: the outbox keeps nothing that was published."""
        with closing(sqlite3.connect(self.database, timeout=30)) as database, database:
            database.execute(
                "DELETE FROM outbox WHERE sequence < (SELECT MIN(sequence) FROM relay_cursor"
                " WHERE relay_cursor.stream_id = outbox.stream_id)"
            )


def messages(heard: Sequence[Heard]) -> list[dict[str, Any]]:
    return [{"message_id": one.message_id, "event_type": one.event_type, "payload": dict(one.payload)} for one in heard]


def books(heard: Sequence[Heard]) -> Books:
    made = Books({})
    made.hear_all(messages(heard))
    return made


@pytest.fixture
def cloud(tmp_path: Path, rabbitmq: RabbitMQServer) -> Iterator[Cloud]:
    rabbitmq.ensure_running()
    with ExitStack() as stack:
        yield Cloud(tmp_path, rabbitmq.virtual_host_url(), stack)


@pytest.mark.timeout(600)
def test_what_a_purged_queue_has_lost_comes_back_and_nobody_else_hears_it_twice(cloud: Cloud) -> None:
    with ExitStack() as stack:
        broker = stack.enter_context(raw.connect(cloud.url))
        listening = cloud.listener("notifications", stack)
        wait_until(lambda: listening.heard, "the first notifications")
        listening.pause()
        mine = Books({})
        with cloud.load():
            wait_until(lambda: broker.count(QUEUE) >= _LOST, "a full queue", seconds=300)
            lost = broker.channel.queue_purge(QUEUE)
            mine.hear_all(messages(listening.heard))
            before = len(listening.heard)
            listening.resume()
            wait_until(lambda: len(listening.heard) > before + _SOME, "what comes after the purge", seconds=60)
            mine.hear_all(messages(listening.heard))
            missing = sum(last - first + 1 for ranges in mine.missing().values() for first, last in ranges)
            assert lost >= _LOST
            assert missing == lost
            assert mine.catch_up(cloud.api, CONTEXT) == {}
        cloud.settle()
        mine.catch_up(cloud.api, CONTEXT)

    others = cloud.listening.heard
    whole = books(others)
    assert (mine.missing(), whole.missing()) == ({}, {})
    assert mine.usage(_BEGIN, _FOREVER) == whole.usage(_BEGIN, _FOREVER)
    assert len(others) == len({(one.place, one.sequence) for one in others})
    note(
        f"{lost} messages purged under load: all are in the books again, and none of {len(others)} was heard twice elsewhere"
    )


@pytest.mark.timeout(900)
def test_a_consumer_that_starts_late_under_load_equals_the_ledger_from_then_on(cloud: Cloud) -> None:
    late: list[tuple[Books, int, int]] = []
    with cloud.load():
        wait_until(lambda: len(cloud.listening.heard) > _SOME, "a cloud with instances", seconds=60)
        for _ in range(_STARTS):
            cloud.forget()
            begin = len(cloud.listening.heard)
            mine = Books({})
            mine.catch_up(cloud.api, CONTEXT, PLACES)
            late.append((mine, begin, int(time.time()) + 1))
    end = int(time.time()) + 2
    cloud.settle()
    heard = cloud.listening.heard
    whole = books(heard)
    assert whole.missing() == {}
    for number, (mine, begin, since) in enumerate(late):
        mine.hear_all(messages(heard[begin:]))
        assert mine.missing() == {}, number
        assert _amounts(mine, since, end) == _amounts(whole, since, end), number
    note(f"{len(late)} late starts under load, equal from their start on; {len(heard)} notifications in all")


def _amounts(mine: Books, since: int, until: int) -> dict[tuple[str, str], dict[str, int]]:
    usage = mine.usage(_text(since), _text(until))
    return {
        (project, uuid): {name: amount for name, amount in instance["resource_seconds"].items() if amount}
        for project, owed in usage.items()
        for uuid, instance in owed["instances"].items()
    }


def _text(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
