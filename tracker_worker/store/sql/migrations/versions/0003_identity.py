# SPDX-License-Identifier: Apache-2.0
"""Identity, time and life: the history of the database, streams of events that outlive their nodes, ids of allocations and
claims, the life of nodes, remembered deletions, and who asked for what the outbox has.

The uuids of instances get their canonical spelling. Where two rows of a host become one, the earliest stays; an ERROR names the
others, whose room the next audit gives back.

This file is longer than others may be: the way up and the way down share its tables, and a migration stays in one file as it
was released.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from typing import Any

import msgpack
import sqlalchemy as sa
from alembic import op

from tracker_worker import threads

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOG = logging.getLogger("tracker_worker.store.sql.migration")

_AT_A_TIME = 1000
# An earlier release did not keep whether an instance was reported built. One that is in another state than these may run: the
# expiry of its claim must not give its room away.
_UNBUILT = (None, "building", "error", "shelved", "shelved_offloaded")
_UUID = re.compile(
    r"(?:urn:uuid:)?(?P<brace>\{)?"
    r"([0-9a-f]{8})(?P<hyphen>-?)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{4})(?P=hyphen)([0-9a-f]{12})"
    r"(?(brace)\})",
    re.ASCII | re.IGNORECASE,
)
_ALLOCATION = (
    "host_id, instance_uuid, node_id, resources, project_id, user_id, vm_state, task_state, facts, claim_state, limit_source, "
    "begun_at, expires_at"
)
_FIGURES = (
    "vcpus, vcpus_used, memory_mb, memory_mb_used, local_gb, local_gb_used, running_vms, current_workload, io_workload"
)
_NOTIFICATION = "sequence, message_id, event_type, priority, payload, occurred_at"
_HOST = "id, name, topic, version, started_at, last_seen_at, lease_owner, lease_expires_at, blocked_since"
# In the order in which they can be dropped.
_TABLES = ("outbox", "relay_cursor", "allocations", "nodes", "hosts")


def upgrade() -> None:
    now = threads.now_microseconds()
    op.create_table(
        "histories",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("ledger_id", sa.String(36), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("predecessor", sa.String(36)),
        sa.PrimaryKeyConstraint("number", name="pk_histories"),
        sa.UniqueConstraint("ledger_id", name="uq_histories_ledger_id"),
        sa.UniqueConstraint("predecessor", name="uq_histories_predecessor"),
    )
    _put_aside()
    _create_hosts(
        sa.Column("token", sa.String(36)),
        sa.Column("previous_token", sa.String(36)),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "streams",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_streams"),
        sa.UniqueConstraint("host", "node", name="uq_streams_host_node"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("stream_id", sa.Integer, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("life", sa.LargeBinary, nullable=False),
        sa.Column("inventory", sa.LargeBinary),
        sa.Column("state", sa.String(16), nullable=False),
        *_figures(),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("host_id", "name", name="uq_nodes_host_id_name"),
        sa.UniqueConstraint("stream_id", name="uq_nodes_stream_id"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_nodes_host_id"),
        sa.ForeignKeyConstraint(["stream_id"], ["streams.id"], name="fk_nodes_stream_id"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "allocations",
        sa.Column("id", _in_code_order(36), nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("instance_uuid", _in_code_order(255), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("claim_id", sa.String(255), nullable=False),
        *_charge(),
        sa.Column("on_expiry", sa.String(8)),
        sa.Column("built", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_allocations"),
        sa.UniqueConstraint("instance_uuid", "host_id", "role", name="uq_allocations_instance_uuid_host_id_role"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_allocations_host_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_allocations_node_id"),
    )
    op.create_index("ix_allocations_host_id", "allocations", ["host_id"])
    op.create_table(
        "deletions",
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("instance_uuid", sa.String(255), nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        sa.Column("reported_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("host_id", "instance_uuid", name="pk_deletions"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_deletions_host_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_deletions_node_id"),
    )
    _create_outbox("stream_id", "streams", sa.Column("asked", sa.LargeBinary, nullable=False))
    _create_cursors("stream_id", "streams")
    # A stream takes over the id of its node.
    op.execute(
        "INSERT INTO streams (id, host, node, sequence, occurred_at, generation)"
        " SELECT kept_nodes.id, hosts.name, kept_nodes.name, kept_nodes.sequence, coalesce(latest.occurred_at, 0), 0"
        " FROM kept_nodes JOIN hosts ON hosts.id = kept_nodes.host_id LEFT JOIN ("
        "SELECT node_id, max(occurred_at) AS occurred_at FROM kept_outbox GROUP BY node_id"
        ") AS latest ON latest.node_id = kept_nodes.id"
    )
    connection = op.get_bind()
    new_history = sa.text(
        "INSERT INTO histories (number, ledger_id, since, reason) VALUES (1, :ledger_id, :since, :reason)"
    )
    connection.execute(new_history, {"ledger_id": _uuid7(now), "since": now, "reason": "a new database"})
    _copy_nodes(connection, now)
    _copy_allocations(connection)
    blob = "BLOB" if connection.dialect.name == "sqlite" else "BYTEA"
    op.execute(
        f"INSERT INTO outbox (stream_id, {_NOTIFICATION}, asked)"
        f" SELECT node_id, {_NOTIFICATION}, CAST('{{}}' AS {blob}) FROM kept_outbox"
    )
    op.execute(
        "INSERT INTO relay_cursor (stream_id, topic, sequence, refused_sequence, refused_reason)"
        " SELECT node_id, topic, sequence, refused_sequence, refused_reason FROM kept_relay_cursor"
    )
    _begin_cursors()
    _drop_what_is_aside()
    _go_on_counting(connection, "hosts", "streams", "nodes", "histories")


def downgrade() -> None:
    """A node's old stream ends with its name: its rows, and those of other streams without a node, are dropped."""
    _put_aside()
    _create_hosts()
    op.create_table(
        "nodes",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("inventory", sa.LargeBinary),
        *_figures(),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
        sa.UniqueConstraint("host_id", "name", name="uq_nodes_host_id_name"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_nodes_host_id"),
    )
    op.create_table(
        "allocations",
        sa.Column("host_id", sa.Integer, nullable=False),
        sa.Column("instance_uuid", sa.String(255), nullable=False),
        sa.Column("node_id", sa.Integer, nullable=False),
        *_charge(),
        sa.PrimaryKeyConstraint("host_id", "instance_uuid", name="pk_allocations"),
        sa.ForeignKeyConstraint(["host_id"], ["hosts.id"], name="fk_allocations_host_id"),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name="fk_allocations_node_id"),
    )
    _create_outbox("node_id", "nodes")
    _create_cursors("node_id", "nodes")
    op.execute(
        f"INSERT INTO nodes (id, host_id, name, generation, sequence, disabled, inventory, {_FIGURES})"
        " SELECT kept_nodes.id, host_id, name, kept_nodes.generation, streams.sequence, inventory IS NULL, inventory,"
        f" {_FIGURES}"
        " FROM kept_nodes JOIN streams ON streams.id = kept_nodes.stream_id"
    )
    op.execute(
        f"INSERT INTO allocations ({_ALLOCATION}) SELECT {_ALLOCATION} FROM kept_allocations WHERE role = 'instance'"
    )
    columns = _NOTIFICATION.replace("sequence", "kept_outbox.sequence")
    op.execute(
        f"INSERT INTO outbox (node_id, {_NOTIFICATION}) SELECT kept_nodes.id, {columns}"
        " FROM kept_outbox JOIN kept_nodes ON kept_nodes.stream_id = kept_outbox.stream_id"
    )
    op.execute(
        "INSERT INTO relay_cursor (node_id, topic, sequence, refused_sequence, refused_reason)"
        " SELECT kept_nodes.id, topic, kept_relay_cursor.sequence, refused_sequence, refused_reason"
        " FROM kept_relay_cursor JOIN kept_nodes ON kept_nodes.stream_id = kept_relay_cursor.stream_id"
    )
    _drop_what_is_aside()
    for table in ("streams", "histories"):
        op.drop_table(table)
    _go_on_counting(op.get_bind(), "hosts", "nodes")


