# SPDX-License-Identifier: Apache-2.0
"""What somebody gets who does what doc/admin/install.md says: a fresh environment with the package, a configuration, a database
and a broker's policies, below a directory of a test and on its servers."""

from __future__ import annotations

import grp
import os
import re
import shutil
from pathlib import Path

from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.binaries import find_postgresql
from tests.support.doc_pages import DOC, ROOT, blocks
from tests.support.doc_shell import Shell, commands
from tests.support.worker_process import PROGRAM

INSTALL = DOC / "admin" / "install.md"
HOST = "compute-1"
"""The host of the page's configuration."""
PG_URL = r"postgresql\+psycopg://tracker:secret@db\.example\.org/tracker"
"""A pattern of the database's URL on the pages."""
# What the page's commands work on, and what a source distribution has.
_SOURCE = (
    "setup.py",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "constraints.txt",
    "etc",
    "tracker_worker",
)


def copy_source(tree: Path) -> Path:
    """Make a source tree without what the build tools leave in one, and return it."""
    tree.mkdir()
    for name in _SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tree / name)
    return tree


class PageInstallation:
    """``role`` is the name of the database and of its owner, which the page calls ``tracker``; they must not exist. What only
    an administrator of the machine may do is noted in ``notes``, in a file of the program's name."""

    def __init__(
        self, directory: Path, *, rabbitmq: RabbitMQServer, postgresql: PostgreSQLServer, transport_url: str, role: str
    ) -> None:
        self.notes = directory
        self.root = directory / "root"
        self.source = copy_source(directory / "source")
        postgresql_programs = find_postgresql()
        assert postgresql_programs is not None
        group = grp.getgrgid(os.getgid()).gr_name
        self.shell = Shell(
            self.source,
            programs=[self._administrators(directory / "bin", rabbitmq), postgresql_programs, PROGRAM.parent],
            environment={
                "PGHOST": "127.0.0.1",
                "PGPORT": str(postgresql.port),
                "PGUSER": postgresql.user,
                "PGPASSWORD": postgresql.password,
                "PGDATABASE": "postgres",
            },
            replaced={
                r"rabbit://tracker:secret@rabbit-1:5672,tracker:secret@rabbit-2:5672/": transport_url,
                PG_URL: f"postgresql+psycopg://{role}:secret@127.0.0.1:{postgresql.port}/{role}",
                r"(createuser --pwprompt) tracker": rf"\1 {role}",
                r"(createdb --owner) tracker tracker": rf"\1 {role} {role}",
                r"-p / ": f"-p {transport_url.rpartition('/')[2]} ",
                r"--group=tracker-worker": f"--group={group}",
                r"(?<![\w.])(/opt/|/etc/|/var/lib/)": rf"{self.root}\1",
            },
        )
        for name in ("etc/systemd/system", "opt", "var/lib"):
            (self.root / name).mkdir(parents=True)
        texts = [self.shell.text(block.text) for block in blocks(INSTALL, "ini")]
        (self.source / "worker.conf").write_text("\n".join(texts), encoding="utf-8")
        self.unit = self.source / "etc" / "tracker-worker.service"
        self.unit.write_text(self.shell.text(self.unit.read_text(encoding="utf-8")), encoding="utf-8")
        self.configuration = self.root / "etc" / "tracker-worker" / "tracker-worker.conf"

    def _administrators(self, directory: Path, rabbitmq: RabbitMQServer) -> Path:
        """Programs in place of the machine's: rabbitmqctl for the private node, and notes."""
        directory.mkdir()
        variables = " ".join(f"{name}='{value}'" for name, value in rabbitmq.ctl_environment().items())
        scripts = {"rabbitmqctl": f'exec env {variables} {" ".join(rabbitmq.ctl_command())} "$@"'}
        for name in ("useradd", "systemctl"):
            scripts[name] = f'echo "$@" >> {self.notes / name}'
        for name, script in scripts.items():
            (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            (directory / name).chmod(0o755)
        return directory

    def install(self) -> list[str]:
        """Run every command of the page, in order, and return them."""
        shown = [command for block in blocks(INSTALL, "console") for command in commands(block)]
        for command in shown:
            asks = "--pwprompt" in command
            self.shell.run(command, stdin="secret\nsecret\n" if asks else "")
        return shown

    @property
    def serve(self) -> list[str]:
        """What systemd would start."""
        return re.findall(r"^ExecStart=(.*)$", self.unit.read_text(encoding="utf-8"), re.MULTILINE)[0].split()
