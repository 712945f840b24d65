# SPDX-License-Identifier: Apache-2.0
"""One notification as the outbox keeps it."""

from __future__ import annotations

import msgspec

from tracker_worker.notifications.asked import traceparent_of
from tracker_worker.wire.notification import encode_notification, encode_told

INFO = "INFO"
WARN = "WARN"
PRIORITIES = (INFO, WARN)
"""Each priority of a topic has a queue of its own, ``<topic>.<priority>``."""


class Notification(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the outbox.

    It has the number ``sequence`` in the stream of its host and node. ``payload`` is JSON and valid against its schema;
    ``occurred_at`` is in microseconds. ``message_id`` is the same each time that the notification is published, and different
    from that of every other notification. ``asked`` is a JSON object with the request that caused it: ``method``,
    ``request_id``, ``project_id``, ``user_id``, ``roles``, each where it is known, and the ``worker`` that decided it.
    """

    stream_id: int
    host: str
    node: str
    sequence: int
    event_type: str
    priority: str
    payload: bytes
    occurred_at: int
    message_id: str
    asked: bytes = b"{}"

    def encode(self) -> bytes:
        """The message to publish, with a fresh ``_unique_id`` each time."""
        return encode_notification(
            message_id=self.message_id,
            publisher_id=f"tracker.{self.host}",
            event_type=self.event_type,
            priority=self.priority,
            payload=self.payload,
            occurred_at=self.occurred_at,
            traceparent=traceparent_of(self.asked),
        )

    def told(self) -> bytes:
        """The notification as JSON, for an answer."""
        return encode_told(
            message_id=self.message_id,
            event_type=self.event_type,
            priority=self.priority,
            payload=self.payload,
            occurred_at=self.occurred_at,
        )
