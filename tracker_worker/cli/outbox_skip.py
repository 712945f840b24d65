# SPDX-License-Identifier: Apache-2.0
"""Setting a notification aside that the broker does not take, so that those behind it are published."""

from __future__ import annotations

from tracker_worker.cli.failures import NOT_FOUND, CommandFailed
from tracker_worker.store.base import Commit, Conflict, Store, Stream


def topics_to_skip(store: Store, stream: Stream, sequence: int, topic: str | None) -> list[str]:
    """Return the topics on which notification ``sequence`` of a node is the first one that is not published; ``topic`` None: of
    all topics.

    Raises CommandFailed: there is no such topic, or the notification is published already, or another one comes before it.
    """
    where = f"{stream.host}/{stream.node}"
    cursors = stream.cursors
    if topic is not None and topic not in cursors:
        known = ", ".join(sorted(cursors)) or "none"
        raise CommandFailed(f"{where} has no topic {topic}: its topics are {known}", code=NOT_FOUND, topic=topic)
    waiting = []
    for name in sorted(cursors) if topic is None else [topic]:
        if cursors[name] >= sequence:
            continue
        first = store.outbox(stream.id, after=cursors[name], limit=1)
        if not first:
            raise CommandFailed(f"no notification of {where} waits to be published on topic {name}")
        if first[0].sequence != sequence:
            raise CommandFailed(
                f"the first notification of {where} that is not published on topic {name} is {first[0].sequence}, and only "
                "the first can be skipped"
            )
        waiting.append(name)
    if not waiting:
        raise CommandFailed(f"notification {sequence} of {where} is published already")
    return waiting


def skip(store: Store, stream: Stream, sequence: int, topics: list[str], *, ledger_id: str) -> None:
    """Count the notification as published on these topics. Its row stays in the outbox. ``ledger_id`` is the history in which
    the stream was read.

    Raises StoreUnavailable; and CommandFailed: another history has begun, in which the number is that of another notification.
    """
    try:
        store.commit(Commit(cursors={(stream.id, topic): sequence for topic in topics}, ledger_id=ledger_id))
    except Conflict as conflict:
        raise CommandFailed(f"nothing is skipped: {conflict}; look at 'outbox status' again") from conflict
