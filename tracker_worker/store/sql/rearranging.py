# SPDX-License-Identifier: Apache-2.0
"""The rare parts of a commit: a new history, nodes and hosts that get another place or name, and segments that are cut.

The statements are written as for SQLite; ``in_psycopg`` gives the text for PostgreSQL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from tracker_worker.domain.values import SECOND
from tracker_worker.store.base import Commit, Conflict
from tracker_worker.store.sql.statements import PARAMETER

_BEGIN_HISTORY = """\
INSERT INTO histories (ledger_id, since, reason, predecessor)
SELECT :ledger_id, :since, :reason, present.ledger_id FROM histories AS present
WHERE present.ledger_id = :predecessor AND present.number = (SELECT max(number) FROM histories)"""
_LOWER_CURSORS = """\
UPDATE relay_cursor SET sequence = (SELECT sequence FROM streams WHERE streams.id = relay_cursor.stream_id)
WHERE sequence > (SELECT sequence FROM streams WHERE streams.id = relay_cursor.stream_id)"""
_FORGET_DELETIONS = "DELETE FROM deletions WHERE node_id = :node_id"
_DROP_NODE = """\
DELETE FROM nodes WHERE id = :node_id AND NOT EXISTS (SELECT 1 FROM allocations WHERE node_id = :node_id)"""
_RENAME_HOST = "UPDATE hosts SET name = :name WHERE id = :host_id"
_END_STREAM = """\
UPDATE streams SET sequence = :sequence, occurred_at = :occurred_at, generation = :generation
WHERE id = :stream_id AND sequence < :sequence"""
_MOVE_NODE = "UPDATE nodes SET host_id = :host_id, name = :name, stream_id = :stream_id WHERE id = :node_id"
_MOVE_ALLOCATIONS = "UPDATE allocations SET host_id = :host_id WHERE node_id = :node_id"
_FORGET_WHAT_IS_KNOWN = """\
DELETE FROM deletions WHERE node_id = :node_id AND EXISTS (
    SELECT 1 FROM deletions AS others
    WHERE others.host_id = :host_id AND others.instance_uuid = deletions.instance_uuid AND others.node_id <> :node_id
)"""
_MOVE_DELETIONS = "UPDATE deletions SET host_id = :host_id WHERE node_id = :node_id"
_FORGET_MOVES = "DELETE FROM moves WHERE node_id = :node_id"
# A move between the two hosts has a record on each of them; that of the host stays.
_FORGET_KNOWN_MOVES = """\
DELETE FROM moves WHERE node_id = :node_id AND EXISTS (
    SELECT 1 FROM moves AS others
    WHERE others.host_id = :host_id AND others.id = moves.id AND others.node_id <> :node_id
)"""
_MOVE_MOVES = "UPDATE moves SET host_id = :host_id WHERE node_id = :node_id"
_COLUMNS = (
    "id, instance_uuid, claim_id, resources, project_id, user_id, vm_state, task_state, facts, claim_state, limit_source,\n"
    "    begun_at, expires_at"
)
# What holds after :at in periods that are closed is taken back. A time counts in whole seconds.
_SINCE = "CASE WHEN since >= :at AND since >= :first THEN since WHEN :at >= :first THEN :at ELSE :first END"
_UNTIL = "CASE WHEN holds_until <= :closed THEN holds_until ELSE :closed END"
_ADJUST = f"""\
INSERT INTO usage_segments (node_id, since, until, holds_until, adjusts, due_at, {_COLUMNS})
SELECT node_id, {_SINCE}, {_UNTIL}, {_SINCE}, -1, :noted_at, {_COLUMNS}
FROM usage_segments
WHERE node_id = :node_id AND instance_uuid = :uuid AND holds_until > :at
    AND ({_UNTIL}) / {SECOND} > ({_SINCE}) / {SECOND}"""
_CUT = """\
UPDATE usage_segments SET
    until = CASE WHEN adjusts = 0 AND until > :edge THEN :edge ELSE until END,
    due_at = CASE WHEN adjusts = 0 AND until > :edge THEN :edge ELSE due_at END,
    holds_until = CASE WHEN since > :at THEN since ELSE :at END
