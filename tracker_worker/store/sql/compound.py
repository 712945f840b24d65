# SPDX-License-Identifier: Apache-2.0
"""The one statement of a commit on PostgreSQL, as SQL text.

A round trip to the server costs a claim as much as the work that is done there. Therefore all rows of a commit go with one
statement, which has a part for each table that has rows: a part without rows would cost each claim its beginning and its end.
Few of the possible statements occur, and a session prepares each when it is used for the first time. The parameters are the
columns of the rows, as arrays (see ``arrays``); where each table has one row, as for a claim that comes alone, they are its
values, because the server takes each array apart by a function of its own.

A statement arrives as a whole or not at all, so that a process that is stopped holds no locks. The other way to do several
things in one round trip is psycopg's pipeline: a process that is stopped within one leaves its session 'active', waiting for
the rest. No idle_in_transaction_session_timeout ends that session, and it holds its locks until the process goes on.

Within the statement, everything else waits for ``changed``, which locks the nodes in the order of their ids, and happens only
if all nodes have the expected generation. All parts see the rows as they were before the statement. What is deleted is no
longer in the way of a unique index, though: ``kept`` therefore waits for ``released``, as an instance may be charged anew. At
the end the statement divides by zero (SQLSTATE 22012: nothing else in it divides) if a number of rows is not the expected one,
so that nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from tracker_worker.store.sql import statements
from tracker_worker.store.sql.arrays import TEXT, Binary, Kind, kind_of
from tracker_worker.store.sql.rows import NODE_COLUMNS
from tracker_worker.store.sql.schema import (
    allocations,
    closed_periods,
    deletions,
    inbox,
    moves,
    nodes,
    outbox,
    relay_cursor,
    streams,
    usage_segments,
)

Row = Mapping[str, Any]


def _kinds(table: Any, *names: str) -> dict[str, Kind]:
    return {name: kind_of(table.c[name]) for name in names}


# The rows that a statement may have, by table, and their columns.
_COLUMNS: dict[str, dict[str, Kind]] = {
    "verified": {**_kinds(nodes, "host_id"), "generations": TEXT},
    "nodes": {
        **_kinds(nodes, "id", "stream_id"),
        "stored_generation": kind_of(nodes.c.generation),
        **_kinds(streams, "sequence", "occurred_at"),
        **_kinds(nodes, *NODE_COLUMNS),
    },
    "released": _kinds(allocations, "id"),
    "kept": _kinds(allocations, *allocations.c.keys()),
    "forgotten": _kinds(deletions, "host_id", "instance_uuid"),
    "noted": _kinds(deletions, *deletions.c.keys()),
    "ended_moves": _kinds(moves, "id", "host_id"),
    "moves": _kinds(moves, *moves.c.keys()),
    "segments": _kinds(usage_segments, *statements.SEGMENT),
    "periods": _kinds(closed_periods, *closed_periods.c.keys()),
    "inbox": _kinds(inbox, *inbox.c.keys()),
    "outbox": _kinds(outbox, *outbox.c.keys()),
    "cursors": _kinds(relay_cursor, "stream_id", "topic", "sequence"),
}
TABLES = tuple(_COLUMNS)
"""The names of the tables whose rows a statement may have, in the order in which several statements would have to write them:
hosts are verified as they were before the commit."""

_DECIDED = ",\n    ".join(f"{name} = given.{name}" for name in NODE_COLUMNS)
_NODES = f"""\
locked AS (
    SELECT nodes.id FROM nodes JOIN given_nodes ON given_nodes.id = nodes.id ORDER BY nodes.id FOR NO KEY UPDATE OF nodes
), changed AS (
    UPDATE nodes SET
    {_DECIDED}
    FROM locked JOIN given_nodes AS given ON given.id = locked.id
    WHERE nodes.id = locked.id AND nodes.generation = given.stored_generation
    RETURNING nodes.id
), ready AS (
    SELECT count(*) = (SELECT count(*) FROM given_nodes) AND {{history}} AS is_so FROM changed
), streamed AS (
    UPDATE streams SET sequence = given.sequence, occurred_at = given.occurred_at
    FROM given_nodes AS given WHERE streams.id = given.stream_id AND (SELECT is_so FROM ready)
)"""
_WITHOUT_NODES = "ready AS (SELECT {history} AS is_so)"
# In all of them, {given} are the rows, and {ready} whether they are to be written.
_PARTS = {
    "verified": """\
