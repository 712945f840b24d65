# SPDX-License-Identifier: Apache-2.0
"""The servers of a session, and the mark of the tests that need one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import PostgreSQLServer, RabbitMQServer, ensure_binaries

_FUNCTIONAL = Path(__file__).parent / "functional"
_SERVER_FIXTURES = {"rabbitmq", "postgresql"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark `server` on all of tests/functional, and elsewhere on what uses a server's fixture, directly or not."""
    for item in items:
        if _FUNCTIONAL in item.path.parents or _SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the first test rather than in the middle: the programs are there, or the session ends."""
    if session.config.option.collectonly:
        return
    if any(item.get_closest_marker("server") for item in session.items):
        ensure_binaries()


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQServer]:
    """The session's RabbitMQ. A test that stops it need not start it again: `broker_vhost` does."""
    server = RabbitMQServer()
    try:
        server.open()
        yield server
    finally:
        server.close()


@pytest.fixture
def broker_vhost(rabbitmq: RabbitMQServer) -> str:
    """The oslo.messaging transport URL of a virtual host of one's own on the session's RabbitMQ."""
    rabbitmq.ensure_running()
    return rabbitmq.virtual_host_url()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQLServer]:
    """The session's PostgreSQL. A test that stops it need not start it again: `postgresql_url` does."""
    server = PostgreSQLServer()
    try:
        server.open()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQLServer) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of one's own, dropped afterwards."""
    postgresql.ensure_running()
    url = postgresql.create_database()
    yield url
    postgresql.ensure_running()
    postgresql.drop_database(url)