def _put_aside() -> None:
    for table in _TABLES:
        op.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    if "deletions" in sa.inspect(op.get_bind()).get_table_names():
        op.drop_table("deletions")
    for table in _TABLES:
        op.drop_table(table)


def _drop_what_is_aside() -> None:
    for table in _TABLES:
        op.drop_table(f"kept_{table}")


def _create_hosts(*more: sa.Column[Any], **options: Any) -> None:
    op.create_table(
        "hosts",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
        sa.Column("lease_owner", sa.String(255)),
        sa.Column("lease_expires_at", sa.BigInteger, nullable=False),
        sa.Column("blocked_since", sa.BigInteger),
        *more,
        sa.PrimaryKeyConstraint("id", name="pk_hosts"),
        sa.UniqueConstraint("name", name="uq_hosts_name"),
        **options,
    )
    op.execute(f"INSERT INTO hosts ({_HOST}) SELECT {_HOST} FROM kept_hosts")


def _in_code_order(length: int) -> sa.types.TypeEngine[str]:
    """Text whose order is that of the code points on every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def _figures() -> list[sa.Column[Any]]:
    return [
        sa.Column("vcpus", sa.BigInteger),
        sa.Column("vcpus_used", sa.BigInteger, nullable=False),
        sa.Column("memory_mb", sa.BigInteger),
        sa.Column("memory_mb_used", sa.BigInteger, nullable=False),
        sa.Column("local_gb", sa.BigInteger),
        sa.Column("local_gb_used", sa.BigInteger, nullable=False),
        sa.Column("running_vms", sa.BigInteger, nullable=False),
        sa.Column("current_workload", sa.BigInteger, nullable=False),
        sa.Column("io_workload", sa.BigInteger, nullable=False),
    ]


def _charge() -> list[sa.Column[Any]]:
    return [
        sa.Column("resources", sa.LargeBinary, nullable=False),
        sa.Column("project_id", sa.String(255)),
        sa.Column("user_id", sa.String(255)),
        sa.Column("vm_state", sa.String(32)),
        sa.Column("task_state", sa.String(255)),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("claim_state", sa.String(16), nullable=False),
        sa.Column("limit_source", sa.String(16), nullable=False),
        sa.Column("begun_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
    ]


def _create_outbox(owner: str, table: str, *more: sa.Column[Any]) -> None:
    op.create_table(
        "outbox",
        sa.Column(owner, sa.Integer, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("message_id", sa.String(36), nullable=False),
        sa.Column("event_type", sa.String(64), nullable=False),
        sa.Column("priority", sa.String(16), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("occurred_at", sa.BigInteger, nullable=False),
        *more,
        sa.PrimaryKeyConstraint(owner, "sequence", name="pk_outbox"),
        sa.ForeignKeyConstraint([owner], [f"{table}.id"], name=f"fk_outbox_{owner}"),
    )


def _create_cursors(owner: str, table: str) -> None:
    op.create_table(
        "relay_cursor",
        sa.Column(owner, sa.Integer, nullable=False),
        sa.Column("topic", sa.String(255), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("refused_sequence", sa.BigInteger),
        sa.Column("refused_reason", sa.Text),
        sa.PrimaryKeyConstraint(owner, "topic", name="pk_relay_cursor"),
        sa.ForeignKeyConstraint([owner], [f"{table}.id"], name=f"fk_relay_cursor_{owner}"),
    )


def _begin_cursors() -> None:
    """From now on a number without a row in the outbox is lost, unless the cursors are behind it. In earlier releases it
    meant that notifications were switched off."""
    following = "(SELECT min(sequence) - 1 FROM outbox WHERE stream_id = streams.id{})"
    op.execute(
        "INSERT INTO relay_cursor (stream_id, topic, sequence)"
        f" SELECT id, '', coalesce({following.format('')}, sequence) FROM streams"
        " WHERE NOT EXISTS (SELECT 1 FROM relay_cursor WHERE stream_id = streams.id)"
    )
    after = following.format(" AND outbox.sequence > relay_cursor.sequence")
    op.execute(
        f"UPDATE relay_cursor SET sequence = (SELECT coalesce({after}, streams.sequence)"
        " FROM streams WHERE streams.id = relay_cursor.stream_id)"
    )


def _copy_nodes(connection: sa.Connection, now: int) -> None:
    charged = set(connection.execute(sa.text("SELECT DISTINCT node_id FROM kept_allocations")).scalars())
    insert = sa.text(
        f"INSERT INTO nodes (id, host_id, name, stream_id, generation, life, inventory, state, {_FIGURES})"
        f" SELECT id, host_id, name, id, generation, :life, inventory, :state, {_FIGURES} FROM kept_nodes WHERE id = :id"
    )
    for row in connection.execute(sa.text("SELECT id, inventory, generation FROM kept_nodes")).all():
        life: dict[str, Any] = {}
        state = "unknown"
        if row.inventory is not None:
            state, life = "open", {"look": "answered"}
        elif row.generation and row.id not in charged:
            state, life = "unsupported", {"look": "nothing", "reason": "the driver reports no inventory"}
        if state != "unknown":
            life.update(state=state, since=now)
        connection.execute(insert, {"id": row.id, "state": state, "life": msgpack.packb(life)})


def _copy_allocations(connection: sa.Connection) -> None:
    columns = ("id", "role", "claim_id", "built", *_ALLOCATION.split(", "))
    insert = sa.text(
        f"INSERT INTO allocations ({', '.join(columns)}) VALUES ({', '.join(f':{column}' for column in columns)})"
    )
    seen: set[tuple[int, str]] = set()
    for rows in _pieces(connection):
        kept = []
        for row in rows:
            uuid = _canonical(row["instance_uuid"])
            if (row["host_id"], uuid) in seen:
                LOG.error(
                    "instance %s of host id %s (node id %s) has the same uuid as an earlier one: it is no longer charged",
                    row["instance_uuid"],
                    row["host_id"],
                    row["node_id"],
                )
                continue
            seen.add((row["host_id"], uuid))
            new_id = _uuid7(row["begun_at"])
            values = {
                **row,
                "instance_uuid": uuid,
                "id": new_id,
                "claim_id": new_id,
                "role": "instance",
                "built": row["vm_state"] not in _UNBUILT,
            }
            kept.append(values)
        if kept:
            connection.execute(insert, kept)


def _pieces(connection: sa.Connection) -> Iterator[list[dict[str, Any]]]:
    """The rows, the earliest first."""
    order = "begun_at, host_id, instance_uuid"
    op.execute(f"CREATE INDEX kept_order ON kept_allocations ({order})")
    query = (
        f"SELECT {_ALLOCATION} FROM kept_allocations WHERE ({order}) > (:begun_at, :host_id, :instance_uuid)"
        f" ORDER BY {order} LIMIT {_AT_A_TIME}"
    )
    last: dict[str, Any] = {"begun_at": -1, "host_id": 0, "instance_uuid": ""}
    while rows := connection.execute(sa.text(query), last).mappings().all():
        yield [dict(row) for row in rows]
        last = {name: rows[-1][name] for name in last}


def _canonical(uuid: str) -> str:
    match = _UUID.fullmatch(uuid)
    return uuid if match is None else "-".join(match.group(2, 4, 5, 6, 7)).lower()


def _uuid7(at: int) -> str:
    """A UUID of version 7 (RFC 9562, section 5.7) at a time in microseconds."""
    milliseconds, microseconds = divmod(at, 1000)
    head = f"{milliseconds:012x}"
    tail = f"{int.from_bytes(threads.random_bytes(8)) & 0x3FFFFFFFFFFFFFFF | 1 << 63:016x}"
    return f"{head[:8]}-{head[8:]}-7{microseconds * 4096 // 1000:03x}-{tail[:4]}-{tail[4:]}"


def _go_on_counting(connection: sa.Connection, *tables: str) -> None:
    """The rows were written with their ids: the next id follows them."""
    if connection.dialect.name == "postgresql":
        column = {"histories": "number"}
        for table in tables:
            key = column.get(table, "id")
            op.execute(f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), (SELECT max({key}) FROM {table}))")
