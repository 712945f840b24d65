# SPDX-License-Identifier: Apache-2.0
"""How a commit is written: a few statements, compiled once, each for all its rows at a time.

A commit is on the way of every reply. It is made with the driver itself: what SQLAlchemy does around each statement, and
around the parameters of each row, took several times as long as SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSON

from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Answered, Commit, Conflict
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import allocations, inbox, nodes, outbox, relay_cursor

Row = dict[str, Any]

_KEY = (allocations.c.host_id, allocations.c.instance_uuid)
_ID = {"b_id": sa.BigInteger()}
_GENERATION = {"b_generation": sa.BigInteger()}
_SEQUENCE = {"b_sequence": sa.BigInteger()}
_ALLOCATION = {"b_host_id": sa.BigInteger(), "b_uuid": sa.String(), "b_node_id": sa.BigInteger()}

_to_json = msgspec.json.Encoder().encode

Cursor = Any
"""A cursor of the driver (PEP 249)."""
Types = Mapping[str, Any]
"""Name -> SQL type."""
_Many = tuple[Callable[[Any], Any], Types]


class _Prepared:
    """One statement in a dialect's SQL, executed once for each row; the row's keys are its parameters."""

    def __init__(self, statement: Any, dialect: sa.Dialect, keys: Iterable[str] | None = None) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=None if keys is None else list(keys))
        self._text = str(compiled)
        self._order: Sequence[str] | None = compiled.positiontup

    def execute(self, cursor: Cursor, values: Sequence[Row]) -> int:
        """Execute for each of ``values``. Returns how many rows were changed in all."""
        parameters: Any = values
        if self._order is not None:
            parameters = [tuple([row[name] for name in self._order]) for row in values]
        if len(values) == 1:
            cursor.execute(self._text, parameters[0])
        else:
            cursor.executemany(self._text, parameters)
        return int(cursor.rowcount)


class _AtOnce:
    """One statement in PostgreSQL's SQL, executed once for all rows, which go as one parameter.

    psycopg sends an executemany as a pipeline. A process that is stopped within one leaves its session 'active', waiting for
    the rest of the pipeline: no idle_in_transaction_session_timeout ends that, and its locks are held until the process goes
    on. A single statement arrives as a whole or not at all. As JSON because arrays cost psycopg several times as much.
    ``alone`` is the same for one row, which costs less without.
    """

    def __init__(self, alone: _Prepared, make: Callable[[Any], Any], types: Types, dialect: sa.Dialect) -> None:
        """``make`` gets the columns of the rows, for each of ``types``, and returns the statement."""
        self._alone = alone
        # JSON has no bytes: they go as base64.
        columns = [sa.column(name, sa.Text() if _is_binary(kind) else kind) for name, kind in types.items()]
        given = sa.func.json_to_recordset(sa.bindparam("rows", type_=sa.Text()).cast(JSON))
        table = given.table_valued(*columns, name="given").render_derived(with_types=True)
        values = {name: _decoded(table.c[name]) if _is_binary(kind) else table.c[name] for name, kind in types.items()}
        self._text = str(make(values).compile(dialect=dialect))

    def execute(self, cursor: Cursor, values: Sequence[Row]) -> int:
        """Execute for all of ``values``. Returns how many rows were changed in all."""
        if len(values) == 1:
            return self._alone.execute(cursor, values)
        cursor.execute(self._text, {"rows": _to_json(values).decode()})
        return int(cursor.rowcount)


def _is_binary(kind: Any) -> bool:
    return isinstance(kind, sa.LargeBinary)


def _decoded(column: Any) -> Any:
    return sa.func.decode(column, sa.literal_column("'base64'"))


class CommitWriter:
    """Writes commits in one dialect. ``insert`` is that dialect's INSERT, which knows ON CONFLICT. Keeps nothing between
    calls: any thread may use it."""

    def __init__(self, dialect: sa.Dialect, insert: Any) -> None:
        statements: Sequence[_Prepared | _AtOnce] = _one_by_one(dialect, insert)
        if dialect.name == "postgresql":
            statements = _all_at_once(dialect, insert)
        self._node, self._gone, self._kept, self._answered, self._notification, self._cursor = statements

    def write(self, cursor: Cursor, commit: Commit) -> None:
        """All of it, in the cursor's transaction. Raises Conflict, and the driver's errors."""
        # In order of their keys, so that two workers do not wait for each other's rows crosswise.
        ledgers = sorted(commit.ledgers, key=lambda ledger: ledger.id)
        if ledgers:
            self._write_ledgers(cursor, ledgers)
        if commit.answered:
            answered = sorted(commit.answered, key=lambda message: message.unique_id)
            self._answered.execute(cursor, [_inbox_row(message) for message in answered])
        if commit.notifications:
            self._notification.execute(cursor, [rows.notification_row(row) for row in commit.notifications])
        if commit.cursors:
            moved = [{"b_id": node_id, "b_sequence": sequence} for node_id, sequence in sorted(commit.cursors.items())]
            self._cursor.execute(cursor, moved)

    def _write_ledgers(self, cursor: Cursor, ledgers: Sequence[NodeLedger]) -> None:
        values = [
            {"b_id": ledger.id, "b_generation": ledger.stored_generation, **rows.node_values(ledger)}
            for ledger in ledgers
        ]
        if self._node.execute(cursor, values) != len(values):
            raise Conflict("a node has another generation")
        kept, gone = [], []
        for ledger in ledgers:
            for uuid in sorted(ledger.touched):
                allocation = ledger.allocations.get(uuid)
                if allocation is None:
                    gone.append({"b_host_id": ledger.host_id, "b_uuid": uuid, "b_node_id": ledger.id})
                else:
                    kept.append(rows.allocation_row(ledger.host_id, ledger.id, allocation))
        if gone:
            self._gone.execute(cursor, gone)
        if len({(row["host_id"], row["instance_uuid"]) for row in kept}) != len(kept):
            raise Conflict("an instance is charged to two nodes of the host")
        if kept and self._kept.execute(cursor, kept) != len(kept):
            raise Conflict("an instance is charged to another node of the host")


def _one_by_one(dialect: sa.Dialect, insert: Any) -> list[_Prepared]:
    """In the order of CommitWriter's fields."""
    given: dict[str, Any] = {name: sa.bindparam(name) for name in (*_ID, *_GENERATION, *_SEQUENCE, *_ALLOCATION)}
    return [
        _Prepared(sa.update(nodes).where(*_same_node(given)), dialect, rows.NODE_COLUMNS),
        _Prepared(sa.delete(allocations).where(*_same_allocation(given)), dialect),
        _Prepared(_upserting(insert(allocations)), dialect),
        _Prepared(sa.insert(inbox), dialect),
        _Prepared(sa.insert(outbox), dialect),
        _Prepared(sa.update(relay_cursor).where(*_cursor_behind(given)).values(sequence=given["b_sequence"]), dialect),
    ]


