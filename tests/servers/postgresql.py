# SPDX-License-Identifier: Apache-2.0
"""A private PostgreSQL cluster that a test may stop, crash and start again."""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil
import psycopg
from psycopg import sql

from .binaries import find_postgresql
from .ports import Ports, is_listening

_USER = "tracker"


class PostgreSQLServer:
    """One cluster on 127.0.0.1. Not thread-safe; ``close()`` ends every process and removes every file.

    PostgreSQL refuses to run as root; under root, it runs as the user ``postgres``, or ``nobody`` if that user does not
    exist.
    """

    def __init__(self) -> None:
        self._held = Ports()
        self.port = self._held.first
        self.user = _USER
        self.password = secrets.token_hex(8)
        self._account: pwd.struct_passwd | None = _other_account() if os.geteuid() == 0 else None
        self.directory = Path(tempfile.mkdtemp(prefix="tracker-postgresql-"))
        self._names = (f"test_{number}" for number in itertools.count(1))
        if self._account is not None:
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database ``postgres``, which every cluster has."""
        return self._url("postgres", driver="postgresql+psycopg")

    def open(self) -> None:
        """Create the cluster and start it. Raises: RuntimeError with the program's output when a program fails."""
        secret = self.directory / "password"
        secret.write_text(self.password, encoding="utf-8")
        if self._account is not None:
            os.chown(secret, self._account.pw_uid, self._account.pw_gid)
        self._run(
            "initdb",
            "--no-sync",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            f"--username={self.user}",
            f"--pwfile={secret}",
        )
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as configuration:
            configuration.write(
                f"port = {self.port}\n"
                "listen_addresses = '127.0.0.1'\n"
                "unix_socket_directories = ''\n"
                # The tests kill processes but never the machine: data that the kernel has received survives.
                "fsync = off\n"
            )
        self.start()

    def close(self) -> None:
        """Stop immediately and remove the directory. No effect if nothing was started."""
        try:
            self.stop(mode="immediate")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)
            self._held.close()

    def start(self) -> None:
        """Start the server after ``stop()``. Returns when it accepts connections."""
        self._run("pg_ctl", "start", "--wait", "--silent", f"--log={self.directory / 'log'}")

    def stop(self, *, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End every session and the server: ``fast`` shuts down cleanly, ``immediate`` acts like a crash. No effect if
        stopped.
        """
        if (self._data / "postmaster.pid").exists():
            self._run("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same data."""
        self.stop()
        self.start()

    def back_up(self) -> Path:
        """Stop the server, copy its data, and start it again. Return the copy, for ``fail_over``."""
        self.stop()
        copy = Path(tempfile.mkdtemp(dir=self.directory, prefix="copy-"))
        shutil.copytree(self._data, copy, dirs_exist_ok=True)
        for path in (copy, *copy.rglob("*")):
            self._give(path)
        copy.chmod(0o700)
        self.start()
        return copy

    def fail_over(self, copy: Path) -> None:
        """Crash the server, and start it on a copy that ``back_up`` has made: what was written since then is lost."""
        self.stop(mode="immediate")
        shutil.rmtree(self._data)
        copy.rename(self._data)
        self.start()

    def _give(self, path: Path) -> None:
        """Let the account of the server own the file."""
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Suspend all server processes: connections stay open, the kernel accepts new ones, and the server answers nothing."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        postmaster.suspend()  # first, so that it forks no new children
        children = postmaster.children()
        try:
            for child in children:
                child.suspend()
            yield
        finally:
            for process in (*children, postmaster):
                process.resume()

    def ensure_running(self) -> None:
        """Start the server if a test has stopped it."""
        if not is_listening(self.port):
            self.start()

    def create_database(self) -> str:
        """Create an empty database and return its SQLAlchemy URL."""
        name = next(self._names)
        self._execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self._url(name, driver="postgresql+psycopg")

    def drop_database(self, url: str) -> None:
        """Drop a database made by ``create_database()`` and end the sessions that still use it."""
        name = url.rpartition("/")[2]
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _url(self, database: str, *, driver: str) -> str:
        return f"{driver}://{self.user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self._url("postgres", driver="postgresql"), autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *arguments: str) -> None:
        directory = find_postgresql()
        if directory is None:
            raise RuntimeError("PostgreSQL's server programs cannot be found")
        output = self.directory / "output"
        identity: dict[str, Any] = {}
        if self._account is not None:
            identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        # Use a file instead of a pipe: the server inherits the output and would keep a pipe open.
        with output.open("wb") as sink:
            done = subprocess.run(
                [str(directory / program), *arguments, "-D", str(self._data)],
                cwd=self.directory,
                env={**os.environ, "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                **identity,
            )
        if done.returncode != 0:
            log = self.directory / "log"
            text = output.read_text(errors="replace") + (log.read_text(errors="replace") if log.exists() else "")
            raise RuntimeError(f"{program} returned {done.returncode}: {text[-4000:]}")


def _other_account() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
