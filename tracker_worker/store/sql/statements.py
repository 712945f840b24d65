# SPDX-License-Identifier: Apache-2.0
"""The statements of a commit as SQL text.

``SQLITE`` has six statements, each of which writes one row per execution; the parameters are named after the columns. The text
(``:name``) can also be pasted into sqlite3 (``.parameter set :id 1``).

``POSTGRESQL`` is one statement for all rows of a commit, because a round trip to the server costs a claim as much as the work
that is done there. The parameters are named after the tables; each is a JSON array of rows as objects, with bytes as base64.
Arrays of PostgreSQL cost psycopg several times as much, and one document for all tables would be taken apart once for each of
them. A statement arrives as a whole or not at all, so that a process that is stopped holds no locks. The other way to do
several things in one round trip is psycopg's pipeline: a process that is stopped within one leaves its session 'active',
waiting for the rest. No idle_in_transaction_session_timeout ends that session, and it holds its locks until the process goes
on.

Within the statement, everything else waits for ``changed``, which locks the nodes in the order of their ids, and happens only
if all nodes have the expected generation. All parts see the rows as they were before the statement. Therefore an instance that
moves to another node within a commit is not deleted and inserted: ``kept`` takes over the row of a node that releases it. At
the end the statement divides by zero (SQLSTATE 22012: nothing else in it divides) if a number of rows is not the expected one,
so that nothing of it stays.

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
    """The statements of SQLite in the order in which a commit executes them."""

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

POSTGRESQL = f"""\
WITH given_nodes AS (
    SELECT * FROM json_to_recordset(%(nodes)s::json) AS given (
    id integer, stored_generation bigint,
    {_node_columns("{name} {type}")}
)), locked AS (
    SELECT nodes.id FROM nodes JOIN given_nodes ON given_nodes.id = nodes.id ORDER BY nodes.id FOR NO KEY UPDATE OF nodes
), changed AS (
    UPDATE nodes SET
    {_node_columns("{name} = {value}")}
    FROM locked JOIN given_nodes AS given ON given.id = locked.id
    WHERE nodes.id = locked.id AND nodes.generation = given.stored_generation
    RETURNING nodes.id
), ready AS (
    SELECT count(*) = json_array_length(%(nodes)s::json) AS is_so FROM changed
), given_released AS (
    SELECT * FROM json_to_recordset(%(released)s::json) AS given (
        host_id integer, instance_uuid varchar, node_id integer
    )
), given_kept AS (
    SELECT * FROM json_to_recordset(%(kept)s::json) AS given (
        host_id integer, instance_uuid varchar, node_id integer, resources text, project_id varchar, user_id varchar,
        vm_state varchar, task_state varchar, facts text, claim_state varchar, limit_source varchar,
        begun_at bigint, expires_at bigint
    )
), released AS (
    DELETE FROM allocations USING given_released AS given
    WHERE allocations.host_id = given.host_id AND allocations.instance_uuid = given.instance_uuid
        AND allocations.node_id = given.node_id
        AND NOT EXISTS (
            SELECT FROM given_kept AS kept
            WHERE kept.host_id = given.host_id AND kept.instance_uuid = given.instance_uuid
        )
        AND (SELECT is_so FROM ready)
), kept AS (
    INSERT INTO allocations (
        host_id, instance_uuid, node_id, resources, project_id, user_id, vm_state, task_state, facts,
        claim_state, limit_source, begun_at, expires_at
    ) SELECT
        host_id, instance_uuid, node_id, decode(resources, 'base64'), project_id, user_id, vm_state, task_state,
        decode(facts, 'base64'), claim_state, limit_source, begun_at, expires_at
    FROM given_kept WHERE (SELECT is_so FROM ready){_OVERWRITE_ALLOCATION} OR EXISTS (
        SELECT FROM given_released AS given
        WHERE given.host_id = allocations.host_id AND given.instance_uuid = allocations.instance_uuid
            AND given.node_id = allocations.node_id
    )
    RETURNING node_id
), answered AS (
    INSERT INTO inbox (unique_id, host_id, reply, received_at)
    SELECT unique_id, host_id, decode(reply, 'base64'), received_at
    FROM json_to_recordset(%(inbox)s::json) AS given (
        unique_id varchar, host_id integer, reply text, received_at bigint
    ) WHERE (SELECT is_so FROM ready)
), notified AS (
    INSERT INTO outbox (node_id, sequence, message_id, event_type, priority, payload, occurred_at)
    SELECT node_id, sequence, message_id, event_type, priority, decode(payload, 'base64'), occurred_at
    FROM json_to_recordset(%(outbox)s::json) AS given (
        node_id integer, sequence bigint, message_id varchar, event_type varchar, priority varchar, payload text,
        occurred_at bigint
    ) WHERE (SELECT is_so FROM ready)
), moved AS (
    UPDATE relay_cursor SET sequence = given.sequence
    FROM json_to_recordset(%(cursors)s::json) AS given (node_id integer, topic varchar, sequence bigint)
    WHERE relay_cursor.node_id = given.node_id AND relay_cursor.topic = given.topic
        AND relay_cursor.sequence < given.sequence AND (SELECT is_so FROM ready)
), stale AS (
    SELECT FROM json_to_recordset(%(verified)s::json) AS given (host_id integer, generations jsonb)
    WHERE given.generations <> (
        SELECT coalesce(jsonb_object_agg(nodes.id, nodes.generation), '{{}}') FROM nodes
        WHERE nodes.host_id = given.host_id
    )
)
SELECT 1 / (
    (SELECT is_so FROM ready)
    AND (SELECT count(*) FROM kept) = json_array_length(%(kept)s::json)
    AND NOT EXISTS (SELECT FROM stale)
)::integer"""


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