def _all_at_once(dialect: sa.Dialect, insert: Any) -> list[_AtOnce]:
    """Likewise."""

    def inserting(table: sa.Table, following: Callable[[Any], Any] = lambda statement: statement) -> _Many:
        types = {column.name: column.type for column in table.columns}
        return lambda given: following(insert(table).from_select(list(types), sa.select(*given.values()))), types

    def update_node(given: Any) -> Any:
        return sa.update(nodes).where(*_same_node(given)).values({name: given[name] for name in rows.NODE_COLUMNS})

    def move_cursor(given: Any) -> Any:
        return sa.update(relay_cursor).where(*_cursor_behind(given)).values(sequence=given["b_sequence"])

    facts = {name: nodes.c[name].type for name in rows.NODE_COLUMNS}
    many: list[_Many] = [
        (update_node, {**_ID, **_GENERATION, **facts}),
        (lambda given: sa.delete(allocations).where(*_same_allocation(given)), _ALLOCATION),
        inserting(allocations, _upserting),
        inserting(inbox),
        inserting(outbox),
        (move_cursor, {**_ID, **_SEQUENCE}),
    ]
    alone = _one_by_one(dialect, insert)
    return [_AtOnce(one, make, types, dialect) for one, (make, types) in zip(alone, many, strict=True)]


def _same_node(given: Any) -> tuple[Any, ...]:
    return nodes.c.id == given["b_id"], nodes.c.generation == given["b_generation"]


def _same_allocation(given: Any) -> tuple[Any, ...]:
    return (
        allocations.c.host_id == given["b_host_id"],
        allocations.c.instance_uuid == given["b_uuid"],
        allocations.c.node_id == given["b_node_id"],
    )


def _cursor_behind(given: Any) -> tuple[Any, ...]:
    return relay_cursor.c.node_id == given["b_id"], relay_cursor.c.sequence < given["b_sequence"]


def _upserting(statement: Any) -> Any:
    """This INSERT of allocations, which overwrites what is there."""
    written = {
        column.name: statement.excluded[column.name] for column in allocations.columns if column not in set(_KEY)
    }
    # A row of another node is not ours to change: nothing is written then, and the row count tells.
    return statement.on_conflict_do_update(
        index_elements=list(_KEY), set_=written, where=allocations.c.node_id == statement.excluded.node_id
    )


def _inbox_row(message: Answered) -> Row:
    return {
        "unique_id": message.unique_id,
        "host_id": message.host_id,
        "reply": message.reply,
        "received_at": message.received_at,
    }
