# SPDX-License-Identifier: Apache-2.0
"""A connection of a subcommand's own to the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tracker_worker.bus.settings import LOST, BrokerSettings
from tracker_worker.cli.context import CommandFailed


def connect(settings: BrokerSettings) -> Any:
    """A py-amqp connection to the first of the brokers that answers. Raises CommandFailed: none does."""
    problems = []
    for url in settings.urls:
        try:
            return settings.connection(url).transport.establish_connection()
        except LOST as error:
            problems.append(f"{address(url)} ({' '.join(str(error).split())})")
    raise CommandFailed(f"no broker can be reached: {', '.join(problems)}")


def address(url: str) -> str:
    """Host, port and virtual host of a broker's URL, without user and password."""
    return url.rpartition("@")[2]


def close(connection: Any) -> None:
    """Harmless when it is lost."""
    with contextlib.suppress(*LOST):
        connection.close()


@contextmanager
def connected(settings: BrokerSettings) -> Iterator[Any]:
    """``connect``, and close in the end. Raises CommandFailed: no broker, or it went away in between."""
    connection = connect(settings)
    try:
        yield connection
    except LOST as error:
        raise CommandFailed(f"the connection to the broker was lost: {error}") from error
    finally:
        close(connection)
