# SPDX-License-Identifier: Apache-2.0
"""An installation whose ``check`` finds nothing: a worker that serves h1, and a consumer of its notifications."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.support.checking import Checker, Operator
from tests.support.worker_process import NODE, PROGRAM, Options, WorkerProcess
from tracker_worker.cli.main import _COMMANDS
from tracker_worker.conf import list_opts

HOSTS = {"h1": {"n1": NODE}}
PRIVATE = ("sh", "-c", 'umask 077; exec "$@"', "sh")
"""Becomes a command whose files only its user can read."""


class Installation(WorkerProcess):
    """A worker and its operator. ``server``: the broker, whose administrator the operator is too."""

    def __init__(
        self,
        directory: Path,
        server: RabbitMQServer,
        *,
        transport_url: str,
        hosts: Mapping[str, Any] = HOSTS,
        options: Options | None = None,
        database: PostgreSQLServer | None = None,
    ) -> None:
        super().__init__(directory, transport_url=transport_url, hosts=hosts, options=options, within=PRIVATE)
        if "health" not in dict(list_opts()):
            del self._sections["health"]
            self.configure({})
        self.server = server
        self.vhost = transport_url.rpartition("/")[2]
        self.checker = Checker(self.configuration)
        if database is not None:
            self.checker.environment["PGPASSWORD"] = database.password
        self._operator = Operator(
            self.checker,
            lambda group, option, value: self.configure({group: {option: value}}),
            {"rabbitmqctl": self._administer},
        )

    def configure(self, options: Options) -> None:
        super().configure(options)
        self.configuration.chmod(0o600)

    def begin(self) -> None:
        """Start the worker, and wait until it is ready."""
        self.start()
        self.wait_ready()

    def apply(self, cure: str) -> None:
        """Do what a cure says."""
        if cure.endswith(" serve"):
            self.begin()
        elif cure.endswith(" | sh"):
            self._permit(cure.removesuffix(" | sh"))
        else:
            self._operator.apply(cure)

    def _permit(self, command: str) -> None:
        """Give the broker's user the rights that a command prints as lines for a shell, with the test's rabbitmqctl."""
        if "rabbitmq" not in _COMMANDS:  # a release that cannot print them
            user = command.partition("--user ")[2].split()[0]
            self.server.ctl("set_permissions", "-p", self.vhost, user, ".*", ".*", ".*")
            self.server.ctl("clear_topic_permissions", "-p", self.vhost, user)
            return
        words = [str(PROGRAM), *shlex.split(command)[1:]]
        printed = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
        for line in printed.splitlines():
            self._administer(shlex.split(line)[1:])

    def _administer(self, words: list[str]) -> None:
        self.server.ctl(*words)

    def problems(self) -> list[dict[str, Any]]:
        """All findings that are not ok."""
        return [finding for finding in self.checker.findings() if finding["level"] != "ok"]

    def cured(self, name: str, level: str, *words: str, arguments: tuple[str, ...] = ()) -> None:
        """The check ``name`` has one problem, of this level and with these words, and none after its cure."""
        self.apply(self.checker.one(name, level, *words, arguments=arguments))
        assert self.checker.problems(name, *arguments) == []


def account(server: RabbitMQServer, url: str, user: str, *rights: str) -> str:
    """A transport URL with another user, who has these rights (configure, write, read; none: no access at all)."""
    vhost = url.rpartition("/")[2]
    server.ctl("add_user", user, "secret")
    if rights:
        server.ctl("set_permissions", "-p", vhost, user, *rights)
    return f"rabbit://{user}:secret@{url.rpartition('@')[2]}"
