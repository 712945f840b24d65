# SPDX-License-Identifier: Apache-2.0
"""The contract of the migration that gives a database its identity, on the rows of earlier releases."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import sqlalchemy as sa

from tests.support.builders import begin
from tests.support.store import Writer, load
from tests.unit.store.migrations import MigrationContract
from tracker_worker.domain.commands import FinishClaim, ReportNode
from tracker_worker.domain.host import HostLedger
from tracker_worker.store.sql import migration
from tracker_worker.store.sql.store import SQLStore

SPELLED = "6F1A2B3C4D5E4F608192A3B4C5D6E7F8"
"""A uuid without hyphens and in upper case."""
CANONICAL = "6f1a2b3c-4d5e-4f60-8192-a3b4c5d6e7f8"
TOTAL = {"VCPU": 8, "MEMORY_MB": 8192, "DISK_GB": 100}
FIGURES = "vcpus_used, memory_mb_used, local_gb_used, running_vms, current_workload, io_workload"


def fill(engine: sa.Engine, revision: str) -> None:
    """A host with a charged node, one that was never supported, one that nobody has looked at, and an outbox."""
    hosts, nodes, charged, outbox, cursors = (
        sa.text(f"INSERT INTO {table} ({columns}) VALUES ({', '.join(f':{name}' for name in columns.split(', '))})")
        for table, columns in (
            ("hosts", "id, name, topic, version, started_at, last_seen_at, lease_owner, lease_expires_at"),
            ("nodes", f"id, host_id, name, generation, sequence, disabled, inventory, {FIGURES}"),
            (
                "allocations",
                "host_id, instance_uuid, node_id, resources, project_id, vm_state, facts, claim_state, limit_source, begun_at, "
                "expires_at",
            ),
            ("outbox", "node_id, sequence, message_id, event_type, priority, payload, occurred_at"),
            ("relay_cursor", "node_id, sequence" if revision == "0001" else "node_id, topic, sequence"),
        )
    )
    inventory = msgpack.packb({"total": TOTAL, "reserved": dict.fromkeys(TOTAL, 0), "facts": {}})
    zero = dict.fromkeys(FIGURES.split(", "), 0)
    one = msgpack.packb({"VCPU": 1, "MEMORY_MB": 1024, "DISK_GB": 10})

    def node(id: int, *, generation: int, sequence: int, inventory: bytes | None = None) -> dict[str, Any]:
        known = {"generation": generation, "sequence": sequence, "inventory": inventory, "disabled": inventory is None}
        return {"id": id, "host_id": 4, "name": f"n{id}", **known, **zero}

    def allocation(
        uuid: str, begun_at: int, *, state: str = "begun", node_id: int = 7, vm_state: str = "building"
    ) -> dict[str, Any]:
        return {
            "host_id": 4,
            "node_id": node_id,
            "instance_uuid": uuid,
            "resources": one,
            "project_id": "p",
            "vm_state": vm_state,
            "facts": msgpack.packb({"vcpus": 1, "memory_mb": 1024, "root_gb": 10, "ephemeral_gb": 0}),
            "claim_state": state,
            "limit_source": "caller",
            "begun_at": begun_at,
            "expires_at": begun_at + 600_000_000,
        }

    with engine.begin() as connection:
        at = {"version": "1", "started_at": 1, "last_seen_at": 2, "lease_owner": "w", "lease_expires_at": 3}
        connection.execute(hosts, {"id": 4, "name": "h", "topic": "t", **at})
        for row in (
            node(7, generation=5, sequence=4, inventory=inventory),
            node(8, generation=1, sequence=1),
            node(9, generation=0, sequence=0),
            node(10, generation=1, sequence=1),
        ):
            connection.execute(nodes, row)
        for row in (
            allocation("vm-1", 30_000_000),
            allocation(CANONICAL, 20_000_000, state="finished"),
            allocation(SPELLED, 10_000_000),
            allocation("urn:uuid:" + CANONICAL.replace("6f", "7F", 1), 40_000_000, node_id=8),
            allocation("{" + CANONICAL, 50_000_000, vm_state="active"),
        ):
            connection.execute(charged, row)
        for sequence in (2, 3, 4):
            payload = json.dumps({"sequence": sequence}).encode()
            row = {"node_id": 7, "sequence": sequence, "message_id": f"m-{sequence}", "payload": payload}
            connection.execute(outbox, {**row, "event_type": "e", "priority": "INFO", "occurred_at": sequence * 1000})
        connection.execute(cursors, {"node_id": 7, "sequence": 3, "topic": "a"})
        connection.execute(cursors, {"node_id": 8, "sequence": 1, "topic": "a"})


class IdentityContract(MigrationContract):
    @pytest.fixture(params=["0001", "0002"])
    def migrated(self, request: pytest.FixtureRequest, engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> str:
        """The revision from which the database was upgraded."""
        migration.upgrade(engine, request.param)
        fill(engine, request.param)
        with caplog.at_level(logging.ERROR):
            migration.upgrade(engine)
        return request.param

    @pytest.fixture
    def store(self, migrated: str, url: str) -> Iterator[SQLStore]:
        """The upgraded database."""
        store = SQLStore(url)
        yield store
        store.stop()

    @pytest.fixture
    def host(self, store: SQLStore) -> HostLedger:
        return load(store, "h")

    def test_uuids_are_respelled_and_other_names_stay(self, host: HostLedger) -> None:
        assert set(host.node("n7").allocations) == {"vm-1", CANONICAL, "{" + CANONICAL}
        assert set(host.node("n8").allocations) == {CANONICAL.replace("6f", "7f", 1)}

    def test_of_rows_that_become_one_the_earliest_stays_and_an_error_names_the_other(
        self, host: HostLedger, caplog: pytest.LogCaptureFixture
    ) -> None:
        kept = host.node("n7").allocations[CANONICAL]
        assert (kept.begun_at, kept.claim_state) == (10_000_000, "begun")
        (error,) = [record for record in caplog.get_records("setup") if record.levelno == logging.ERROR]
        assert CANONICAL in error.message
        assert "no longer charged" in error.message

    def test_each_allocation_has_an_id_of_its_own_that_is_that_of_its_claim(self, host: HostLedger) -> None:
        held = [allocation for ledger in host for allocation in ledger.allocations.values()]
        assert all(allocation.id == allocation.claim_id for allocation in held)
        assert len({allocation.id for allocation in held}) == len(held) == 4
        assert {(allocation.role, allocation.on_expiry) for allocation in held} == {("instance", None)}
        in_time = sorted(held, key=lambda allocation: allocation.begun_at)
        assert sorted(held, key=lambda allocation: allocation.id) == in_time

    def test_a_claim_of_an_instance_that_may_run_does_not_release_it(self, host: HostLedger) -> None:
        held = [allocation for ledger in host for allocation in ledger.allocations.values()]
        assert [allocation.uuid for allocation in held if allocation.built] == ["{" + CANONICAL]

    def test_open_claims_go_on(self, host: HostLedger) -> None:
        begun = host.node("n7").allocations["vm-1"]
        assert (begun.claim_state, begun.expires_at) == ("begun", 630_000_000)
        assert host.node("n7").begun == {"vm-1", CANONICAL, "{" + CANONICAL}

    def test_nodes_are_open_unsupported_or_unknown(self, host: HostLedger) -> None:
        assert {name: ledger.life.state for name, ledger in host.nodes.items()} == {
            "n7": "open",
            "n8": "unknown",  # it is charged, so that it had an inventory once
            "n9": "unknown",
            "n10": "unsupported",
        }
        assert (host.node("n7").generation, host.node("n7").sequence, host.node("n7").last_at) == (5, 4, 4000)

    def test_outbox_and_cursors_go_on(self, store: SQLStore) -> None:
        stream = next(stream for stream in store.streams("h") if stream.node == "n7")
        rows = store.outbox(stream.id, after=0, limit=9)
        assert [(row.sequence, row.message_id, row.payload, row.occurred_at, row.asked) for row in rows] == [
            (sequence, f"m-{sequence}", b'{"sequence": %d}' % sequence, sequence * 1000, b"{}")
            for sequence in (2, 3, 4)
        ]
        cursors = {stream.node: stream.cursors["a"] for stream in store.open_cursors("h", ["a"])}
        # A number without a row in the outbox was never to be published.
        assert cursors == {"n7": 3, "n8": 1, "n9": 0, "n10": 1}

    def test_the_database_has_its_first_history(self, store: SQLStore, host: HostLedger) -> None:
        (history,) = store.histories()
        assert (history.ledger_id, history.predecessor) == (host.ledger_id, None)
        (record,) = store.hosts()
        assert (record.id, record.name, record.lease_owner, record.token, record.previous_token) == (
            4,
            "h",
            "w",
            None,
            None,
        )

    def test_the_next_rows_have_ids_that_no_row_had(self, store: SQLStore) -> None:
        assert store.register_host("other", topic="t", version="1", now=1) > 4
        store.create_node(4, "n11")
        writer = Writer(store, "h").put(ReportNode(node="n11", inventory=load(store, "h").node("n7").inventory))
        writer.put(begin(1, node="n7")).put(FinishClaim(claim_id="vm-1")).commit()
        host = load(store, "h")
        assert host.node("n11").id > 10
        assert host.node("n11").stream_id > 10
        assert host.node("n7").allocations["vm-1"].claim_state == "finished"
