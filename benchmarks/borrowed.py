# SPDX-License-Identifier: Apache-2.0
"""A stage on servers that somebody else runs, for the smoke test of the benchmarks: a command then starts within a second.

Such a run measures nothing: the tests' PostgreSQL has fsync switched off.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from benchmarks.stage import Stage
from benchmarks.usage import listening

VARIABLE = "BENCHMARKS_SERVERS"
"""The environment variable that names the file with the Servers, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """``virtual_hosts`` are transport URLs, ``databases`` SQLAlchemy URLs: each is used once, and left behind."""

    broker_port: int
    database_port: int
    virtual_hosts: list[str]
    databases: list[str]


class BorrowedStage(Stage):
    """Starts and stops nothing."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def __enter__(self) -> BorrowedStage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    @property
    def broker_pid(self) -> int:
        return listening(self._servers.broker_port)

    @property
    def broker_version(self) -> str:
        return "lent by a test"

    @property
    def database_pid(self) -> int:
        return listening(self._servers.database_port)

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        yield self._servers.virtual_hosts.pop()

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        yield self._servers.databases.pop()


def stage() -> Stage:
    """The servers of a run: its own, unless the environment names others."""
    named = os.environ.get(VARIABLE)
    if named is None:
        return Stage()
    return BorrowedStage(msgspec.json.decode(Path(named).read_bytes(), type=Servers))
