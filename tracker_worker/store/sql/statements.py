# SPDX-License-Identifier: Apache-2.0
"""The statements of a commit as SQL text: those of SQLite, and what they share with the one statement of PostgreSQL
(``compound``).

``SQLITE`` has a statement for each table, each of which writes one row per execution; the parameters are named after the
columns. The text (``:name``) can also be pasted into sqlite3 (``.parameter set :id 1``).

The columns of ``nodes`` come from ``rows.NODE_COLUMNS``: a new resource class adds no line here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from tracker_worker.store.sql.rows import NODE_COLUMNS
from tracker_worker.store.sql.schema import allocations, closed_periods, deletions, inbox, moves, outbox, usage_segments

PARAMETER = re.compile(r":(\w+)")
"""A parameter in the text of SQLITE."""


class Statements(NamedTuple):
    """The statements of SQLite in the order in which a commit executes them."""

    update_node: str
    """Changes no row if the node has another generation than ``stored_generation``."""
    update_stream: str
    delete_allocation: str
    upsert_allocation: str
    delete_deletion: str
    upsert_deletion: str
    delete_move: str
    upsert_move: str
    insert_segment: str
    insert_period: str
    insert_inbox: str
    insert_outbox: str
    move_cursor: str
    """Changes no row if the cursor is already at ``sequence`` or after it."""


# Neither the host's id nor the uuid of an allocation changes.
OVERWRITE_ALLOCATION = """
ON CONFLICT (id) DO UPDATE SET
    role = excluded.role,
    node_id = excluded.node_id,
    resources = excluded.resources,
    project_id = excluded.project_id,
    user_id = excluded.user_id,
    vm_state = excluded.vm_state,
    task_state = excluded.task_state,
    facts = excluded.facts,
    claim_state = excluded.claim_state,
    limit_source = excluded.limit_source,
    begun_at = excluded.begun_at,
    expires_at = excluded.expires_at,
    built = excluded.built,
    since = excluded.since"""
OVERWRITE_DELETION = """
ON CONFLICT (host_id, instance_uuid) DO UPDATE SET node_id = excluded.node_id, reported_at = excluded.reported_at"""

OVERWRITE_MOVE = """
ON CONFLICT (id, host_id) DO UPDATE SET
    node_id = excluded.node_id, state = excluded.state, open = excluded.open, record = excluded.record"""

SEGMENT = tuple(column.name for column in usage_segments.columns if not column.primary_key)
"""The columns of a segment that is written; its number is the database's."""
_DECIDED = ",\n    ".join(f"{name} = :{name}" for name in NODE_COLUMNS)


def _insert(table: str, columns: Sequence[str]) -> str:
    given = ", ".join(f":{name}" for name in columns)
    return f"INSERT INTO {table} (\n    {', '.join(columns)}\n) VALUES (\n    {given}\n)"


SQLITE = Statements(
    update_node=f"""\
UPDATE nodes SET
    {_DECIDED}
WHERE id = :id AND generation = :stored_generation""",
    update_stream="UPDATE streams SET sequence = :sequence, occurred_at = :occurred_at WHERE id = :stream_id",
    delete_allocation="DELETE FROM allocations WHERE id = :id",
    upsert_allocation=_insert("allocations", allocations.c.keys()) + OVERWRITE_ALLOCATION,
    delete_deletion="DELETE FROM deletions WHERE host_id = :host_id AND instance_uuid = :instance_uuid",
    upsert_deletion=_insert("deletions", deletions.c.keys()) + OVERWRITE_DELETION,
    delete_move="DELETE FROM moves WHERE id = :id AND host_id = :host_id",
    upsert_move=_insert("moves", moves.c.keys()) + OVERWRITE_MOVE,
    insert_segment=_insert("usage_segments", SEGMENT),
    insert_period=_insert("closed_periods", closed_periods.c.keys()),
    insert_inbox=_insert("inbox", inbox.c.keys()),
    insert_outbox=_insert("outbox", outbox.c.keys()),
    move_cursor="""\
UPDATE relay_cursor SET sequence = :sequence
WHERE stream_id = :stream_id AND (topic = :topic OR :topic = '') AND sequence < :sequence""",
)

HISTORY = "SELECT ledger_id FROM histories ORDER BY number DESC LIMIT 1"
"""The ledger_id of the present history."""

GENERATIONS = "SELECT id, generation FROM nodes WHERE host_id = {host_id:d}"
"""The nodes of a host, for ``Commit.verified``."""
HOST = f"SELECT name, ({HISTORY}) AS ledger_id FROM hosts WHERE id = {{host_id:d}}"
HOSTS = "SELECT id, name FROM hosts"
NODES = """\
SELECT nodes.*, streams.sequence, streams.occurred_at
FROM nodes JOIN streams ON streams.id = nodes.stream_id WHERE host_id = {host_id:d} ORDER BY nodes.id"""
ALLOCATIONS = "SELECT * FROM allocations WHERE host_id = {host_id:d}"
DELETIONS = "SELECT * FROM deletions WHERE host_id = {host_id:d}"
MOVES = "SELECT * FROM moves WHERE host_id = {host_id:d}"
OF_HOST = (NODES, ALLOCATIONS, DELETIONS, MOVES)
"""What the ledgers of a host are read from."""
# NO KEY UPDATE keeps out whoever changes the rows. UPDATE would also keep out whoever refers to them, as each new allocation
# does, in the opposite order: first its node, then its host.
LOCK_HOST = f"{HOST} FOR NO KEY UPDATE"
LOCK_NODES = "SELECT id FROM nodes WHERE host_id = {host_id:d} ORDER BY id FOR NO KEY UPDATE"
# Keeps out every writer of a node, also one that has so far only locked some.
LOCK_ALL_NODES = "LOCK TABLE nodes IN EXCLUSIVE MODE"
ANSWERED_SQLITE = "SELECT unique_id, reply FROM inbox WHERE unique_id IN (SELECT value FROM json_each(?))"
ANSWERED_POSTGRESQL = "SELECT unique_id, reply FROM inbox WHERE unique_id = ANY(%s)"
