# SPDX-License-Identifier: Apache-2.0
"""Connections of the subcommands that use AMQP directly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tracker_worker.bus.amqp import internals
from tracker_worker.bus.settings import LOST, BrokerSettings, address
from tracker_worker.cli.failures import BROKER_UNREACHABLE, CommandFailed

_CLOSE_SECONDS = 2


def connect(settings: BrokerSettings) -> Any:
    """Return a py-amqp connection to the first broker of the transport URL that answers. It can read every message: the
    content type of a message whose properties are unreadable is ``internals.UNREADABLE``.

    Raises CommandFailed: no broker answers; the text names each broker, without passwords, and its error.
    """
    problems = []
    for url in settings.urls:
        try:
            connection = settings.connection(url)
            connection.connect()
        except LOST as error:
            problems.append(f"{address(url)} ({' '.join(str(error).split())})")
        else:
            internals.intercept_frames(connection)
            return connection
    raise CommandFailed(f"no broker can be reached: {', '.join(problems)}", code=BROKER_UNREACHABLE)


def decode_kept(properties: bytes, headers: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """The properties and headers of a message from their encoded forms; empty where they cannot be read."""
    found = internals.decode_properties(properties) if properties else {}
    return found, dict(internals.decode_table(headers))


def close(connection: Any) -> None:
    """Close the connection. A connection that is already lost, or a broker that does not answer, is no error."""
    with contextlib.suppress(*LOST):
        if connection.connected:
            connection.sock.settimeout(_CLOSE_SECONDS)
        connection.close()


@contextmanager
def connected(settings: BrokerSettings) -> Iterator[Any]:
    """A connection from ``connect`` for the block; it is closed at the end.

    Raises CommandFailed: no broker answers, or the connection is lost inside the block.
    """
    connection = connect(settings)
    try:
        yield connection
    except LOST as error:
        raise CommandFailed(f"the connection to the broker was lost: {error}", code=BROKER_UNREACHABLE) from error
    finally:
        close(connection)
