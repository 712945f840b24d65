# SPDX-License-Identifier: Apache-2.0
"""The cursors of the relay, and what of the outbox they leave to publish. Each function works in the caller's transaction.

A row with the topic EVERY_TOPIC is no cursor: it remembers where the topics of a stream begin that has no topics now.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import EVERY_TOPIC, NOT_CONFIGURED, OutboxBacklog, Stream, StreamPage
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.reading import ledger_id
from tracker_worker.store.sql.schema import hosts, nodes, outbox, relay_cursor, streams

LOG = logging.getLogger(__name__)

HAS_NO_HOST = ~sa.exists().where(hosts.c.name == streams.c.host).correlate(streams)
"""Of a stream: its host was renamed or forgotten."""


def read(connection: sa.Connection, host: str) -> list[Stream]:
    """See ``Store.streams``."""
    stored = _stored(connection, host)
    return [
        Stream(
            id=row.id,
            host=host,
            node=row.node,
            sequence=row.sequence,
            last_at=row.occurred_at,
            generation=row.generation,
            cursors={topic: at for topic, at in stored.get(row.id, {}).items() if topic != EVERY_TOPIC},
        )
        # Sorted in Python because databases differ in the order of text.
        for row in sorted(connection.execute(_OF_HOST, {"host": host}).all(), key=attrgetter("node"))
    ]


def _stored(connection: sa.Connection, host: str) -> dict[int, dict[str, int]]:
    """Return stream id -> topic -> sequence, with the rows of EVERY_TOPIC."""
    found: dict[int, dict[str, int]] = {}
    for row in connection.execute(_CURSORS_OF_HOST, {"host": host}):
        found.setdefault(row.stream_id, {})[row.topic] = row.sequence
    return found


def left(connection: sa.Connection) -> list[Stream]:
    """See ``Store.left_streams``."""
    query = sa.select(streams).where(~sa.exists().where(nodes.c.stream_id == streams.c.id))
    found = [
        Stream(
            id=row.id,
            host=row.host,
            node=row.node,
            sequence=row.sequence,
            last_at=row.occurred_at,
            generation=row.generation,
            cursors={},
        )
        for row in connection.execute(query)
    ]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=attrgetter("host", "node"))


def without_host(connection: sa.Connection) -> list[str]:
    """See ``Store.streams_without_host``."""
    confirmed = (
        sa.select(sa.func.min(relay_cursor.c.sequence))
        .where(relay_cursor.c.stream_id == streams.c.id)
        .correlate(streams)
        .scalar_subquery()
    )
    waits = streams.c.sequence > sa.func.coalesce(confirmed, 0)
    query = sa.select(streams.c.host).where(HAS_NO_HOST, waits).distinct()
    # Sorted in Python because databases differ in the order of text.
    return sorted(connection.execute(query).scalars())


def open_cursors(connection: sa.Connection, insert: Any, host: str, topics: Sequence[str]) -> list[Stream]:
    """See ``Store.open_cursors``. ``insert`` is the dialect's INSERT."""
    stored = _stored(connection, host)
    for stream in connection.execute(_OF_HOST, {"host": host}).all():
        present = stored.get(stream.id, {})
        left_at = present.pop(EVERY_TOPIC, None)
        if topics:
            start = stream.sequence if present else left_at or 0
            wanted = {topic: start for topic in topics if topic not in present}
        else:
            wanted = {EVERY_TOPIC: min(present.values())} if present else {}
        gone = sorted(present.keys() - set(topics))
        for topic in gone:
            LOG.warning(NOT_CONFIGURED, host, stream.node, topic, present[topic])
        if topics and left_at is not None:
            gone.append(EVERY_TOPIC)
        if gone:
            connection.execute(
                sa.delete(relay_cursor).where(relay_cursor.c.stream_id == stream.id, relay_cursor.c.topic.in_(gone))
            )
        for topic, sequence in wanted.items():
            new = insert(relay_cursor).values(stream_id=stream.id, topic=topic, sequence=sequence)
            connection.execute(new.on_conflict_do_nothing())
    return read(connection, host)


