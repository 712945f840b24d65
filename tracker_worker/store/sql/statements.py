# SPDX-License-Identifier: Apache-2.0
"""The statements of a commit as SQL text.

``SQLITE`` has a statement for each table, each of which writes one row per execution; the parameters are named after the
columns. The text (``:name``) can also be pasted into sqlite3 (``.parameter set :id 1``).

``POSTGRESQL`` is one statement for all rows of a commit, because a round trip to the server costs a claim as much as the work
that is done there. The parameters are named after the tables; each is a JSON array of rows as objects, with bytes as base64.
Arrays of PostgreSQL cost psycopg several times as much, and one document for all tables would be taken apart once for each of
them. A statement arrives as a whole or not at all, so that a process that is stopped holds no locks. The other way to do
several things in one round trip is psycopg's pipeline: a process that is stopped within one leaves its session 'active',
waiting for the rest. No idle_in_transaction_session_timeout ends that session, and it holds its locks until the process goes
on.

Within the statement, everything else waits for ``changed``, which locks the nodes in the order of their ids, and happens only
if all nodes have the expected generation. All parts see the rows as they were before the statement. What is deleted is no
longer in the way of a unique index, though: ``kept`` therefore waits for ``released``, as an instance may be charged anew.
``released`` compares with an array: the planner takes a document for 100 rows, and would scan the table for so many. At the
end the statement divides by zero (SQLSTATE 22012: nothing else in it divides) if a number of rows is not the expected one,
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


_ALLOCATION = (
    "id, host_id, instance_uuid, role, node_id, claim_id, resources, project_id, user_id, vm_state, task_state, facts,\n"
    "    claim_state, limit_source, begun_at, expires_at, on_expiry, built, since"
)
_GIVEN_ALLOCATION = re.sub(r"(\w+)", r":\1", _ALLOCATION)
# Neither the host's id nor the uuid of an allocation changes.
_OVERWRITE_ALLOCATION = """
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
_OVERWRITE_DELETION = """
ON CONFLICT (host_id, instance_uuid) DO UPDATE SET node_id = excluded.node_id, reported_at = excluded.reported_at"""

_MOVE = "id, host_id, node_id, instance_uuid, kind, state, open, from_host, record"
_GIVEN_MOVE = re.sub(r"(\w+)", r":\1", _MOVE)
_OVERWRITE_MOVE = """
ON CONFLICT (id, host_id) DO UPDATE SET
    node_id = excluded.node_id, state = excluded.state, open = excluded.open, record = excluded.record"""

_SEGMENT = (
    "node_id, since, until, holds_until, adjusts, due_at, id, instance_uuid, claim_id, resources, project_id, user_id,\n"
    "    vm_state, task_state, facts, claim_state, limit_source, begun_at, expires_at"
)
_GIVEN_SEGMENT = re.sub(r"(\w+)", r":\1", _SEGMENT)

SQLITE = Statements(
    update_node=f"""\
UPDATE nodes SET
    {_node_columns("{name} = :{name}")}
WHERE id = :id AND generation = :stored_generation""",
    update_stream="UPDATE streams SET sequence = :sequence, occurred_at = :occurred_at WHERE id = :stream_id",
    delete_allocation="DELETE FROM allocations WHERE id = :id",
    upsert_allocation=f"""\
INSERT INTO allocations (
    {_ALLOCATION}
) VALUES (
    {_GIVEN_ALLOCATION}
){_OVERWRITE_ALLOCATION}""",
    delete_deletion="DELETE FROM deletions WHERE host_id = :host_id AND instance_uuid = :instance_uuid",
    upsert_deletion=f"""\
INSERT INTO deletions (host_id, instance_uuid, node_id, reported_at)
VALUES (:host_id, :instance_uuid, :node_id, :reported_at){_OVERWRITE_DELETION}""",
    delete_move="DELETE FROM moves WHERE id = :id AND host_id = :host_id",
    upsert_move=f"""\
INSERT INTO moves ({_MOVE})
VALUES ({_GIVEN_MOVE}){_OVERWRITE_MOVE}""",
    insert_segment=f"""\
INSERT INTO usage_segments (
    {_SEGMENT}
) VALUES (
    {_GIVEN_SEGMENT}
)""",
    insert_period="INSERT INTO closed_periods (node_id, ending, beginning) VALUES (:node_id, :ending, :beginning)",
    insert_inbox="""\
INSERT INTO inbox (unique_id, host_id, reply, received_at)
VALUES (:unique_id, :host_id, :reply, :received_at)""",
    insert_outbox="""\
INSERT INTO outbox (stream_id, sequence, message_id, event_type, priority, payload, occurred_at, asked)
VALUES (:stream_id, :sequence, :message_id, :event_type, :priority, :payload, :occurred_at, :asked)""",
    move_cursor="""\
UPDATE relay_cursor SET sequence = :sequence
WHERE stream_id = :stream_id AND (topic = :topic OR :topic = '') AND sequence < :sequence""",
)

HISTORY = "SELECT ledger_id FROM histories ORDER BY number DESC LIMIT 1"
"""The ledger_id of the present history."""

