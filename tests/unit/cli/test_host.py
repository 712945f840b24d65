# SPDX-License-Identifier: Apache-2.0
"""``host list``, ``rename`` and ``forget``: in the database, without a worker."""

from __future__ import annotations

import time

import pytest

from tests.support.builders import NOW, update, uuid
from tests.support.channels import SETTINGS
from tests.support.store import Writer, load, register, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.bus.amqp import topology
from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import LEASE_SECONDS
from tracker_worker.store.sql.store import SQLStore


def lease(store: SQLStore, host: str, owner: str = "worker-1") -> None:
    now = time.time_ns() // 1000
    store.take_lease([register(store, host)], owner, now=now, until=now + LEASE_SECONDS * SECOND)


def test_hosts_are_listed_with_who_serves_them(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    lease(store, "host-2")
    first, second = cli.json("host", "list")
    assert first == {
        "host": "host-1",
        "ledger_id": store.histories()[-1].ledger_id,
        "queue": "tracker.host-1",
        "active": None,
        "standbys": [],
        "lease_expires_at": "",
        "last_seen_at": "2026-01-15T12:00:00.000000Z",
        "release": "1.0",
        "nodes": 2,
        "instances": 3,
    }
    assert (second["host"], second["active"], second["nodes"], second["instances"]) == ("host-2", "worker-1", 0, 0)
    assert second["lease_expires_at"].endswith("Z")
    lines = [line.split() for line in cli.succeed("host", "list").splitlines()[2:]]
    assert lines[0] == ["host-1", "tracker.host-1", "-", "-", "-", "2026-01-15T12:00:00Z", "1.0", "2", "3"]
    assert lines[1][:3] == ["host-2", "tracker.host-2", "worker-1"]


def test_the_standbys_of_a_host_are_listed(cli: Cli, store: SQLStore) -> None:
    host, now = register(store, "host-1"), time.time_ns() // 1000
    for name in ("worker-2", "worker-3", "worker-1"):
        store.take_lease([host], name, now=now, until=now + LEASE_SECONDS * SECOND, serves=[host])
    (view,) = cli.json("host", "list")
    assert (view["active"], view["standbys"]) == ("worker-2", ["worker-1", "worker-3"])
    assert "worker-2 worker-1, worker-3" in " ".join(cli.succeed("host", "list").split())


def test_a_lease_that_is_over_names_no_worker(cli: Cli, store: SQLStore) -> None:
    store.take_lease([register(store)], "worker-1", now=NOW, until=NOW + SECOND)
    (host,) = cli.json("host", "list")
    assert host["active"] is None


def test_a_host_is_renamed(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    said = cli.succeed("host", "rename", "host-1", "host-9")
    assert said == (
        "Host host-1 is host host-9 now. Delete the queue tracker.host-1 when nothing is left in it, and the queue "
        "tracker_ledger.host-1.\n"
    )
    assert store.host_names() == ["host-9"]
    assert load(store, "host-9").holding(uuid(1)) is not None


def test_a_host_that_is_served_is_not_renamed(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    lease(store, "host-1")
    assert cli.refuse("host", "rename", "host-1", "host-9") == "host host-1 is served by worker worker-1: stop it first"


@pytest.mark.parametrize("name", ["a b", "a,b", "a*", "a..b", "", "x" * 255])
def test_a_name_that_no_queue_can_have_is_refused(cli: Cli, ledger: Writer, name: str) -> None:
    assert cli.refuse("host", "rename", "host-1", name).startswith("NEW ")


def test_only_an_empty_host_is_forgotten(cli: Cli, ledger: Writer, store: SQLStore) -> None:
    uuids = ", ".join(uuid(number) for number in (1, 2, 3))
    assert cli.refuse("host", "forget", "host-1") == f"host host-1 is charged for 3 instances: {uuids}"
    for number in (1, 2, 3):
        ledger.put(update(number, vm_state="deleted"))
    ledger.commit()
    said = cli.succeed("host", "forget", "host-1")
    assert said == "Host host-1 is forgotten. Delete its queues too: tracker.host-1, tracker_ledger.host-1\n"
    queues = [queue(SETTINGS, "host-1").name for queue in (topology.host_queue, topology.ledger_queue)]
    assert said.endswith(f": {', '.join(queues)}\n")
    assert cli.succeed("host", "list") == "There are no hosts.\n"
    assert cli.refuse("host", "forget", "host-1") == "the database has no host host-1"


def test_the_nodes_of_another_host_stay(cli: Cli, store: SQLStore) -> None:
    settle(store, host="host-1", nodes=1)
    settle(store, host="host-2", nodes=2)
    cli.succeed("host", "forget", "host-1")
    assert [view["host"] for view in cli.json("node", "list")] == ["host-2", "host-2"]
