# SPDX-License-Identifier: Apache-2.0
"""What was decided, for the history: refusals that made no event, and notifications. Each function works in the caller's
transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import RefusalRow
from tracker_worker.store.sql import rows
from tracker_worker.store.sql.schema import outbox, refusals, streams


def keep_refusals(connection: sa.Connection, insert: Callable[..., Any], kept: Sequence[RefusalRow], most: int) -> None:
    """See ``Store.keep_refusals``. ``insert`` is that of the database."""
    if kept:  # in one statement: psycopg sends several as a pipeline (see ``statements``)
        rows = [msgspec.structs.asdict(row) for row in kept]
        connection.execute(insert(refusals).values(rows).on_conflict_do_nothing())
    last = sa.select(refusals.c.id).order_by(refusals.c.id.desc()).limit(1).offset(most)
    oldest = connection.execute(last).scalar_one_or_none()
    if oldest is not None:
        connection.execute(sa.delete(refusals).where(refusals.c.id <= oldest))


def refused(
    connection: sa.Connection, *, host: str | None, node: str | None, instance_uuid: str | None, since: int
) -> list[RefusalRow]:
    """See ``Store.refusals``."""
    having = {refusals.c.host: host, refusals.c.node: node, refusals.c.instance_uuid: instance_uuid}
    query = (
        sa.select(*(refusals.c[name] for name in RefusalRow.__struct_fields__))
        .where(refusals.c.at >= since, *(column == value for column, value in having.items() if value is not None))
        .order_by(refusals.c.at.desc(), refusals.c.id.desc())
    )
    return [RefusalRow(**{**row, "record": bytes(row["record"])}) for row in connection.execute(query).mappings()]


def told(
    connection: sa.Connection,
    names: Mapping[str, str | None],
    event_types: Collection[str],
    *,
    since: int,
    containing: bytes,
    before: tuple[int, int, int] | None,
    limit: int,
) -> list[Notification]:
    """See ``Store.told``; ``names`` are those of the streams."""
    order = (outbox.c.occurred_at, outbox.c.stream_id, outbox.c.sequence)
    query = (
        sa.select(*outbox.c, streams.c.host, streams.c.node)
        .join(streams)
        .where(outbox.c.event_type.in_(sorted(event_types)), outbox.c.occurred_at >= since)
        .where(*(streams.c[name] == value for name, value in names.items() if value is not None))
        .order_by(*(column.desc() for column in order))
        .limit(limit)
    )
    if containing:
        query = query.where(
            sa.or_(
                _contains(connection, outbox.c.payload, containing), _contains(connection, outbox.c.asked, containing)
            )
        )
    if before is not None:
        query = query.where(sa.tuple_(*order) < sa.tuple_(*before))
    found = connection.execute(query).mappings()
    return [rows.notification_from(row, host=row["host"], node=row["node"]) for row in found]


def _contains(connection: sa.Connection, column: sa.Column[bytes], part: bytes) -> sa.ColumnElement[bool]:
    """Whether a column of bytes has ``part`` in it; both functions count from 1."""
    if connection.dialect.name == "sqlite":
        return sa.func.instr(column, part) > 0
    return sa.func.pg_catalog.position(column, part) > 0
