# SPDX-License-Identifier: Apache-2.0
"""The notifications of a database, with those of its periods among them, as they were published and as the outbox keeps them.

The tape numbers them itself, since the sweep of the tests adds some of which the store knows nothing.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from tracker_worker.domain.views import iso
from tracker_worker.notifications.notification import Notification
from tracker_worker.notifications.schema import validator

Place = tuple[str, str]
Message = dict[str, Any]


class Tape:
    """``heard``: everything that was ever published, in its order. ``kept``: what the outbox has, by name."""

    def __init__(self, new_id: Callable[[int], str]) -> None:
        self.heard: list[Message] = []
        self.kept: dict[Place, list[Message]] = defaultdict(list)
        self._new_id = new_id

    def last(self, place: Place) -> int:
        """The number of the last notification."""
        return self.kept[place][-1]["payload"]["sequence"] if self.kept[place] else 0

    def add(self, row: Notification) -> None:
        """A notification of the worker."""
        payload = json.loads(row.payload)
        if "previous_sequence" in payload:
            payload["previous_sequence"] = self.last((row.host, row.node))
        self._add(row.message_id, row.event_type, payload)

    def tell(self, event_type: str, at: int, payload: dict[str, Any]) -> int:
        """A notification of a period. Return its number."""
        self._add(self._new_id(at), event_type, {**payload, "occurred_at": iso(at)})
        return self.last((payload["host"], payload["node"]))

    def _add(self, message_id: str, event_type: str, payload: dict[str, Any]) -> None:
        place = payload["host"], payload["node"]
        payload["sequence"] = self.last(place) + 1
        validator(event_type)(payload)
        message = {"message_id": message_id, "event_type": event_type, "priority": "INFO", "payload": payload}
        self.heard.append(message)
        self.kept[place].append(message)

    def image(self) -> dict[Place, list[Message]]:
        return {place: list(kept) for place, kept in self.kept.items()}

    def restore(self, image: dict[Place, list[Message]]) -> None:
        self.kept = defaultdict(list, copy.deepcopy(image))
