# SPDX-License-Identifier: Apache-2.0
"""Dead letters in both places: the dead-letter queue, and the database, which keeps those that the broker did not take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
from oslo_config import cfg

from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.cli.broker import decode_kept
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.message import DATABASE, DeadMessage, read_message
from tracker_worker.cli.dead_letters.queue import DeadLetterQueue, WithBody, opened_queue, ordered
from tracker_worker.cli.ledgers import existing_url, opened_store
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.base import MOST_DEAD_LETTERS, DeadLetterRow, Store


class DeadLetters:
    """The messages of both places, oldest first. ``not_taken`` counts messages of the queue that are not in ``messages``."""

    def __init__(
        self, queue: DeadLetterQueue, store: Store | None, *, topic: str, max_bytes: int, with_body: WithBody | None
    ) -> None:
        self.connection = queue.connection
        self.not_taken = queue.not_taken
        self._queue = queue
        self._store = store
        kept = [] if store is None else list(_kept(store, topic, max_bytes, with_body))
        self.messages = ordered([*queue.messages, *kept])

    def remove(self, message: DeadMessage) -> None:
        """Remove a message from where it is kept. For one in the queue the removal is certain when the queue is closed."""
        if message.kept_in == DATABASE:
            assert self._store is not None
            self._store.drop_dead_letters([message.tag])
        else:
            self._queue.remove(message)


def _kept(store: Store, topic: str, max_bytes: int, with_body: WithBody | None) -> Iterator[DeadMessage]:
    for id, row in store.dead_letters(MOST_DEAD_LETTERS):
        properties, headers = _decode(row)
        message = read_message(row.body, headers, properties, tag=id, topic=topic, max_bytes=max_bytes)
        keeps_body = with_body is not None and with_body(message)
        yield replace(message, kept_in=DATABASE, host=message.host or row.host, body=row.body if keeps_body else None)


def _decode(row: DeadLetterRow) -> tuple[dict[str, Any], dict[str, Any]]:
    properties, headers = decode_kept(row.properties, row.headers)
    parked = datetime.fromtimestamp(row.parked_at // 1_000_000, UTC)
    own = {
        "x-tracker-reason": row.reason,
        "x-tracker-exchange": row.exchange,
        "x-tracker-routing-key": row.routing_key,
        "x-tracker-time": parked.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    return properties, {**headers, **own}


@contextmanager
def store_if_there(conf: cfg.ConfigOpts) -> Iterator[Store | None]:
    """The store; None where there is no database yet, or, after a line on stderr, where it cannot be read."""
    try:
        existing_url(conf)
    except CommandFailed:  # nothing can be kept there
        yield None
        return
    with ExitStack() as stack:
        store = None
        try:
            store = stack.enter_context(opened_store(conf))
        except (CommandFailed, ConfigurationError) as error:
            click.echo(f"Only the queue is read: {error}", err=True)
        yield store


@contextmanager
def opened_letters(
    conf: cfg.ConfigOpts, settings: BrokerSettings, *, with_body: WithBody | None = None
) -> Iterator[DeadLetters]:
    """The messages of both places; no other subcommand sees them inside the block.

    ``with_body`` says which messages keep their body; None keeps no body. Raises CommandFailed as ``opened_queue``;
    StoreUnavailable.
    """
    max_bytes = conf.bus.max_body_bytes
    with opened_queue(settings, max_bytes, with_body=with_body) as queue, store_if_there(conf) as store:
        yield DeadLetters(queue, store, topic=settings.topic, max_bytes=max_bytes, with_body=with_body)
