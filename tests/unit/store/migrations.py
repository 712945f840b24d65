# SPDX-License-Identifier: Apache-2.0
"""The contract of the migrations on every database."""

from __future__ import annotations

import abc
import json
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

import msgpack
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.support.builders import HOST, NOW, begin, inventory, node_name, uuid
from tests.support.closing import Closer
from tests.support.store import Writer, answer, at_once, cursors, flat, load, settle, snapshots
from tracker_worker import threads
from tracker_worker.domain.calendar import HOURS
from tracker_worker.domain.commands import BeginMove, Command, FinishClaim, ReportNode
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import ConfigurationError
from tracker_worker.ids import NewIds
from tracker_worker.store.base import Commit
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.schema import metadata
from tracker_worker.store.sql.store import SQLStore
from tracker_worker.unit_of_work import UnitOfWork

_MINUTE = 60 * SECOND
TABLES = {table.name for table in metadata.sorted_tables}


# A host with two nodes, of which the first has published 7 of 9 notifications.
_NODE_COLUMNS = (
    "id, host_id, name, generation, sequence, disabled, vcpus_used, memory_mb_used, local_gb_used, running_vms"
)
FIRST_REVISION = (
    "INSERT INTO hosts (id, name, topic, version, started_at, last_seen_at, lease_expires_at)"
    " VALUES (1, 'h', 't', '1', 0, 0, 0)",
    *(
        f"INSERT INTO nodes ({_NODE_COLUMNS}, current_workload, io_workload)"
        f" VALUES ({id}, 1, 'n{id}', 0, {sequence}, true, 0, 0, 0, 0, 0, 0)"
        for id, sequence in ((1, 9), (2, 0))
    ),
    "INSERT INTO outbox (node_id, sequence, message_id, event_type, priority, payload, occurred_at)"
    " VALUES (1, 8, 'a', 'e', 'INFO', '', 1), (1, 9, 'b', 'e', 'INFO', '', 2)",
    "INSERT INTO relay_cursor (node_id, sequence) VALUES (1, 7)",
    "INSERT INTO relay_cursor (node_id, sequence) VALUES (2, 0)",
)


def of_node(ledger: NodeLedger) -> dict[str, Any]:
    """What the first schema has of a node too."""
    allocations = [
        (held.uuid, held.instance, held.resources, held.claim_state, held.limit_source, held.begun_at, held.expires_at)
        for held in ledger.allocations.values()
    ]
    inventory = ledger.inventory
    return {
        "id": ledger.id,
        "generation": ledger.generation,
        "sequence": ledger.sequence,
        "total": inventory and inventory.total,
        "usage": ledger.usage,
        "state": ledger.life.state,
        "allocations": allocations,
        "drift": ledger.drift,
    }


def tables(engine: sa.Engine) -> set[str]:
    """Return the names of the tables in the database, without alembic's own."""
    return set(sa.inspect(engine).get_table_names()) - {"alembic_version"}


def primary_keys(engine: sa.Engine) -> dict[str, Any]:
    inspector = sa.inspect(engine)
    return {table: inspector.get_pk_constraint(table) for table in tables(engine)}


