# SPDX-License-Identifier: Apache-2.0
"""Whether what a worker shares with its clients is declared as they declare it, or durable because nothing else is taken.

With oslo.messaging's default options a notification queue is neither durable nor exclusive. RabbitMQ has deprecated such
queues: releases from 4.3 on end the connection that declares one, unless their configuration permits it. They take none from
consumers either, so that a durable queue, which shuts out a consumer with default options, costs nothing there. The exchange is
durable then too: a consumer with durable options cannot use one that is not, and would declare a queue that the broker refuses.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

from tracker_worker.bus.amqp import refusals
from tracker_worker.bus.settings import BrokerSettings

LOG = logging.getLogger(__name__)


class Durability:
    """``settings`` are those with which exchanges and queues are declared. All connections to a broker share one object; any
    thread may use it."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()

    def adapt(self, error: BaseException, used: BrokerSettings) -> bool:
        """Returns whether the broker has refused what was declared with the settings ``used`` because it is neither durable nor
        exclusive, and what is declared from now on is durable. The first time is logged, as a warning."""
        if not refusals.transient_queue_refused(error) or used.declares_durable:
            return False
        with self._lock:
            is_first = not self.settings.declares_durable
            self.settings = replace(self.settings, durable_only=True)
        if is_first:
            LOG.warning(
                "the broker takes no queue that is neither durable nor exclusive: the notification queues are declared "
                "durable; consumers with oslo.messaging need amqp_durable_queues = true in [oslo_messaging_rabbit], and "
                "schedulers need rabbit_transient_quorum_queue = true for their reply queues; set both for this worker too; "
                "the broker says: %s",
                " ".join(str(error).split()),
            )
        return True
