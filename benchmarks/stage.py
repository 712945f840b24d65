# SPDX-License-Identifier: Apache-2.0
"""The servers that all sides share: one private RabbitMQ and one private PostgreSQL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import TracebackType

import psycopg

from benchmarks.usage import listening
from tests.servers import PostgreSQLServer, RabbitMQServer, ensure_binaries
from tracker_worker.store.sql.engines import create_engine
from tracker_worker.store.sql.migration import upgrade


class Stage:
    """A context manager that starts PostgreSQL on first use and stops both servers on exit."""

    def __init__(self) -> None:
        self._rabbitmq = RabbitMQServer()
        self._postgresql: PostgreSQLServer | None = None

    def __enter__(self) -> Stage:
        ensure_binaries()
        # pifpaf warns of every process that has already ended when it stops the node.
        logging.getLogger("pifpaf").setLevel(logging.ERROR)
        try:
            self._rabbitmq.open()
        except BaseException:
            self._rabbitmq.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._postgresql is not None:
            self._postgresql.close()
        self._rabbitmq.close()

    @cached_property
    def broker_pid(self) -> int:
        return listening(self._rabbitmq.port)

    @cached_property
    def broker_version(self) -> str:
        return self._rabbitmq.ctl("version").strip()

    @contextmanager
    def virtual_host(self) -> Iterator[str]:
        """Yield the transport URL of an empty virtual host and delete the virtual host, with its queues, afterwards."""
        url = self._rabbitmq.virtual_host_url()
        yield url
        self._rabbitmq.ctl("delete_vhost", url.rpartition("/")[2])

    @cached_property
    def _database(self) -> PostgreSQLServer:
        self._postgresql = server = PostgreSQLServer()
        server.open()
        # The tests switch fsync off; here a commit must have its real cost.
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = on")
        server.restart()
        return server

    @property
    def database_pid(self) -> int:
        return listening(self._database.port)

    @contextmanager
    def database(self) -> Iterator[str]:
        """Yield the SQLAlchemy URL of a PostgreSQL database with the schema and no rows, and drop the database afterwards."""
        with self.empty_database() as url:
            engine = create_engine(url)
            upgrade(engine)
            engine.dispose()
            yield url

    @contextmanager
    def empty_database(self) -> Iterator[str]:
        """Yield the SQLAlchemy URL of a PostgreSQL database without tables, and drop the database afterwards."""
        url = self._database.create_database()
        yield url
        self._database.drop_database(url)
