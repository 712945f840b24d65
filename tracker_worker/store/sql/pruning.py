# SPDX-License-Identifier: Apache-2.0
"""Dropping old rows, with a limited amount of work in each call."""

from __future__ import annotations

import sqlalchemy as sa

from tracker_worker.store.base import EVERY_TOPIC
from tracker_worker.store.sql import segments
from tracker_worker.store.sql.cursors import HAS_NO_HOST
from tracker_worker.store.sql.schema import attempts, hosts, inbox, outbox, relay_cursor, streams

_MOST_LOOKS = 10
"""The outbox of a stream is looked through in pieces of ``limit`` rows, and so many pieces in a call."""


class Pruning:
    """Any thread may use it, one at a time."""

    def __init__(self) -> None:
        # Stream id -> the sequence from which the outbox is looked through next, behind young rows.
        self._looked_at: dict[int, int] = {}

    def prune(
        self, connection: sa.Connection, host_id: int, *, answered_before: int, occurred_before: int, limit: int
    ) -> int:
        """See ``Store.prune``."""
        of_host = sa.and_(inbox.c.host_id == host_id, inbox.c.received_at < answered_before)
        old = sa.select(inbox.c.unique_id).where(of_host).limit(limit)
        dropped = connection.execute(sa.delete(inbox).where(inbox.c.unique_id.in_(old))).rowcount
        connection.execute(sa.delete(attempts).where(attempts.c.last_at < answered_before))
        on_topic = sa.and_(relay_cursor.c.stream_id == streams.c.id, relay_cursor.c.topic != EVERY_TOPIC)
        name = sa.select(hosts.c.name).where(hosts.c.id == host_id)
        confirmed = (
            sa.select(streams.c.id, sa.func.coalesce(sa.func.min(relay_cursor.c.sequence), streams.c.sequence))
            .select_from(streams.outerjoin(relay_cursor, on_topic))
            .where(sa.or_(streams.c.host == name.scalar_subquery(), HAS_NO_HOST))
            .group_by(streams.c.id, streams.c.sequence)
        )
        for stream_id, cursor in connection.execute(confirmed).all():
            dropped += self._prune_stream(connection, stream_id, cursor, occurred_before, limit)
        return dropped + segments.prune(connection, host_id, limit)

    def _prune_stream(self, connection: sa.Connection, stream_id: int, cursor: int, before: int, limit: int) -> int:
        """Drop old rows up to ``cursor``.

        Rows are as old as their sequence is low, so that the first look is enough, unless the clock was set back: then old
        rows are behind young ones. There is no index for the time, which every claim would pay for. Therefore the search
        behind the young rows goes on, from call to call, where the last call ended.
        """
        dropped, reached = _look(connection, stream_id, 0, cursor, before, limit, limit)
        begin = max(reached, self._looked_at.get(stream_id, 0))
        for _ in range(_MOST_LOOKS - 1):
            if dropped >= limit or begin >= cursor:
                break
            found, begin = _look(connection, stream_id, begin, cursor, before, limit, limit - dropped)
            dropped += found
        self._looked_at[stream_id] = 0 if begin >= cursor else begin
        if dropped:
            _start_behind(connection, stream_id)
        return dropped


def _look(
    connection: sa.Connection, stream_id: int, after: int, cursor: int, before: int, limit: int, most: int
) -> tuple[int, int]:
    """Drop the old ones, ``most`` at most, of the ``limit`` rows after a sequence. Return how many were dropped, and the
    sequence up to which no old row is left."""
    of_stream = sa.and_(outbox.c.stream_id == stream_id, outbox.c.sequence > after, outbox.c.sequence <= cursor)
    piece = sa.select(outbox.c.sequence, outbox.c.occurred_at).where(of_stream).order_by(outbox.c.sequence).limit(limit)
    rows = connection.execute(piece).all()
    reached = rows[-1].sequence if len(rows) == limit else cursor
    old = [sequence for sequence, at in rows if at < before][:most]
    if not old:
        return 0, reached
    # The time is compared once more, for young rows between old ones.
    old_rows = sa.and_(of_stream, outbox.c.sequence <= old[-1], outbox.c.occurred_at < before)
    dropped = connection.execute(sa.delete(outbox).where(old_rows)).rowcount
    return dropped, old[-1] if len(old) == most else reached


def _start_behind(connection: sa.Connection, stream_id: int) -> None:
    """Rows of the stream were dropped: while it has no topics, its next ones start behind them."""
    following = sa.select(sa.func.min(outbox.c.sequence) - 1).where(outbox.c.stream_id == stream_id).scalar_subquery()
    last = sa.select(streams.c.sequence).where(streams.c.id == stream_id).scalar_subquery()
    start = sa.func.coalesce(following, last)
    place = sa.and_(relay_cursor.c.stream_id == stream_id, relay_cursor.c.topic == EVERY_TOPIC)
    connection.execute(sa.update(relay_cursor).where(place, relay_cursor.c.sequence < start).values(sequence=start))
