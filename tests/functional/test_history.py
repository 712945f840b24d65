# SPDX-License-Identifier: Apache-2.0
"""A database that goes back under a running worker: the worker says what is lost, and goes on in a new history; a database file
that is deleted or replaced ends it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import oslo_messaging
import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import PostgreSQLServer
from tests.support import stock
from tests.support.builders import instance_dict, sized, uuid
from tests.support.deadline import wait_until
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, WorkerProcess
from tracker_worker.store.base import History
from tracker_worker.store.sql.store import SQLStore

N1 = "n1"
HOSTS = {HOST: {N1: NODE}, "h2": {"n2": NODE}}
LOST = 30


def described(number: int) -> dict[str, Any]:
    return instance_dict(number, **sized(memory_mb=1))


class Load:
    """Claims that are begun one after the other. ``told``: uuid -> when its answer came (monotonic clock)."""

    def __init__(self, client: stock.Client, host: str, first: int) -> None:
        self._client = client
        self._host = host
        self._next = first
        self._stopping = False
        self.told: dict[str, float] = {}

    def __call__(self) -> None:
        while not self._stopping:
            instance = described(self._next)
            self._next += 1
            if self._client.call(self._host, "begin_resource_claim", instance=instance) is not None:
                self.told[instance["uuid"]] = time.monotonic()

    def stop(self) -> None:
        self._stopping = True

    def wait(self, more: int) -> None:
        """Wait until so many more claims are told."""
        wanted = len(self.told) + more
        wait_until(lambda: len(self.told) >= wanted, f"{more} more claims of {self._host}")


@contextmanager
def loads(client: stock.Client) -> Iterator[Sequence[Load]]:
    """A load for each host. Every call of it must be answered."""
    made = [Load(client, host, 10_000 * number) for number, host in enumerate(HOSTS)]
    threads = [threading.Thread(target=load) for load in made]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        for load in made:
            load.stop()
        for thread in threads:
            thread.join()


class Bill:
    """What a consumer makes of a node's events, as doc/user/notifications.md says: a number counts once per ledger_id, and
    what was heard beyond ``previous_sequence`` never happened."""

    def __init__(self, heard: Sequence[stock.Heard]) -> None:
        self.ledgers: dict[str, dict[int, stock.Heard]] = {}
        self.previous: dict[str, tuple[str, int]] = {}
        for one in heard:
            payload = one.payload
            known = self.ledgers.setdefault(payload["ledger_id"], {}).setdefault(one.sequence, one)
            assert known.message_id == one.message_id, "a number is used twice in a ledger"
            if "previous_ledger_id" in payload:
                self.previous[payload["ledger_id"]] = payload["previous_ledger_id"], payload["previous_sequence"]

    def charged(self, ledger_id: str) -> set[str]:
        """The instances that are charged at the end of a ledger, by its events and those of its predecessors."""
        events = self.events(ledger_id)
        assert sorted(events) == list(range(1, len(events) + 1))
        begun = [one for _, one in sorted(events.items()) if one.event_type == "tracker.claim.begun"]
        return {one.payload["instance_id"] for one in begun}

    def events(self, ledger_id: str) -> dict[int, stock.Heard]:
        """Sequence -> event, of a ledger with what its predecessors had before it."""
        events = dict(self.ledgers[ledger_id])
        if ledger_id in self.previous:
            before, last = self.previous[ledger_id]
            events |= {number: one for number, one in self.events(before).items() if number <= last}
        return events


def test_a_failover_of_postgresql_to_an_earlier_state_under_load(
    make_worker: MakeWorker,
    postgresql: PostgreSQLServer,
    postgresql_url: str,
    client: stock.Client,
    listener: stock.Listener,
) -> None:
    worker = make_worker(hosts=HOSTS, options={"database": {"connection": migrated(postgresql_url)}})
    worker.start()
    worker.wait_ready()
    with loads(client) as working:
        for load in working:
            load.wait(LOST)
        backup = postgresql.back_up()
        for load in working:
            load.wait(LOST)
        postgresql.fail_over(backup)
        failed_over = time.monotonic()
        worker.wait_for_log("commits are lost")
        for load in working:
            load.wait(2 * LOST)  # beyond the numbers that were heard already
    told = {uuid: at for load in working for uuid, at in load.told.items()}

    histories = histories_of(postgresql_url)
    assert len(histories) == 2
    old, new = (history.ledger_id for history in histories)
    (error,) = [line for line in worker.log().splitlines() if " ERROR " in line]
    assert all(text in error for text in (old, new, f"{HOST}/{N1} was at generation", "published up to event"))

    for host, nodes in HOSTS.items():
        (node,) = nodes
        view = client.call(host, "get_node", node=node)
        claims = {claim["instance_uuid"] for claim in client.call(host, "list_claims")}
        assert view["ledger_id"] == new
        listener_heard = wait_for_last(listener, host, node, view["sequence"], new)
        bill = Bill(listener_heard)
        assert set(bill.ledgers) == {old, new}
        first = bill.ledgers[new][min(bill.ledgers[new])]
        assert first.event_type == "tracker.node.updated"
        assert first.payload["previous_ledger_id"] == old
        assert first.payload["previous_sequence"] == first.sequence - 1
        assert len([number for number in bill.ledgers[old] if number >= first.sequence]) >= LOST - 2
        assert bill.charged(new) == claims
        of_host = {uuid: at for uuid, at in told.items() if uuid in dict.fromkeys(load_uuids(working, host))}
        lost = [at for uuid, at in of_host.items() if uuid not in claims]
        assert len(lost) >= LOST
        assert all(at < failed_over for at in lost), "a claim was told after the failover, and is not there"
    ids = [one.message_id for one in listener.heard()]
    payloads = {(one.message_id, repr(sorted(one.payload.items()))) for one in listener.heard()}
    assert len(payloads) == len(set(ids)), "a message_id is that of two events"


def histories_of(url: str) -> list[History]:
    store = SQLStore(url)
    try:
        return store.histories()
    finally:
        store.stop()


def test_two_workers_go_on_together_through_several_failovers(
    make_worker: MakeWorker,
    postgresql: PostgreSQLServer,
    postgresql_url: str,
    client: stock.Client,
    listener: stock.Listener,
) -> None:
    """One begins each history, the other follows."""
    database = {"connection": migrated(postgresql_url)}
    workers = [
        make_worker(hosts=HOSTS, options={"database": database, "tracker": {"hosts": host}}, name=host)
        for host in HOSTS
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait_ready()
    with loads(client) as working:
        for times in (1, 2, 3):
            backup = postgresql.back_up()
            for load in working:
                load.wait(10)
            postgresql.fail_over(backup)
            for worker in workers:
                worker.wait_for_log(" has ended", times=times)
            for load in working:
                load.wait(10)
    ids = [history.ledger_id for history in histories_of(postgresql_url)]
    assert len(ids) == 4
    for host, nodes in HOSTS.items():
        (node,) = nodes
        view = client.call(host, "get_node", node=node)
        assert view["ledger_id"] == ids[-1]
        bill = Bill(wait_for_last(listener, host, node, view["sequence"], ids[-1]))
        assert bill.charged(ids[-1]) == {claim["instance_uuid"] for claim in client.call(host, "list_claims")}
    errors = [line for worker in workers for line in worker.log().splitlines() if " ERROR " in line]
    assert len(errors) == 6
    assert sum("another worker or an operator has begun" in error for error in errors) == 3


def load_uuids(working: Sequence[Load], host: str) -> list[str]:
    return [uuid for load in working if load._host == host for uuid in load.told]


def wait_for_last(listener: stock.Listener, host: str, node: str, sequence: int, ledger_id: str) -> list[stock.Heard]:
    """Wait for the last event of a node, and return all of its events."""

    def heard() -> bool:
        return any(
            one.sequence == sequence and one.payload["ledger_id"] == ledger_id for one in listener.heard(host, node)
        )

    wait_until(heard, f"event {sequence} of {host}/{node}")
    return listener.heard(host, node)


def deleted(database: Path) -> None:
    for path in database.parent.glob(f"{database.name}*"):
        path.unlink()


def replaced(database: Path) -> None:
    copy = database.with_name("copy")
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.rename(database)


@pytest.mark.parametrize("lose", [deleted, replaced], ids=["deleted", "replaced"])
def test_a_worker_whose_database_file_is_gone_answers_nothing_more_and_ends(
    make_worker: MakeWorker, broker_vhost: str, lose: Callable[[Path], None]
) -> None:
    worker = make_worker(hosts={HOST: {N1: NODE}})
    worker.start()
    worker.wait_ready()
    with stock.client(broker_vhost, timeout=5) as client:
        assert client.call(HOST, "begin_resource_claim", instance=described(1))["instance_uuid"] == uuid(1)
        lose(worker.database)
        with pytest.raises(oslo_messaging.MessagingTimeout):
            client.call(HOST, "begin_resource_claim", instance=described(2))
    assert worker.wait() == 1
    assert str(worker.database) in worker.log().splitlines()[-1]


def test_a_worker_that_has_nothing_to_do_notices_that_its_file_is_gone(make_worker: MakeWorker) -> None:
    worker: WorkerProcess = make_worker(hosts={HOST: {N1: NODE}})
    worker.start()
    worker.wait_ready()
    deleted(worker.database)
    assert worker.wait() == 1
    assert str(worker.database) in worker.log().splitlines()[-1]
