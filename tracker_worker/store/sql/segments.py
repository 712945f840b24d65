# SPDX-License-Identifier: Apache-2.0
"""What nodes were charged, by time, from the database. Any thread may call these functions; each works in the caller's
transaction."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from tracker_worker.domain.allocation import INSTANCE
from tracker_worker.domain.segments import InstanceUsage, Segment
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import allocations, closed_periods, nodes, usage_segments


def billed(connection: sa.Connection, node_id: int, *, beginning: int, ending: int) -> dict[str, int]:
    """See ``Store.billed``."""
    uuid = usage_segments.c.instance_uuid
    query = sa.select(uuid, sa.func.count()).where(_is_of(node_id, beginning, ending)).group_by(uuid)
    return {row[0]: row[1] for row in connection.execute(query)}


def usage(
    connection: sa.Connection, node_id: int, uuids: Collection[str], *, beginning: int, ending: int
) -> list[InstanceUsage]:
    """See ``Store.usage``."""
    charged = sa.select(allocations).where(
        allocations.c.node_id == node_id, allocations.c.role == INSTANCE, allocations.c.instance_uuid.in_(list(uuids))
    )
    of_period = (
        sa.select(usage_segments)
        .where(_is_of(node_id, beginning, ending), usage_segments.c.instance_uuid.in_(list(uuids)))
        .order_by(usage_segments.c.since, usage_segments.c.number)
    )
    held = {row["instance_uuid"]: rows.allocation_from(row) for row in connection.execute(charged).mappings()}
    found: dict[str, list[Segment]] = {}
    for row in connection.execute(of_period).mappings():
        segment = rows.segment_from(row)
        found.setdefault(segment.uuid, []).append(segment)
    return [
        InstanceUsage(uuid=uuid, allocation=held.get(uuid), segments=tuple(found.get(uuid, ())))
        for uuid in sorted(uuids)
    ]


def periods(connection: sa.Connection, node_id: int, *, since: int, until: int) -> list[tuple[int, int]]:
    """See ``Store.closed_periods``."""
    query = (
        sa.select(closed_periods.c.beginning, closed_periods.c.ending)
        .where(closed_periods.c.node_id == node_id, closed_periods.c.ending > since, closed_periods.c.beginning < until)
        .order_by(closed_periods.c.ending)
    )
    return [(row.beginning, row.ending) for row in connection.execute(query)]


def prune(connection: sa.Connection, host_id: int, limit: int) -> int:
    """Drop what the nodes of a host no longer keep: at most ``limit`` segments of each. Return how many rows were dropped."""
    dropped = 0
    of_host = sa.select(nodes.c.id, nodes.c.periods).where(nodes.c.host_id == host_id, nodes.c.periods.is_not(None))
    for row in connection.execute(of_host).all():
        before = rows.periods_from(row.periods).kept_from
        if not before:
            continue
        of_node = sa.and_(usage_segments.c.node_id == row.id, usage_segments.c.due_at < before)
        old = sa.select(usage_segments.c.number).where(of_node).limit(limit)
        dropped += connection.execute(sa.delete(usage_segments).where(usage_segments.c.number.in_(old))).rowcount
        ended = sa.and_(closed_periods.c.node_id == row.id, closed_periods.c.ending < before)
        connection.execute(sa.delete(closed_periods).where(ended))
    return dropped


def _is_of(node_id: int, beginning: int, ending: int) -> sa.ColumnElement[bool]:
    """See ``in_period``. ``due_at`` finds the place in the index."""
    segment = usage_segments.c
    told_as_adjustment = sa.and_(segment.adjusts != 0, segment.due_at < ending)
    has_a_part = sa.and_(segment.adjusts == 0, segment.due_at > beginning, segment.since < ending)
    return sa.and_(segment.node_id == node_id, segment.due_at >= beginning, sa.or_(told_as_adjustment, has_a_part))
