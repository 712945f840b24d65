# SPDX-License-Identifier: Apache-2.0
"""The six statements of a commit as SQL text, one ``Statements`` per dialect and number of rows.

``SQLITE`` and ``POSTGRESQL_ONE`` write one row per execution; the parameters are named after the columns. The text of
``SQLITE`` (``:name``) can also be pasted into sqlite3 (``.parameter set :id 1``) and into psql (``\\set id 1``).

``POSTGRESQL_MANY`` writes all rows of one table in one execution; the parameter ``rows`` is a JSON array of objects, with
bytes as base64. The reason for one parameter per table: psycopg sends an executemany as a pipeline. A process that is
stopped within a pipeline leaves its session 'active', waiting for the rest: no idle_in_transaction_session_timeout ends that
session, and the session holds its locks until the process goes on. A single statement arrives as a whole or not at all. The
parameter is JSON because arrays cost psycopg several times as much.

The columns of ``nodes`` come from ``rows.NODE_COLUMNS``: a new resource class adds no line here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from sqlalchemy.dialects import postgresql

from tracker_worker.store.sql.rows import NODE_COLUMNS
from tracker_worker.store.sql.schema import nodes

PARAMETER = re.compile(r":(\w+)")
"""A parameter in the text of SQLITE."""


class Statements(NamedTuple):
    """The statements in the order in which a commit executes them."""

    update_node: str
    """Changes no row if the node has another generation than ``stored_generation``."""
    delete_allocation: str
    upsert_allocation: str
    """Changes no row if the instance is charged to another node of the host: that row belongs to the other node."""
    insert_inbox: str
    insert_outbox: str
    move_cursor: str
    """Changes no row if the cursor is already at ``sequence`` or after it."""


def _node_columns(template: str) -> str:
    """Return ``template`` filled in for each of NODE_COLUMNS, with {name}, the SQL {type}, and the column's {value} in
    ``given``; one column per line."""
    lines = []
    for name in NODE_COLUMNS:
        kind = nodes.c[name].type.compile(postgresql.dialect()).lower()
        value = f"given.{name}"
        if kind == "bytea":
            kind, value = "text", f"decode(given.{name}, 'base64')"
        lines.append(template.format(name=name, type=kind, value=value))
    return ",\n    ".join(lines)


_OVERWRITE_ALLOCATION = """
ON CONFLICT (host_id, instance_uuid) DO UPDATE SET
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
    expires_at = excluded.expires_at
WHERE allocations.node_id = excluded.node_id"""

SQLITE = Statements(
    update_node=f"""\
UPDATE nodes SET
    {_node_columns("{name} = :{name}")}
WHERE id = :id AND generation = :stored_generation""",
    delete_allocation="""\
DELETE FROM allocations
WHERE host_id = :host_id AND instance_uuid = :instance_uuid AND node_id = :node_id""",
    upsert_allocation=f"""\
INSERT INTO allocations (
    host_id, instance_uuid, node_id, resources, project_id, user_id, vm_state, task_state, facts,
    claim_state, limit_source, begun_at, expires_at
) VALUES (
    :host_id, :instance_uuid, :node_id, :resources, :project_id, :user_id, :vm_state, :task_state, :facts,
    :claim_state, :limit_source, :begun_at, :expires_at
){_OVERWRITE_ALLOCATION}""",
    insert_inbox="""\
INSERT INTO inbox (unique_id, host_id, reply, received_at)
VALUES (:unique_id, :host_id, :reply, :received_at)""",
    insert_outbox="""\
INSERT INTO outbox (node_id, sequence, message_id, event_type, priority, payload, occurred_at)
VALUES (:node_id, :sequence, :message_id, :event_type, :priority, :payload, :occurred_at)""",
    move_cursor="""\
