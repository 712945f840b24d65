# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL with a limit on the server's silence.

A server whose process is stopped, or that is on the far side of a silent network, ends nothing. The kernel of a stopped
server keeps the connection alive, and a silent network reports no end of it; settings of the server such as
statement_timeout have no effect while the server does not run. libpq has no such limit of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import psycopg

from tracker_worker import threads

ANSWER_TIMEOUT_SECONDS = 7
"""No statement of a worker takes the server so long to begin its answer: the locks that a statement waits for have a limit, and
no statement reads more than one host before its first row."""


class ImpatientConnection(psycopg.Connection[Any]):
    """A connection that closes itself and raises OperationalError when the server has been silent for more than
    ANSWER_TIMEOUT_SECONDS while the connection waits for it. The server may still execute the statement."""

    monotonic: Callable[[], float] = staticmethod(threads.monotonic)

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        return super().wait(bounded(gen, self.close, monotonic=self.monotonic), *arguments, **options)


def connect(*arguments: Any, monotonic: Callable[[], float] = threads.monotonic, **options: Any) -> ImpatientConnection:
    """Connect with the arguments of psycopg.connect. ``monotonic`` returns seconds."""
    connection = ImpatientConnection.connect(*arguments, **options)
    connection.monotonic = monotonic
    return connection


def bounded(
    gen: Generator[Any, Any, Any], close: Callable[[], None], *, monotonic: Callable[[], float] = threads.monotonic
) -> Generator[Any, Any, Any]:
    """Relay psycopg's protocol of waiting (psycopg.abc.PQGen): ``gen`` yields the events that it waits for, and is sent the
    events that have happened; psycopg sends no event every tenth of a second.

    Raises psycopg.OperationalError, after a call of ``close``: no event for more than ANSWER_TIMEOUT_SECONDS.
    """
    try:
        wanted = next(gen)
        silent_since = monotonic()
        while True:
            ready = yield wanted
            if ready:
                silent_since = monotonic()
            elif monotonic() - silent_since > ANSWER_TIMEOUT_SECONDS:
                close()
                raise psycopg.OperationalError(f"the server has been silent for {ANSWER_TIMEOUT_SECONDS} s")
            wanted = gen.send(ready)
    except StopIteration as end:
        return end.value
