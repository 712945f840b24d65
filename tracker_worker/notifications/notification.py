# SPDX-License-Identifier: Apache-2.0
"""One notification as the outbox keeps it, and its id."""

from __future__ import annotations

import hashlib
from uuid import UUID

import msgspec

INFO = "INFO"
WARN = "WARN"
PRIORITIES = (INFO, WARN)
"""Each priority of a topic has a queue of its own, ``<topic>.<priority>``."""

_NAMESPACE = UUID("5c0d1b0e-6f0c-5b52-9f9b-3d6f0f3c7f11").bytes


class Notification(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the outbox.

    ``payload`` is JSON and valid against its schema; ``occurred_at`` is in microseconds. ``message_id`` is the same each time
    that the notification is published, and different from that of every other notification.
    """

    node_id: int
    host: str
    node: str
    sequence: int
    event_type: str
    priority: str
    payload: bytes
    occurred_at: int
    message_id: str


def message_id(host: str, node: str, sequence: int) -> str:
    """The message_id of the notification with this number of this node, as the text of a UUID of version 5.

    It is what ``uuid.uuid5`` returns, made without UUID objects, which cost more than the hash. The version's digit is 5, the
    variant's two bits are 10: RFC 9562, sections 4 and 5.5.
    """
    name = f"{host}\0{node}\0{sequence}".encode()
    digest = hashlib.sha1(_NAMESPACE + name, usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
