# SPDX-License-Identifier: Apache-2.0
"""How a connection to the broker is opened and closed: every phase has a limit, whatever the broker says or does not say."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from tracker_worker.bus.amqp import internals
from tracker_worker.bus.amqp.alarm import Alarm
from tracker_worker.bus.amqp.stream import Stream
from tracker_worker.bus.amqp.system import SYSTEM, System
from tracker_worker.bus.settings import LOST

LOG = logging.getLogger(__name__)

LOGIN_SECONDS = 5
"""From the connected socket to the end of the login. The settings limit connecting itself."""
CLOSE_SECONDS = 1


def log_in(
    connection: Any,
    *,
    silence_seconds: float,
    alarm: Alarm | None,
    connected: Callable[[Any], None],
    system: System = SYSTEM,
) -> Stream:
    """Connect and log in. ``connected`` gets the socket as soon as there is one; ``alarm`` hears of the broker's alarms.

    Afterwards a broker that is silent in the middle of a frame for ``silence_seconds`` counts as lost. Raises what LOST names.
    """
    internals.declare_capabilities(connection, blocked=alarm is not None)
    streams: list[Stream] = []

    def transport_connected() -> None:
        streams.append(stream := Stream(connection, system))
        connected(stream.sock)
        limits.enter_context(stream.limit(LOGIN_SECONDS, "the login"))

    internals.when_transport_connects(connection, transport_connected)
    with contextlib.ExitStack() as limits:
        connection.connect()
    (stream,) = streams
    stream.sock.settimeout(silence_seconds)
    if alarm is None:
        internals.intercept_frames(connection)
    else:
        alarm.watch(stream.sock)
        internals.intercept_frames(connection, blocked=alarm.began, unblocked=alarm.ended)
    return stream


def close(connection: Any, stream: Stream | None, *, blocked: bool) -> None:
    """Close the connection and free what it holds, also where it was never opened. A broker that reads nothing (``blocked``) is
    not waited for."""
    try:
        if stream is not None and connection.connected:
            stream.sock.settimeout(CLOSE_SECONDS)
            if not blocked and not stream.written:
                with stream.limit(CLOSE_SECONDS, "closing"):
                    connection.close()
    except LOST as error:
        LOG.debug("closing: %s", " ".join(str(error).split()))
    finally:
        internals.dismantle(connection)
