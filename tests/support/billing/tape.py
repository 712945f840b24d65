# SPDX-License-Identifier: Apache-2.0
"""The notifications of a database, as they were published and as the outbox keeps them."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

from tracker_worker.notifications.notification import Notification
from tracker_worker.notifications.schema import validator

Place = tuple[str, str]
Message = dict[str, Any]


class Tape:
    """``heard``: everything that was ever published, in its order. ``kept``: what the outbox has, by name."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.kept: dict[Place, list[Message]] = defaultdict(list)

    def last(self, place: Place) -> int:
        """The number of the last notification."""
        return self.kept[place][-1]["payload"]["sequence"] if self.kept[place] else 0

    def add(self, row: Notification) -> None:
        payload = json.loads(row.payload)
        validator(row.event_type)(payload)
        message = {
            "message_id": row.message_id,
            "event_type": row.event_type,
            "priority": "INFO",
            "payload": payload,
        }
        self.heard.append(message)
        self.kept[payload["host"], payload["node"]].append(message)

    def image(self) -> dict[Place, list[Message]]:
        return {place: list(kept) for place, kept in self.kept.items()}

    def restore(self, image: dict[Place, list[Message]]) -> None:
        self.kept = defaultdict(list, {place: list(kept) for place, kept in image.items()})
