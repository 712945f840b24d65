# SPDX-License-Identifier: Apache-2.0
"""The servers of a session, and the mark of the tests that need a server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Guard, PostgreSQLServer, RabbitMQServer, ensure_binaries

_FUNCTIONAL = Path(__file__).parent / "functional"
_BY_HAND = [Path(__file__).parent / name for name in ("billing", "limits", "model", "upgrades")]
_SERVER_FIXTURES = {"rabbitmq", "postgresql"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out tests/billing, tests/limits, tests/model and tests/upgrades, which take minutes, unless the command line names
    them."""
    if collection_path not in _BY_HAND:
        return None
    named = [(config.invocation_params.dir / name.partition("::")[0]).resolve() for name in config.args]
    return None if any(collection_path in (path, *path.parents) for path in named) else True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of tests/functional with `server`, and elsewhere the tests that use a server's fixture, directly or
    indirectly.
    """
    for item in items:
        if _FUNCTIONAL in item.path.parents or _SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Ensure before the first test, rather than during the session, that the programs exist; otherwise end the session."""
    if session.config.option.collectonly:
        return
    if not any(item.get_closest_marker("server") for item in session.items):
        return
    try:
        ensure_binaries()
    except pytest.exit.Exception as ended:
        if not _is_one_of_several(session):
            raise
        # The end of one of pytest-xdist's processes would look like a crash; the controlling process reads this and ends the
        # run.
        session.shouldstop = ended.msg


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Let a process of pytest-xdist run no test after `pytest_collection_finish` has found that programs are missing."""
    return True if session.shouldstop and _is_one_of_several(session) else None


def _is_one_of_several(session: pytest.Session) -> bool:
    return hasattr(session.config, "workerinput")


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    """Ends the session's servers, and the workers of the running test, when this process is killed."""
    guard = Guard()
    try:
        guard.open()
        yield guard
    finally:
        guard.close()


@pytest.fixture(scope="session")
def rabbitmq(guard: Guard) -> Iterator[RabbitMQServer]:
    """The session's RabbitMQ. A test that stops it need not start it again, because `broker_vhost` does."""
    server = RabbitMQServer()
    guard.remove(server.directory)
    try:
        server.open()
        yield server
    finally:
        server.close()


@pytest.fixture
def broker_vhost(rabbitmq: RabbitMQServer) -> str:
    """The oslo.messaging transport URL of a new virtual host on the session's RabbitMQ."""
    rabbitmq.ensure_running()
    return rabbitmq.virtual_host_url()


@pytest.fixture(scope="session")
def postgresql(guard: Guard) -> Iterator[PostgreSQLServer]:
    """The session's PostgreSQL. A test that stops it need not start it again, because `postgresql_url` does."""
    server = PostgreSQLServer()
    guard.remove(server.directory)
    try:
        server.open()
        yield server
    finally:
        server.close()


@pytest.fixture
def postgresql_url(postgresql: PostgreSQLServer) -> Iterator[str]:
    """The SQLAlchemy URL of a new, empty database, which is dropped afterwards."""
    postgresql.ensure_running()
    url = postgresql.create_database()
    yield url
    postgresql.ensure_running()
    postgresql.drop_database(url)
