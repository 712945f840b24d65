# SPDX-License-Identifier: Apache-2.0
"""Users of a virtual host who have exactly the rights that ``tracker-worker rabbitmq permissions`` prints for their roles."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import RabbitMQServer
from tests.support.worker_process import PROGRAM

_PASSWORD = "theirs"


class Users:
    """``url`` is the transport URL of a virtual host, for a user who may do everything."""

    def __init__(self, rabbitmq: RabbitMQServer, url: str, directory: Path) -> None:
        self._rabbitmq = rabbitmq
        self._address = url.rpartition("@")[2]
        self._vhost = self._address.rpartition("/")[2]
        self._names: list[str] = []
        self._configuration = directory / "permissions.conf"
        self._configuration.write_text(f"[DEFAULT]\ntransport_url = {url}\n", encoding="utf-8")

    def url(self, name: str) -> str:
        """The transport URL of a user."""
        return f"rabbit://{name}:{_PASSWORD}@{self._address}"

    def make(self, role: str, *hosts: str, name: str | None = None) -> str:
        """Make a user of this role by running what the command prints, and return the user's transport URL."""
        name = name or role
        self._rabbitmq.ctl("add_user", name, _PASSWORD)
        self._names.append(name)
        for line in self._printed_for(role, hosts, name):
            program, *arguments = shlex.split(line)
            assert program == "rabbitmqctl"
            self._rabbitmq.ctl(*arguments)
        return self.url(name)

    def make_all(self, wanted: Mapping[str, tuple[str, ...]]) -> None:
        """Make users, name -> role and hosts, with what the command prints, but in one call of rabbitmqctl, which takes more
        than a second."""
        definitions: dict[str, list[dict[str, str]]] = {"users": [], "permissions": [], "topic_permissions": []}
        for name, (role, *hosts) in wanted.items():
            plain, topic = (shlex.split(line)[2:] for line in self._printed_for(role, hosts, name))
            definitions["users"].append({"name": name, "password": _PASSWORD, "tags": ""})
            of = {"vhost": plain[1], "user": plain[2]}
            definitions["permissions"].append(of | dict(zip(("configure", "write", "read"), plain[3:], strict=True)))
            definitions["topic_permissions"].append(
                of | dict(zip(("exchange", "write", "read"), topic[3:], strict=True))
            )
        path = self._configuration.with_suffix(".json")
        path.write_text(json.dumps(definitions), encoding="utf-8")
        self._rabbitmq.ctl("import_definitions", str(path))
        self._names += wanted

    def _printed_for(self, role: str, hosts: Sequence[str], name: str) -> list[str]:
        return self.printed(f"--role={role}", f"--user={name}", *(f"--host={host}" for host in hosts))

    def printed(self, *options: str) -> list[str]:
        """The lines that the command prints."""
        done = subprocess.run(
            [PROGRAM, f"--config-file={self._configuration}", "rabbitmq", "permissions", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    def set(self, name: str, configure: str, write: str, read: str) -> None:
        """Replace the rights of a user for exchanges and queues."""
        self._rabbitmq.ctl("set_permissions", "-p", self._vhost, name, configure, write, read)

    def remove(self) -> None:
        for name in self._names:
            self._rabbitmq.ctl("delete_user", name)


@contextmanager
def users_of(rabbitmq: RabbitMQServer, url: str, directory: Path) -> Iterator[Users]:
    """Users that are removed at the end of the block."""
    users = Users(rabbitmq, url, directory)
    try:
        yield users
    finally:
        users.remove()