def stream(connection: sa.Connection, insert: Any, host: str, node: str) -> int:
    """Return the id of the stream of these names, and make it where there is none. ``insert`` is the dialect's INSERT."""
    new = insert(streams).values(host=host, node=node, sequence=0, occurred_at=0, generation=0)
    made = connection.execute(new.on_conflict_do_nothing()).rowcount
    named = sa.select(streams.c.id).where(streams.c.host == host, streams.c.node == node)
    stream_id = int(connection.execute(named).scalar_one())
    if made:
        start = insert(relay_cursor).values(stream_id=stream_id, topic=EVERY_TOPIC, sequence=0)
        connection.execute(start.on_conflict_do_nothing())
    return stream_id


def mark_refused(connection: sa.Connection, stream_id: int, topic: str, sequence: int, reason: str | None) -> None:
    """See ``Store.mark_refused``."""
    connection.execute(
        sa.update(relay_cursor)
        .where(relay_cursor.c.stream_id == stream_id, relay_cursor.c.topic == topic)
        .values(refused_sequence=None if reason is None else sequence, refused_reason=reason)
    )


def following(
    connection: sa.Connection, stream_id: int, *, after: int, limit: int, max_bytes: int
) -> list[Notification]:
    """See ``Store.outbox``."""
    host, node = connection.execute(_PLACE, {"id": stream_id}).one()
    found = connection.execute(
        _FOLLOWING, {"id": stream_id, "after": after, "limit": limit, "max_bytes": max_bytes}
    ).mappings()
    return [rows.notification_from(row, host=host, node=node) for row in found]


def _following() -> sa.Select[Any]:
    """The database adds up the lengths, so that no more is read than is returned."""
    first = (
        sa.select(
            *outbox.c,
            sa.func.row_number().over(order_by=outbox.c.sequence).label("number"),
            sa.func.sum(sa.func.length(outbox.c.payload)).over(order_by=outbox.c.sequence).label("total"),
        )
        .where(outbox.c.stream_id == sa.bindparam("id"), outbox.c.sequence > sa.bindparam("after"))
        .order_by(outbox.c.sequence)
        .limit(sa.bindparam("limit"))
        .subquery()
    )
    return (
        sa.select(*(first.c[column.name] for column in outbox.c))
        .where(sa.or_(first.c.total <= sa.bindparam("max_bytes", type_=sa.BigInteger), first.c.number == 1))
        .order_by(first.c.sequence)
    )


# Made once: after a start, they are executed for each node.
_FOLLOWING = _following()
_PLACE = sa.select(streams.c.host, streams.c.node).where(streams.c.id == sa.bindparam("id"))
_OF_HOST = sa.select(streams).where(streams.c.host == sa.bindparam("host"))
_CURSORS_OF_HOST = sa.select(relay_cursor).join(streams).where(streams.c.host == sa.bindparam("host"))


def page(
    connection: sa.Connection, host: str, node: str, *, after: int, limit: int, max_bytes: int
) -> StreamPage | None:
    """See ``Store.stream_page``."""
    first = sa.select(sa.func.min(outbox.c.sequence)).where(outbox.c.stream_id == streams.c.id).scalar_subquery()
    named = sa.select(streams.c.id, streams.c.sequence, first.label("first"))
    found = connection.execute(named.where(streams.c.host == host, streams.c.node == node)).one_or_none()
    if found is None:
        return None
    return StreamPage(
        ledger_id=ledger_id(connection),
        first=found.sequence + 1 if found.first is None else found.first,
        last=found.sequence,
        notifications=following(connection, found.id, after=after, limit=limit, max_bytes=max_bytes),
    )


def backlog(connection: sa.Connection) -> list[OutboxBacklog]:
    """See ``Store.backlog``."""
    waiting = sa.and_(outbox.c.stream_id == streams.c.id, outbox.c.sequence > relay_cursor.c.sequence)
    still_refused = relay_cursor.c.refused_sequence > relay_cursor.c.sequence
    columns = (
        streams.c.id.label("stream_id"),
        streams.c.host,
        streams.c.node,
        relay_cursor.c.topic,
        streams.c.sequence,
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
        .select_from(
            streams.join(relay_cursor).outerjoin(hosts, hosts.c.name == streams.c.host).outerjoin(outbox, waiting)
        )
        .where(relay_cursor.c.topic != EVERY_TOPIC)
        .group_by(*columns)
    )
    found = [OutboxBacklog(**row) for row in connection.execute(query).mappings()]
    # Sorted in Python because databases differ in the order of text.
    return sorted(found, key=lambda row: (row.host, row.node, row.topic))
