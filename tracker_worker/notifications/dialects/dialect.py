# SPDX-License-Identifier: Apache-2.0
"""What the relay knows of a dialect: which messages a row of the outbox becomes, and to which queues of a topic they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tracker_worker.notifications.notification import INFO, PRIORITIES, Notification
from tracker_worker.wire.message import JSON

Bodies = tuple[bytes, ...]


class Unwritable(Exception):
    """A row of the outbox cannot be written in a dialect, so that nothing of it can be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One format of notifications. ``option`` of [notifications] names the topics that are published in it.

    ``write`` makes the bodies of the messages of a row, in the order in which they are sent: one, several, or none if the
    dialect has no word for the event. It depends on the row alone, so that a repetition after a restart is the same messages
    with the same ids. ``content_type`` is that of each body. ``queues``: the priority of a row -> that of the queue
    ``<topic>.<priority>`` which its messages go to.
    """

    option: str
    write: Callable[[Notification], Bodies]
    content_type: str = JSON
    queues: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(PRIORITIES, INFO))

    def bodies(self, notification: Notification) -> Bodies:
        """The bodies of the messages of a row. Raises Unwritable."""
        try:
            return self.write(notification)
        except Exception as error:  # of one message
            raise Unwritable(f"it cannot be written for [notifications] {self.option}: {error!r}") from error
