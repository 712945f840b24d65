# SPDX-License-Identifier: Apache-2.0
"""The cursors of the relay, and what of the outbox they leave to publish. Each function works in the caller's transaction.

A row with the topic '' is no cursor: it remembers where the topics of a node begin that has no topics now (NOWHERE).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import NOT_CONFIGURED, OutboxBacklog
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import hosts, nodes, outbox, relay_cursor

LOG = logging.getLogger(__name__)

NOWHERE = ""


def read(connection: sa.Connection, host_id: int) -> dict[tuple[int, str], int]:
    """Return (node id, topic) -> sequence, of the nodes of a host."""
    return {place: sequence for place, sequence in _stored(connection, host_id).items() if place[1] != NOWHERE}


def _stored(connection: sa.Connection, host_id: int) -> dict[tuple[int, str], int]:
    """The same with the rows of NOWHERE."""
    query = sa.select(relay_cursor).join(nodes).where(nodes.c.host_id == host_id)
    return {(row.node_id, row.topic): row.sequence for row in connection.execute(query)}


def open_cursors(
    connection: sa.Connection, insert: Any, host_id: int, topics: Sequence[str]
) -> dict[tuple[int, str], int]:
    """See ``Store.open_cursors``. ``insert`` is the dialect's INSERT."""
    stored = _stored(connection, host_id)
    of_host = (
        sa.select(nodes.c.id, nodes.c.name, nodes.c.sequence, hosts.c.name.label("host"))
        .join(hosts)
        .where(hosts.c.id == host_id)
    )
    for node in connection.execute(of_host).all():
        present = {topic: sequence for (node_id, topic), sequence in stored.items() if node_id == node.id}
        left_at = present.pop(NOWHERE, None)
        if topics:
            start = node.sequence if present else left_at or 0
            wanted = {topic: start for topic in topics if topic not in present}
        else:
            wanted = {NOWHERE: min(present.values())} if present else {}
        gone = sorted(present.keys() - set(topics))
        for topic in gone:
            LOG.warning(NOT_CONFIGURED, node.host, node.name, topic, present[topic])
        if topics and left_at is not None:
            gone.append(NOWHERE)
        if gone:
            connection.execute(
                sa.delete(relay_cursor).where(relay_cursor.c.node_id == node.id, relay_cursor.c.topic.in_(gone))
            )
        for topic, sequence in wanted.items():
            new = insert(relay_cursor).values(node_id=node.id, topic=topic, sequence=sequence)
            connection.execute(new.on_conflict_do_nothing())
    return read(connection, host_id)


def mark_refused(connection: sa.Connection, node_id: int, topic: str, sequence: int, reason: str | None) -> None:
    """See ``Store.mark_refused``."""
    connection.execute(
        sa.update(relay_cursor)
        .where(relay_cursor.c.node_id == node_id, relay_cursor.c.topic == topic)
        .values(refused_sequence=None if reason is None else sequence, refused_reason=reason)
    )


def following(connection: sa.Connection, node_id: int, *, after: int, limit: int, max_bytes: int) -> list[Notification]:
    """See ``Store.outbox``. The database adds up the lengths, so that no more is read than is returned."""
    place = sa.select(hosts.c.name, nodes.c.name.label("node")).join(nodes).where(nodes.c.id == node_id)
    first = (
        sa.select(
            *outbox.c,
            sa.func.row_number().over(order_by=outbox.c.sequence).label("number"),
            sa.func.sum(sa.func.length(outbox.c.payload)).over(order_by=outbox.c.sequence).label("total"),
        )
        .where(outbox.c.node_id == node_id, outbox.c.sequence > after)
        .order_by(outbox.c.sequence)
        .limit(limit)
        .subquery()
    )
    fitting = (
        sa.select(*(first.c[column.name] for column in outbox.c))
        .where(sa.or_(first.c.total <= max_bytes, first.c.number == 1))
        .order_by(first.c.sequence)
    )
    host, node = connection.execute(place).one()
    return [rows.notification_from(row, host=host, node=node) for row in connection.execute(fitting).mappings()]


def backlog(connection: sa.Connection) -> list[OutboxBacklog]:
    """See ``Store.backlog``."""
    waiting = sa.and_(outbox.c.node_id == nodes.c.id, outbox.c.sequence > relay_cursor.c.sequence)
    still_refused = relay_cursor.c.refused_sequence > relay_cursor.c.sequence
    columns = (
        nodes.c.id.label("node_id"),
        hosts.c.name.label("host"),
        nodes.c.name.label("node"),
        relay_cursor.c.topic,
        nodes.c.sequence,
        relay_cursor.c.sequence.label("cursor"),
        sa.case((still_refused, relay_cursor.c.refused_sequence)).label("refused_sequence"),
        sa.case((still_refused, relay_cursor.c.refused_reason)).label("refused_reason"),
        hosts.c.blocked_since,
    )
    query = (
        sa.select(
            *columns,
            sa.func.count(outbox.c.sequence).label("rows"),
            sa.func.min(outbox.c.occurred_at).label("oldest_at"),
        )
        .select_from(nodes.join(hosts).join(relay_cursor).outerjoin(outbox, waiting))
        .where(relay_cursor.c.topic != NOWHERE)
        .group_by(*columns)
    )
    found = [OutboxBacklog(**row) for row in connection.execute(query).mappings()]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=lambda row: (row.host, row.node, row.topic))
