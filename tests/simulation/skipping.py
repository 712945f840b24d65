# SPDX-License-Identifier: Apache-2.0
"""The operator who does what the log says: ``tracker-worker outbox skip``, where the broker does not take a notification."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.simulation.broker import Message
from tests.simulation.machine import Machine
from tests.simulation.store import Link
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.outbox_skip import skip, topics_to_skip
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Store

if TYPE_CHECKING:
    from tests.simulation.world import World

_LOOK_SECONDS = 5.0


class Skipper:
    """Looks every few seconds. Hands a notification that is refused to billing by another way, and then skips it."""

    def __init__(self, world: World, hand_over: Callable[[str, Message], object]) -> None:
        """``hand_over`` gets the name of the notification's queue, and the notification."""
        self._world = world
        self._hand_over = hand_over
        self._machine = Machine(world.stage, "skipper")
        self._machine.spawn(self._run)

    def _run(self) -> None:
        while True:
            self._machine.sleep(_LOOK_SECONDS)
            if not self._world.noticing and any(row.refused_sequence for row in self._world.store.backlog()):
                self._skip()

    def _skip(self) -> None:
        """Run the command in a process of its own."""
        process = Machine(self._world.stage, "skip")
        with suppress(CommandFailed, StoreUnavailable):  # the next look shows how it is by then
            self._skip_all(self._world.linked(process, Link()))
        process.crash()

    def _skip_all(self, store: Store) -> None:
        ledger_id = store.histories()[-1].ledger_id
        for row in store.backlog():
            if row.refused_sequence is None:
                continue
            [stream] = [stream for stream in store.streams(row.host) if stream.node == row.node]
            [topic] = topics_to_skip(store, stream, row.refused_sequence, row.topic)
            [notification] = store.outbox(stream.id, after=row.refused_sequence - 1, limit=1)
            queue, body = f"{topic}.{notification.priority.lower()}", notification.encode()
            self._world.broker.untaken.append((queue, body))
            self._hand_over(queue, Message(body=body))
            skip(store, stream, row.refused_sequence, [topic], ledger_id=ledger_id)
