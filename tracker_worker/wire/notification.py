# SPDX-License-Identifier: Apache-2.0
"""Notifications -> bytes, as oslo.messaging's messagingv2 driver writes them."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache

from tracker_worker.wire.message import fresh_id, in_envelope, to_json

# Inside the text of the message, whose quotes are escaped once. No value can look like this: quotes in values are escaped more.
_UNIQUE_ID = re.compile(rb'((?<!\\)\\"_unique_id\\":\\")[0-9a-f]{32}')
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 in UTC, which the text does not say


def encode_notification(
    *,
    message_id: str,
    publisher_id: str,
    event_type: str,
    priority: str,
    payload: bytes,
    occurred_at: int,
    traceparent: str = "",
) -> bytes:
    """A version 2 notification. ``payload`` is JSON, ``occurred_at`` is in microseconds. ``traceparent``, if there is one, is
    in the context that a listener gets, where oslo.messaging's tracing looks for it.

    The bytes are the same each time but for ``_unique_id``, which is fresh: a stock listener that receives an id again within
    its last 16 messages never acknowledges that message.
    """
    head = {
        "message_id": message_id,
        "publisher_id": publisher_id,
        "event_type": event_type,
        "priority": priority,
        "timestamp": _timestamp(occurred_at),
        "_unique_id": fresh_id(),
    }
    if traceparent:
        head["_context_traceparent"] = traceparent
    return in_envelope(_with_payload(head, payload))


def encode_told(*, message_id: str, event_type: str, priority: str, payload: bytes, occurred_at: int) -> bytes:
    """A notification in the answer to a client who asks for it, as JSON: with the values that the published one has."""
    head = {
        "message_id": message_id,
        "event_type": event_type,
        "priority": priority,
        "timestamp": _timestamp(occurred_at),
    }
    return _with_payload(head, payload)


def _with_payload(head: dict[str, str], payload: bytes) -> bytes:
    return to_json(head)[:-1] + b',"payload":' + payload + b"}"


@lru_cache(maxsize=256)  # decisions of one batch have the same time
def _timestamp(at: int) -> str:
    return (_EPOCH + timedelta(microseconds=at)).isoformat(" ", "microseconds")


def renewed(notification: bytes) -> bytes:
    """The same notification for another attempt or another queue: only its ``_unique_id`` is fresh."""
    return _UNIQUE_ID.sub(lambda found: found[1] + fresh_id().encode(), notification, count=1)
