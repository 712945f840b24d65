# SPDX-License-Identifier: Apache-2.0
"""Connections to PostgreSQL that do not wait for ever.

A server whose process is stopped, or behind a network that has gone silent, ends nothing: its kernel, or nobody, keeps the
connection alive, and settings of the server such as statement_timeout are not read by anyone. libpq has no limit of its own.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import psycopg

ANSWER_TIMEOUT_SECONDS = 10
"""Nothing that a worker asks takes the server so long to begin to answer: the locks that it waits for have a limit, and no
statement reads more than one host before its first row."""


class ImpatientConnection(psycopg.Connection[Any]):
    """One whose server may be silent for ANSWER_TIMEOUT_SECONDS while it is waited for; then it is closed, with an
    OperationalError. What was asked may still happen."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **options: Any) -> Any:
        return super().wait(self._bounded(gen), *arguments, **options)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """psycopg's protocol of waiting (psycopg.abc.PQGen): the generator yields what it waits for, and is sent what is
        ready: nothing, every tenth of a second."""
        try:
            wanted = next(gen)
            silent_since = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    silent_since = time.monotonic()
                elif time.monotonic() - silent_since > ANSWER_TIMEOUT_SECONDS:
                    self.close()
                    raise psycopg.OperationalError(f"the server has been silent for {ANSWER_TIMEOUT_SECONDS} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value