WHERE node_id = :node_id AND instance_uuid = :uuid AND holds_until > :at"""
_DROP_CUT = f"""\
DELETE FROM usage_segments
WHERE node_id = :node_id AND instance_uuid = :uuid AND adjusts = 0 AND until / {SECOND} <= since / {SECOND}"""
_FORGET_SEGMENTS = "DELETE FROM usage_segments WHERE node_id = :node_id"
_FORGET_PERIODS = "DELETE FROM closed_periods WHERE node_id = :node_id"
STATEMENTS = (
    _ADJUST,
    _CUT,
    _DROP_CUT,
    _FORGET_SEGMENTS,
    _FORGET_PERIODS,
    _BEGIN_HISTORY,
    _LOWER_CURSORS,
    _FORGET_DELETIONS,
    _DROP_NODE,
    _RENAME_HOST,
    _END_STREAM,
    _MOVE_NODE,
    _MOVE_ALLOCATIONS,
    _FORGET_WHAT_IS_KNOWN,
    _MOVE_DELETIONS,
    _FORGET_MOVES,
    _FORGET_KNOWN_MOVES,
    _MOVE_MOVES,
)
LOCK_NODES = "SELECT id FROM nodes WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE"
"""For PostgreSQL: the nodes of the commit in the order in which every other commit locks them."""


def in_psycopg(text: str) -> str:
    """Return a statement with the parameters as psycopg writes them."""
    return re.sub(PARAMETER, r"%(\1)s", text)


def nodes_of(commit: Commit) -> dict[str, list[int]]:
    """Return the parameters of LOCK_NODES."""
    ids = {ledger.id for ledger in commit.ledgers} | {move.node_id for move in commit.moves} | {*commit.dropped_nodes}
    return {"ids": sorted(ids)}


def rearrange(execute: Callable[[str, Mapping[str, Any]], int], commit: Commit) -> None:
    """Write the rare parts of a commit. ``execute`` executes a statement and returns the number of rows that it changed.

    Raises Conflict, and the driver's errors.
    """

    def one(text: str, row: Mapping[str, Any], conflict: str) -> None:
        if execute(text, row) != 1:
            raise Conflict(conflict)

    if commit.history is not None:
        one(_BEGIN_HISTORY, msgspec.structs.asdict(commit.history), "the history has a successor already")
        execute(_LOWER_CURSORS, {})
    for node_id in commit.dropped_nodes:
        execute(_FORGET_DELETIONS, {"node_id": node_id})
        execute(_FORGET_MOVES, {"node_id": node_id})
        execute(_FORGET_SEGMENTS, {"node_id": node_id})
        execute(_FORGET_PERIODS, {"node_id": node_id})
        one(_DROP_NODE, {"node_id": node_id}, "a dropped node is charged or gone")
    for host_id, name in commit.host_names.items():
        one(_RENAME_HOST, {"host_id": host_id, "name": name}, "the host is gone")
    for end in commit.ended_streams:
        one(_END_STREAM, msgspec.structs.asdict(end), "a stream has other events")
    for move in commit.moves:
        row = msgspec.structs.asdict(move)
        one(_MOVE_NODE, row, "a node that moves is gone")
        for text in (
            _MOVE_ALLOCATIONS,
            _FORGET_WHAT_IS_KNOWN,
            _MOVE_DELETIONS,
            _FORGET_KNOWN_MOVES,
            _MOVE_MOVES,
        ):
            execute(text, row)
    for ledger in commit.ledgers:
        for cut in ledger.segments.cuts:
            row = {**msgspec.structs.asdict(cut), "node_id": ledger.id, "edge": max(cut.at, cut.closed)}
            for text in (_ADJUST, _CUT, _DROP_CUT):
                execute(text, row)