UPDATE relay_cursor SET sequence = :sequence
WHERE node_id = :node_id AND topic = :topic AND sequence < :sequence""",
)

# Apart from psycopg's placeholders, the two dialects agree on the text.
POSTGRESQL_ONE = Statements(*(re.sub(PARAMETER, r"%(\1)s", text) for text in SQLITE))

POSTGRESQL_MANY = Statements(
    update_node=f"""\
UPDATE nodes SET
    {_node_columns("{name} = {value}")}
FROM json_to_recordset(%(rows)s::json) AS given (
    id integer, stored_generation bigint,
    {_node_columns("{name} {type}")}
)
WHERE nodes.id = given.id AND nodes.generation = given.stored_generation""",
    delete_allocation="""\
DELETE FROM allocations
USING json_to_recordset(%(rows)s::json) AS given (host_id integer, instance_uuid varchar, node_id integer)
WHERE allocations.host_id = given.host_id AND allocations.instance_uuid = given.instance_uuid
    AND allocations.node_id = given.node_id""",
    upsert_allocation=f"""\
INSERT INTO allocations (
    host_id, instance_uuid, node_id, resources, project_id, user_id, vm_state, task_state, facts,
    claim_state, limit_source, begun_at, expires_at
) SELECT
    host_id, instance_uuid, node_id, decode(resources, 'base64'), project_id, user_id, vm_state, task_state,
    decode(facts, 'base64'), claim_state, limit_source, begun_at, expires_at
FROM json_to_recordset(%(rows)s::json) AS given (
    host_id integer, instance_uuid varchar, node_id integer, resources text, project_id varchar, user_id varchar,
    vm_state varchar, task_state varchar, facts text, claim_state varchar, limit_source varchar,
    begun_at bigint, expires_at bigint
){_OVERWRITE_ALLOCATION}""",
    insert_inbox="""\
INSERT INTO inbox (unique_id, host_id, reply, received_at)
SELECT unique_id, host_id, decode(reply, 'base64'), received_at
FROM json_to_recordset(%(rows)s::json) AS given (
    unique_id varchar, host_id integer, reply text, received_at bigint
)""",
    insert_outbox="""\
INSERT INTO outbox (node_id, sequence, message_id, event_type, priority, payload, occurred_at)
SELECT node_id, sequence, message_id, event_type, priority, decode(payload, 'base64'), occurred_at
FROM json_to_recordset(%(rows)s::json) AS given (
    node_id integer, sequence bigint, message_id varchar, event_type varchar, priority varchar, payload text,
    occurred_at bigint
)""",
    move_cursor="""\
UPDATE relay_cursor SET sequence = given.sequence
FROM json_to_recordset(%(rows)s::json) AS given (node_id integer, topic varchar, sequence bigint)
WHERE relay_cursor.node_id = given.node_id AND relay_cursor.topic = given.topic
    AND relay_cursor.sequence < given.sequence""",
)


GENERATIONS = "SELECT id, generation FROM nodes WHERE host_id = {host_id:d}"
"""The nodes of a host, for ``Commit.verified``."""
HOST = "SELECT name FROM hosts WHERE id = {host_id:d}"
NODES = "SELECT * FROM nodes WHERE host_id = {host_id:d} ORDER BY id"
ALLOCATIONS = "SELECT * FROM allocations WHERE host_id = {host_id:d}"
# NO KEY UPDATE keeps out whoever changes the rows. UPDATE would also keep out whoever refers to them, as each new allocation
# does, in the opposite order: first its node, then its host.
LOCK_HOST = f"{HOST} FOR NO KEY UPDATE"
LOCK_NODES = "SELECT id FROM nodes WHERE host_id = {host_id:d} ORDER BY id FOR NO KEY UPDATE"
ANSWERED_SQLITE = "SELECT unique_id, reply FROM inbox WHERE unique_id IN (SELECT value FROM json_each(?))"
ANSWERED_POSTGRESQL = "SELECT unique_id, reply FROM inbox WHERE unique_id = ANY(%s)"