stale AS (
    SELECT FROM {given}
    WHERE given.generations::jsonb <> (
        SELECT coalesce(jsonb_object_agg(nodes.id, nodes.generation), '{{}}') FROM nodes
        WHERE nodes.host_id = given.host_id
    )
)""",
    "released": """\
released AS (
    DELETE FROM allocations WHERE id = ANY (ARRAY(SELECT id FROM {given})) AND {ready} RETURNING 1
)""",
    "kept": "kept AS ({insert}{after_released}" + statements.OVERWRITE_ALLOCATION + "\n)",
    "forgotten": """\
forgotten AS (
    DELETE FROM deletions USING {given}
    WHERE deletions.host_id = given.host_id AND deletions.instance_uuid = given.instance_uuid AND {ready}
)""",
    "noted": "noted AS ({insert}" + statements.OVERWRITE_DELETION + "\n)",
    "ended_moves": """\
ended_moves AS (
    DELETE FROM moves USING {given} WHERE moves.id = given.id AND moves.host_id = given.host_id AND {ready}
)""",
    "moves": "recorded AS ({insert}" + statements.OVERWRITE_MOVE + "\n)",
    "segments": "segmented AS ({insert}\n)",
    "periods": "closed AS ({insert}\n)",
    "inbox": "answered AS ({insert}\n)",
    "outbox": "notified AS ({insert}\n)",
    "cursors": """\
moved AS (
    UPDATE relay_cursor SET sequence = given.sequence FROM {given}
    WHERE relay_cursor.stream_id = given.stream_id AND (relay_cursor.topic = given.topic OR given.topic = '')
        AND relay_cursor.sequence < given.sequence AND {ready}
)""",
}
_INSERTED = {
    "kept": allocations,
    "noted": deletions,
    "moves": moves,
    "segments": usage_segments,
    "periods": closed_periods,
    "inbox": inbox,
    "outbox": outbox,
}
_READY = "(SELECT is_so FROM ready)"


@cache
def statement_for(tables: tuple[str, ...], *, single: bool) -> bytes:
    """The statement that writes rows of these tables, which are in the order of TABLES. Its parameters, $1 and so on, are the
    ledger_id, and then the columns of each table. ``single``: each table has one row."""
    number = 1
    given = {}
    for table in tables:
        kinds = [(position, kind.name) for position, kind in enumerate(_COLUMNS[table].values(), number + 1)]
        if single:
            rows = f"(SELECT {', '.join(f'${position}::{name}' for position, name in kinds)})"
        else:
            rows = f"unnest({', '.join(f'${position}::{name}[]' for position, name in kinds)})"
        given[table] = f"{rows} AS given ({', '.join(_COLUMNS[table])})"
        number += len(kinds)
    parts = []
    head = _WITHOUT_NODES
    if "nodes" in given:
        parts.append(f"given_nodes AS (SELECT * FROM {given['nodes']})")
        head = _NODES
    parts.append(head.format(history=f"coalesce($1::text = ({statements.HISTORY}), true)"))
    for table in tables:
        if table != "nodes":
            parts.append(_PARTS[table].format(ready=_READY, **_insert(table, given)))
    fresh = " AND NOT EXISTS (SELECT FROM stale)" if "verified" in given else ""
    return f"WITH {', '.join(parts)}\nSELECT 1 / ({_READY}{fresh})::integer".encode()


def _insert(table: str, given: Mapping[str, str]) -> dict[str, str]:
    """What a part of these rows is made of."""
    made = {"given": given[table], "insert": "", "after_released": ""}
    if table in _INSERTED:
        columns = ", ".join(_COLUMNS[table])
        made["insert"] = f"""
    INSERT INTO {_INSERTED[table].name} ({columns})
    SELECT {columns} FROM {given[table]} WHERE {_READY}"""
    if "released" in given:
        made["after_released"] = " AND (SELECT count(*) FROM released) >= 0"
    return made


def columns_of(table: str, rows: Sequence[Row]) -> list[Binary]:
    """The parameters for these rows of a table. Raises struct.error, UnicodeError: a value is none of its column's type."""
    return [kind.array([row[name] for row in rows]) for name, kind in _COLUMNS[table].items()]


def values_of(table: str, row: Row) -> list[Binary | None]:
    """The parameters for the only row of a table; raises the same."""
    return [kind.value(row[name]) for name, kind in _COLUMNS[table].items()]