POSTGRESQL = f"""\
WITH given_nodes AS (
    SELECT * FROM json_to_recordset(%(nodes)s::json) AS given (
    id integer, stored_generation bigint, stream_id integer, sequence bigint, occurred_at bigint,
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
    SELECT count(*) = json_array_length(%(nodes)s::json)
        AND coalesce(%(ledger_id)s::varchar = ({HISTORY}), true) AS is_so
    FROM changed
), streamed AS (
    UPDATE streams SET sequence = given.sequence, occurred_at = given.occurred_at
    FROM given_nodes AS given WHERE streams.id = given.stream_id AND (SELECT is_so FROM ready)
), released AS (
    DELETE FROM allocations
    WHERE id = ANY (ARRAY(SELECT id FROM json_to_recordset(%(released)s::json) AS given (id varchar)))
        AND (SELECT is_so FROM ready)
    RETURNING 1
), kept AS (
    INSERT INTO allocations (
    {_ALLOCATION}
    ) SELECT
        id, host_id, instance_uuid, role, node_id, claim_id, decode(resources, 'base64'), project_id, user_id, vm_state,
        task_state, decode(facts, 'base64'), claim_state, limit_source, begun_at, expires_at, on_expiry, built,
        since
    FROM json_to_recordset(%(kept)s::json) AS given (
        id varchar, host_id integer, instance_uuid varchar, role varchar, node_id integer, claim_id varchar,
        resources text, project_id varchar, user_id varchar, vm_state varchar, task_state varchar, facts text,
        claim_state varchar, limit_source varchar, begun_at bigint, expires_at bigint, on_expiry varchar, built boolean,
        since bigint
    ) WHERE (SELECT is_so FROM ready) AND (SELECT count(*) FROM released) >= 0{_OVERWRITE_ALLOCATION}
), forgotten AS (
    DELETE FROM deletions USING json_to_recordset(%(forgotten)s::json) AS given (host_id integer, instance_uuid varchar)
    WHERE deletions.host_id = given.host_id AND deletions.instance_uuid = given.instance_uuid
        AND (SELECT is_so FROM ready)
), noted AS (
    INSERT INTO deletions (host_id, instance_uuid, node_id, reported_at)
    SELECT host_id, instance_uuid, node_id, reported_at
    FROM json_to_recordset(%(noted)s::json) AS given (
        host_id integer, instance_uuid varchar, node_id integer, reported_at bigint
    ) WHERE (SELECT is_so FROM ready){_OVERWRITE_DELETION}
), ended_moves AS (
    DELETE FROM moves USING json_to_recordset(%(ended_moves)s::json) AS given (id varchar, host_id integer)
    WHERE moves.id = given.id AND moves.host_id = given.host_id AND (SELECT is_so FROM ready)
), recorded_moves AS (
    INSERT INTO moves ({_MOVE})
    SELECT id, host_id, node_id, instance_uuid, kind, state, open, from_host, decode(record, 'base64')
    FROM json_to_recordset(%(moves)s::json) AS given (
        id varchar, host_id integer, node_id integer, instance_uuid varchar, kind varchar, state varchar, open boolean,
        from_host varchar, record text
    ) WHERE (SELECT is_so FROM ready){_OVERWRITE_MOVE}
), segmented AS (
    INSERT INTO usage_segments (
    {_SEGMENT}
    ) SELECT
        node_id, since, until, holds_until, adjusts, due_at, id, instance_uuid, claim_id, decode(resources, 'base64'),
        project_id, user_id, vm_state, task_state, decode(facts, 'base64'), claim_state, limit_source, begun_at, expires_at
    FROM json_to_recordset(%(segments)s::json) AS given (
        node_id integer, since bigint, until bigint, holds_until bigint, adjusts smallint, due_at bigint, id varchar,
        instance_uuid varchar, claim_id varchar, resources text, project_id varchar, user_id varchar, vm_state varchar,
        task_state varchar, facts text, claim_state varchar, limit_source varchar, begun_at bigint, expires_at bigint
    ) WHERE (SELECT is_so FROM ready)
), closed AS (
    INSERT INTO closed_periods (node_id, ending, beginning)
    SELECT node_id, ending, beginning
    FROM json_to_recordset(%(periods)s::json) AS given (node_id integer, ending bigint, beginning bigint)
    WHERE (SELECT is_so FROM ready)
), answered AS (
    INSERT INTO inbox (unique_id, host_id, reply, received_at)
    SELECT unique_id, host_id, decode(reply, 'base64'), received_at
    FROM json_to_recordset(%(inbox)s::json) AS given (
        unique_id varchar, host_id integer, reply text, received_at bigint
    ) WHERE (SELECT is_so FROM ready)
), notified AS (
    INSERT INTO outbox (stream_id, sequence, message_id, event_type, priority, payload, occurred_at, asked)
    SELECT
        stream_id, sequence, message_id, event_type, priority, decode(payload, 'base64'), occurred_at,
        decode(asked, 'base64')
    FROM json_to_recordset(%(outbox)s::json) AS given (
        stream_id integer, sequence bigint, message_id varchar, event_type varchar, priority varchar, payload text,
        occurred_at bigint, asked text
    ) WHERE (SELECT is_so FROM ready)
), moved AS (
    UPDATE relay_cursor SET sequence = given.sequence
    FROM json_to_recordset(%(cursors)s::json) AS given (stream_id integer, topic varchar, sequence bigint)
    WHERE relay_cursor.stream_id = given.stream_id AND (relay_cursor.topic = given.topic OR given.topic = '')
        AND relay_cursor.sequence < given.sequence AND (SELECT is_so FROM ready)
), stale AS (
    SELECT FROM json_to_recordset(%(verified)s::json) AS given (host_id integer, generations jsonb)
    WHERE given.generations <> (
        SELECT coalesce(jsonb_object_agg(nodes.id, nodes.generation), '{{}}') FROM nodes
        WHERE nodes.host_id = given.host_id
    )
)
SELECT 1 / (
    (SELECT is_so FROM ready) AND NOT EXISTS (SELECT FROM stale)
)::integer"""


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
