# SPDX-License-Identifier: Apache-2.0
"""Asks the broker over the consuming connection whether the connection's own queue of fanouts is there.

A standby gets nothing from the queues of its hosts, and nothing may be published to every worker for a test. The answer shows
that the broker still hears this connection, and that this connection hears the broker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from amqp.exceptions import AMQPError

from tracker_worker.bus.amqp import internals

LOG = logging.getLogger(__name__)


class FanoutLook:
    """Belongs to the thread of the consuming connection; ``want`` may be called on any thread. At most one question is on its
    way. It has a channel of its own, which the broker closes where there is no such queue."""

    def __init__(self, there: Callable[[], None]) -> None:
        """``there`` is called with each answer that says yes."""
        self._there = there
        self._channel: Any = None
        self._queue = ""
        self._wanted = False
        self._asked = False

    def want(self) -> None:
        """Ask soon, unless an answer is still awaited."""
        self._wanted = True

    def opened(self, connection: Any, queue: str) -> None:
        """There is a new connection, whose queue of fanouts has this name."""
        self._queue, self._asked = queue, False
        self._channel = connection.channel()
        internals.when_queue_is_there(self._channel, self._answered, self._closed)

    def due(self) -> bool:
        """Whether ``ask`` has something to do."""
        return self._wanted and not self._asked and self._channel is not None

    def ask(self) -> None:
        """Send the question. Does not wait for the answer."""
        self._wanted, self._asked = False, True
        internals.look_for_queue(self._channel, self._queue)

    def forget(self) -> None:
        """The connection is lost."""
        self._channel = None
        self._wanted = self._asked = False

    def _answered(self) -> None:
        self._asked = False
        self._there()

    def _closed(self, error: AMQPError) -> None:
        self._asked = False  # where the queue is gone, its consumer is cancelled, and it is declared again
        LOG.info("the queue of fanouts is not there: %s", error)