def refusal(call: partial) -> str:
    """Return the text of the ConfigurationError that ``call`` raises, and assert that it is one line."""
    with pytest.raises(ConfigurationError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


class MigrationContract(abc.ABC):
    """A subclass provides ``url`` and ``other_url``, the URLs of two empty databases."""

    @pytest.fixture
    @abc.abstractmethod
    def url(self) -> str:
        """The SQLAlchemy URL of the first database."""

    @pytest.fixture
    @abc.abstractmethod
    def other_url(self) -> str:
        """The SQLAlchemy URL of the second database."""

    @pytest.fixture
    def engine(self, url: str) -> Iterator[sa.Engine]:
        engine = engines.create_engine(url)
        yield engine
        engine.dispose()

    @pytest.fixture
    def other(self, other_url: str) -> Iterator[sa.Engine]:
        engine = engines.create_engine(other_url)
        yield engine
        engine.dispose()

    def test_an_empty_database_is_at_no_revision(self, engine: sa.Engine) -> None:
        assert migration.current(engine) is None
        assert tables(engine) == set()

    def test_an_upgrade_creates_every_table_and_is_at_the_head(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        assert tables(engine) == TABLES
        assert migration.current(engine) == migration.head()

    def test_an_upgrade_of_a_database_at_the_head_changes_nothing(self, url: str, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        writer = settle(store).put(begin(1, node=node_name(1))).commit()
        migration.upgrade(engine)
        assert snapshots(load(store)) == snapshots(writer.host)
        store.stop()

    def test_a_migrated_database_has_the_schema_of_schema_py(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        with engine.connect() as connection:
            context = MigrationContext.configure(
                connection, opts={"compare_type": True, "compare_server_default": True}
            )
            assert compare_metadata(context, metadata) == []

    def test_a_migrated_database_has_the_primary_keys_of_schema_py(self, engine: sa.Engine, other: sa.Engine) -> None:
        """Alembic does not compare primary keys."""
        migration.upgrade(engine)
        metadata.create_all(other)
        assert primary_keys(engine) == primary_keys(other)

    def test_the_schema_comparison_finds_a_difference(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP INDEX ix_inbox_host_id_received_at")
            connection.exec_driver_sql("ALTER TABLE hosts ADD COLUMN more TEXT")
            found = compare_metadata(MigrationContext.configure(connection), metadata)
        assert {difference[0] for difference in found} == {"add_index", "remove_column"}

    def test_a_database_can_be_downgraded_to_nothing_and_upgraded_again(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        migration.downgrade(engine, "base")
        assert migration.current(engine) is None
        assert tables(engine) == set()
        migration.upgrade(engine)
        assert tables(engine) == TABLES
        assert migration.current(engine) == migration.head()

    def test_an_upgrade_to_a_revision_stops_there(self, engine: sa.Engine) -> None:
        migration.upgrade(engine, "0001")
        assert migration.current(engine) == "0001"

    def test_cursors_of_the_first_revision_are_handed_over_to_every_topic_once(
        self, url: str, engine: sa.Engine
    ) -> None:
        migration.upgrade(engine, "0001")
        with engine.begin() as connection:
            for statement in FIRST_REVISION:
                connection.exec_driver_sql(statement)
        migration.upgrade(engine)
        store = SQLStore(url)
        assert cursors(store, "h") == {}
        assert flat(store.open_cursors("h", ["a", "b"])) == {(1, "a"): 7, (1, "b"): 7, (2, "a"): 0, (2, "b"): 0}
        store.commit(Commit(cursors={(1, "a"): 9}))
        assert flat(store.open_cursors("h", ["a", "b", "c"]))[1, "c"] == 9  # at the last sequence, as any new topic
        store.stop()

    def test_a_downgrade_keeps_the_cursor_of_the_slowest_topic(self, url: str, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        writer = settle(store)
        ids = [ledger.id for ledger in writer.host]
        streams = [ledger.stream_id for ledger in writer.host]
        store.open_cursors(HOST, ["a", "b"])
        store.commit(Commit(cursors={(streams[0], "a"): 4, (streams[0], "b"): 3, (streams[1], "a"): 1}))
        store.create_node(writer.host.id, "without cursors")
        store.stop()
        migration.downgrade(engine, "0001")
        with engine.connect() as connection:
            left = connection.exec_driver_sql("SELECT node_id, sequence FROM relay_cursor ORDER BY node_id").all()
        assert [tuple(row) for row in left] == [(ids[0], 3), (ids[1], 1), (max(ids) + 1, 0)]

    def test_a_downgrade_and_an_upgrade_keep_nodes_allocations_and_the_outbox(
        self, url: str, engine: sa.Engine
    ) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        writer = settle(store).put(begin(1, node=node_name(1))).commit(answer("u-1"))
        before = {name: of_node(ledger) for name, ledger in writer.host.nodes.items()}
        outbox = [row.message_id for row in store.outbox(writer[node_name(1)].stream_id, after=0, limit=9)]
        store.stop()
        migration.downgrade(engine, "0001")
        migration.upgrade(engine)
        assert {name: of_node(ledger) for name, ledger in load(store).nodes.items()} == before
        stream_id = load(store).node(node_name(1)).stream_id
        assert [row.message_id for row in store.outbox(stream_id, after=0, limit=9)] == outbox
        assert store.answered(["u-1"]) == {"u-1": answer("u-1").reply}
        Writer(store).put(begin(2, node=node_name(1))).commit()
        store.create_node(writer.host.id, "another")
        store.stop()

    @pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004"])
    def test_nodes_of_every_earlier_revision_get_their_standard_classes(
        self, url: str, engine: sa.Engine, revision: str
    ) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        writer = settle(store).put(begin(1, node=node_name(1))).commit()
        before = writer[node_name(1)].inventory
        assert before is not None
        store.stop()
        migration.downgrade(engine, revision)
        with engine.connect() as connection:
            [stored] = connection.execute(sa.text("SELECT inventory FROM nodes WHERE name = 'node-1'")).scalars()
        assert msgpack.unpackb(stored) == {
            "total": before.total.to_dict(),
            "reserved": before.reserved.to_dict(),
            "facts": before.facts,
        }
        migration.upgrade(engine)
        after = load(store).node(node_name(1))
        assert (after.inventory, after.drift) == (before, None)
        store.stop()

    def test_a_downgrade_keeps_what_instances_are_charged_of_custom_classes(self, url: str, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        declared = inventory(resources={"VGPU": 4, "VCPU": {"allocation_ratio": 2, "reserved": 1}})
        writer = settle(store).put(ReportNode(node=node_name(1), inventory=declared))
        writer.put(begin(1, node=node_name(1), resources={"VGPU": 1})).commit()
        store.stop()
        migration.downgrade(engine, "0004")
        migration.upgrade(engine)
        after = load(store).node(node_name(1))
        assert after.inventory is not None
        assert after.inventory.ceilings == {"VCPU": 32, "MEMORY_MB": 131072, "DISK_GB": 2000}
        assert after.inventory.reserved["VCPU"] == 1
        assert after.usage["VGPU"] == 1
        store.stop()

    @pytest.mark.parametrize("revision", ["0001", "0002", "0003", "0004", "0005", "0006"])
    def test_usage_of_every_earlier_revision_begins_with_the_period_of_the_upgrade(
        self, url: str, engine: sa.Engine, revision: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The database is upgraded at 15:20, and the period is closed at 16:00."""
        migration.upgrade(engine)
        store = SQLStore(url)
        upgraded, over = NOW + 200 * _MINUTE, NOW + 240 * _MINUTE
        writer = settle(store)
        charged = {1: NOW + 10 * _MINUTE, 2: NOW + 190 * _MINUTE + 1}
        for number, at in charged.items():
            writer.put(begin(number, node=node_name(1)), at)
            writer.put(FinishClaim(claim_id=uuid(number)), at + _MINUTE)
        writer.commit()
        store.stop()
        migration.downgrade(engine, revision)
        monkeypatch.setattr(threads, "now_microseconds", lambda: upgraded)
        migration.upgrade(engine)
        host = load(store)
        (node, empty) = host
        assert {held.uuid: held.since for held in node.allocations.values()} == {
            uuid(number): at for number, at in charged.items()
        }
        assert node.periods == empty.periods == Periods(until=upgraded)
        assert store.billed(node.id, beginning=0, ending=2**62) == {}
        told: list[dict[str, Any]] = []
        ledgers, new_id = Ledgers(store), NewIds(Random(1).randbytes)

        def do(host: str, command: Command) -> Decision:
            unit = UnitOfWork(store, ledgers, notify=True, new_id=new_id)
            decision = unit.decide(ledgers.get(host), command, over)
            unit.commit()
            unit.committed()
            told.extend(json.loads(one.payload) for one in unit.notifications)
            return decision

        Closer(store, ledgers, [HOST], calendar=HOURS, clock=lambda: over, do=do).close()
        exists = [payload for payload in told if "segments" in payload]
        assert [(payload["instance_id"], payload["seconds"]) for payload in exists] == [
            (uuid(1), 60 * 60),  # nothing that was before
            (uuid(2), 50 * 60),
        ]
        closed = [payload for payload in told if "segments" not in payload]
        assert {payload["audit_period_beginning"] for payload in closed} == {"2026-01-15T15:00:00Z"}
        assert {payload["node"]: payload["exists"] for payload in closed} == {node.name: 2, empty.name: 0}
        store.stop()

    def test_what_is_incoming_has_no_time_since_when_it_is_billed(self, url: str, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        store = SQLStore(url)
        move = BeginMove(begin=begin(1, node=node_name(2)), id="m1", kind="migration")
        writer = settle(store).put(begin(1, node=node_name(1))).put(move).commit()
        before = {ledger.name: (ledger.allocations, ledger.moving) for ledger in writer.host}
        store.stop()
        migration.downgrade(engine, "0006")
        migration.upgrade(engine)
        assert {ledger.name: (ledger.allocations, ledger.moving) for ledger in load(store)} == before
        assert [held.since for ledger in load(store) for held in ledger.moving.values()] == [0]
        store.stop()

    def test_a_failed_upgrade_changes_nothing(self, engine: sa.Engine) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE outbox (theirs INTEGER)")
        assert "outbox" in refusal(partial(migration.upgrade, engine))
        assert tables(engine) == {"outbox"}
        assert migration.current(engine) is None

    def test_concurrent_upgrades_all_succeed(self, url: str) -> None:
        several = [engines.create_engine(url) for _ in range(4)]
        at_once(*(partial(migration.upgrade, engine) for engine in several))
        assert {migration.current(engine) for engine in several} == {migration.head()}
        for engine in several:
            engine.dispose()

    def test_a_database_at_an_unknown_revision_is_refused(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        assert migration.current(engine) == "9999"
        message = refusal(partial(migration.ensure_schema, engine))
        assert message == "the database schema is at revision 9999, which this release does not know"
        for change in (migration.upgrade, partial(migration.downgrade, revision="base")):
            assert "9999" in refusal(partial(change, engine))
        assert tables(engine) == TABLES

    def test_an_upgrade_to_an_unknown_revision_is_refused(self, engine: sa.Engine) -> None:
        assert "9999" in refusal(partial(migration.upgrade, engine, "9999"))
        assert tables(engine) == set()

    def test_a_database_at_the_head_is_accepted(self, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        migration.ensure_schema(engine)
        assert tables(engine) == TABLES
