# SPDX-License-Identifier: Apache-2.0
"""Every block of README.md and doc/admin/install.md is run: commands as they are, on private servers and directories, and
configurations by a worker that becomes ready. The Python blocks are run by test_doc_examples.py."""

from __future__ import annotations

import re
import subprocess
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.support import stock
from tests.support.deadline import wait_until
from tests.support.doc_pages import ROOT, Block, blocks
from tests.support.doc_shell import Shell, commands
from tests.support.page_installation import HOST, INSTALL, PG_URL, PageInstallation, copy_source

pytestmark = pytest.mark.long

README = ROOT / "README.md"
_USERS = ("worker", "scheduler", "billing")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source tree without what the build tools leave in one."""
    return copy_source(tmp_path / "source")


@pytest.fixture
def role(postgresql: PostgreSQLServer) -> Iterator[str]:
    """The name of a role and of a database, which are dropped afterwards. The page's name is that of the server's own user."""
    postgresql.ensure_running()
    name = f"tracker_{uuid.uuid4().hex[:8]}"
    yield name
    postgresql.ensure_running()
    for statement in (f"DROP DATABASE IF EXISTS {name} WITH (FORCE)", f"DROP ROLE IF EXISTS {name}"):
        _execute(postgresql, statement)


def _execute(postgresql: PostgreSQLServer, statement: str) -> None:
    engine = sa.create_engine(postgresql.url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(statement))
    engine.dispose()


@pytest.fixture
def users(rabbitmq: RabbitMQServer) -> Iterator[None]:
    """The users that the page's commands are about."""
    for user in _USERS:
        rabbitmq.ctl("add_user", user, "secret")
    yield
    rabbitmq.ensure_running()
    for user in _USERS:
        rabbitmq.ctl("delete_user", user)


def serve_until_ready(command: list[str], shell: Shell, *, refused: str = "") -> None:
    """Run a worker until it is ready for HOST, and stop it. ``refused``: the command that it needs before."""
    log = shell.directory / "serve.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=shell.directory, env=shell.environment, stdin=subprocess.DEVNULL, stderr=sink
        )
    try:
        if refused:
            wait_until(lambda: f"host adopt {HOST}" in log.read_text(), "the worker asks for the command")
            shell.run(refused)
        wait_until(
            lambda: (
                re.search(f" active for {HOST}( now)?$", log.read_text(), re.MULTILINE) or process.poll() is not None
            ),
            lambda: f"a ready worker; it says\n{log.read_text()}",
        )
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def kinds(page: Path) -> list[str]:
    return [block.language for block in blocks(page)]


@pytest.mark.timeout(300)
def test_the_readme_works_from_its_first_command_to_its_last(
    source: Path, broker_vhost: str, postgresql_url: str
) -> None:
    assert set(kinds(README)) == {"", "console", "ini", "python", "text"}
    first, serve, extra, upgrade, adopt = blocks(README, "console")
    with_sqlite, with_postgresql = blocks(README, "ini")
    shell = Shell(source, replaced={r"rabbit://guest:guest@127\.0\.0\.1:5672/": broker_vhost, PG_URL: postgresql_url})
    install_and_demo, check = commands(first)
    # The checks are run by CI, with this very line.
    assert check in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = shell.run(install_and_demo).splitlines()
    assert lines[-1].startswith("By ")
    assert (source / ".venv" / "bin" / "tracker-worker").is_file()

    configuration = source / "worker.conf"
    configuration.write_text(shell.text(with_sqlite.text), encoding="utf-8")
    (serving,) = commands(serve)
    serve_until_ready(serving.split(), shell)
    assert (source / "state" / "tracker.sqlite").is_file()
    assert (source / "state").stat().st_mode & 0o777 == 0o700

    (command,) = commands(extra)
    shell.run(command)
    configuration.write_text(configuration.read_text() + shell.text(with_postgresql.text), encoding="utf-8")
    (command,) = commands(upgrade)
    assert "The schema is at revision" in shell.run(command)
    (command,) = commands(adopt)
    serve_until_ready(serving.split(), shell, refused=command)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("users")
def test_every_command_and_configuration_of_the_installation_works(
    tmp_path: Path, rabbitmq: RabbitMQServer, broker_vhost: str, postgresql: PostgreSQLServer, role: str
) -> None:
    assert set(kinds(INSTALL)) == {"console", "ini"}
    made = PageInstallation(tmp_path, rabbitmq=rabbitmq, postgresql=postgresql, transport_url=broker_vhost, role=role)
    shown = made.install()
    assert made.shell.ran == shown

    assert made.configuration.stat().st_mode & 0o777 == 0o640
    (user,) = (made.notes / "useradd").read_text().splitlines()
    assert user.split()[-1] in re.findall(r"^User=(.*)$", made.unit.read_text(), re.MULTILINE)
    assert (made.notes / "systemctl").read_text().splitlines() == ["daemon-reload", "enable --now tracker-worker"]
    assert len(rabbitmq.ctl("list_policies", "-p", broker_vhost.rpartition("/")[2]).splitlines()) == 2

    # What systemd would start, with the configuration of all blocks, behind which a client with the page's options is served.
    assert made.serve[0].startswith(str(made.root))
    assert Path(made.serve[2]) == made.configuration
    serve_until_ready(made.serve, made.shell)
    with stock.listener(broker_vhost, amqp_durable_queues=True, rabbit_transient_quorum_queue=True) as listener:
        listener.wait_for(HOST, HOST, 1)


def test_a_command_of_a_page_that_fails_is_noticed(tmp_path: Path) -> None:
    shell = Shell(tmp_path, replaced={"no-such": "other"})
    page = textwrap.dedent("""\
        $ echo one \\
            two
        one two
        $ no-such-command
        """)
    first, second = commands(Block("console", page, 1))
    assert shell.run(first) == "one two\n"
    with pytest.raises(AssertionError, match="other-command"):
        shell.run(second)
