# SPDX-License-Identifier: Apache-2.0
"""A site as an operator has it: a worker that was installed by doc/admin/install.md alone, in a fresh environment and with
exactly the documented rights, a scheduler, a consumer of notifications, and a Prometheus."""

from __future__ import annotations

import subprocess
import sysconfig
import uuid as random_uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.functional.test_database_rights import WORKER, Database
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.ports import Ports
from tests.servers.proxy import Proxy
from tests.support import stock
from tests.support.deadline import wait_until
from tests.support.health import fetch
from tests.support.page_installation import HOST, PageInstallation
from tests.support.prometheus import Prometheus, prometheus
from tests.support.rights import users_of
from tests.support.signals import findings_of
from tests.support.worker_process import NODE, WorkerProcess

CONSUME = b"\x00\x3c\x00\x14\x00\x00"  # class basic, method consume, and a field that is 0: AMQP 0-9-1, 1.8.3.3
NODES = ("rack-1", "rack-2")
OPTIONS = """
[health]
listen = 127.0.0.1:{port}
probe_interval_seconds = 2

[tracker]
inventory_driver = rack

[notifications]
usage_audit_period = year
"""
# The driver of doc/contributor/howto.md, installed like a package of its own. A file beside it makes one of its nodes fail.
_DRIVER = """
from pathlib import Path

from tracker_worker.inventory.base import InventoryDriver

BROKEN = Path(__file__).with_name("rack_driver.broken")


class RackDriver(InventoryDriver):
    def get_available_nodes(self):
        return {nodes}

    def get_available_resource(self, nodename):
        if BROKEN.exists() and nodename == "{broken}":
            raise RuntimeError("the controller of " + nodename + " does not answer")
        return {resource}
"""
_RABBIT: dict[str, Any] = {"amqp_durable_queues": True, "rabbit_transient_quorum_queue": True}
"""The client options of the page."""


class Site:
    """``worker`` is started. ``admin`` is a session of PostgreSQL's administrator in the worker's database."""

    def __init__(
        self, directory: Path, *, rabbitmq: RabbitMQServer, postgresql: PostgreSQLServer, stack: ExitStack
    ) -> None:
        self.rabbitmq, self.postgresql = rabbitmq, postgresql
        url = rabbitmq.virtual_host_url()
        self.vhost = url.rpartition("/")[2]
        (rights := directory / "rights").mkdir()
        self.users = stack.enter_context(users_of(rabbitmq, url, rights))
        self.users.make_all(
            {
                self.user: ("worker", HOST),
                "story-scheduler": ("scheduler",),
                "story-billing": ("billing",),
                "story-operator": ("operator",),
            }
        )
        self.proxy = stack.enter_context(closing(Proxy(rabbitmq.port)))
        self.proxy.notice(CONSUME)
        self.proxy.open()
        through = f"127.0.0.1:{self.proxy.port}"
        self.worker_url = self.users.url(self.user).replace(f"127.0.0.1:{rabbitmq.port}", through)

        role = f"tracker_{random_uuid.uuid4().hex[:8]}"
        stack.callback(self._drop, role)
        self.installation = PageInstallation(
            directory, rabbitmq=rabbitmq, postgresql=postgresql, transport_url=self.worker_url, role=role
        )
        self.installation.install()
        self.database = Database(postgresql.url.rpartition("/")[0] + f"/{role}")
        database_url = self.database.make(WORKER)
        stack.callback(self.database.remove_users)

        ports = stack.enter_context(closing(Ports(2)))
        self.port, self.other_port = ports.first, ports.first + 1
        self.configuration = self.installation.configuration
        self._configure(database_url)
        self.broken = self._install_driver()
        self.worker = self._worker(directory / "worker")
        self.worker.configuration = self.configuration
        stack.callback(self.worker.close)
        self.worker.start()
        self.client = stack.enter_context(stock.client(self.users.url("story-scheduler"), **_RABBIT))
        stack.enter_context(stock.listener(self.users.url("story-billing"), topics=("notifications",), **_RABBIT))
        (scrapes := directory / "prometheus").mkdir()
        self.prometheus: Prometheus = stack.enter_context(prometheus(scrapes, self.port, self.other_port))

    user = "story-worker"

    @property
    def program(self) -> str:
        """The program of the fresh environment."""
        return self.installation.serve[0]

    @property
    def log(self) -> Path:
        return self.worker.log_path

    def checking(self, *arguments: str, configuration: Path | None = None) -> list[str]:
        """The command that checks the installation."""
        return [self.program, f"--config-file={configuration or self.configuration}", "check", *arguments]

    def problems(self) -> list[str]:
        return [f"{one['name']}: {one['message']}" for one in findings_of(self.checking()) if one["level"] != "ok"]

    def run(self, *arguments: str) -> None:
        """Run a command of the fresh environment as the operator, with the operator's rights on the broker."""
        operator = self.configuration.with_name("operator.conf")
        operator.write_text(f"[DEFAULT]\ntransport_url = {self.users.url('story-operator')}\n", encoding="utf-8")
        command = [self.program, f"--config-file={self.configuration}", f"--config-file={operator}", *arguments]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)

    def wait_well(self) -> None:
        """Wait until the worker is ready, and Prometheus knows it."""
        wait_until(self._is_ready, lambda: f"a ready worker; it says\n{self.worker.log()}", seconds=60)
        wait_until(lambda: self.prometheus.value(f"tracker_ready{self.instance()}") == 1, "a scrape")

    def _is_ready(self) -> bool:
        assert self.worker.is_alive(), self.worker.log()
        try:
            return fetch(self.port, "/readyz").status == 200
        except OSError:  # it has just been started
            return False

    def instance(self, port: int | None = None) -> str:
        """The label of a worker's metrics."""
        return f'{{instance="127.0.0.1:{port or self.port}"}}'

    def ctl(self, command: str, *arguments: str) -> None:
        """A command of the broker's administrator about the virtual host."""
        self.rabbitmq.ctl(command, "-p", self.vhost, *arguments)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[object]]:
        """A session of PostgreSQL's administrator in the worker's database, rolled back at the end."""
        with psycopg.connect(self.database.url.replace("+psycopg", "", 1)) as connection:
            yield connection
            connection.rollback()

    def audit(self) -> None:
        """Let the worker ask its driver."""
        self.client.cast(HOST, "update_available_resource")

    def other_worker(self, directory: Path) -> WorkerProcess:
        """A worker for the same host on a machine of its own: with an SQLite database, and so with another ledger."""
        options = {"health": {"listen": f"127.0.0.1:{self.other_port}", "probe_interval_seconds": 2}}
        return self._worker(directory, {**options, "oslo_messaging_rabbit": {**_RABBIT}})

    def _worker(self, directory: Path, options: dict[str, dict[str, object]] | None = None) -> WorkerProcess:
        directory.mkdir()
        worker = WorkerProcess(
            directory,
            transport_url=self.worker_url,
            hosts={HOST: dict.fromkeys(NODES, NODE)},
            options=options,
            program=Path(self.program),
        )
        worker.configuration.chmod(0o600)
        return worker

    def _configure(self, database_url: str) -> None:
        """The page's configuration, with a user who does not own the tables, a port and a driver."""
        lines = self.configuration.read_text(encoding="utf-8").splitlines()
        lines = [f"connection = {database_url}" if line.startswith("connection = ") else line for line in lines]
        text = "\n".join(lines) + OPTIONS.format(port=self.port)
        self.configuration.write_text(text, encoding="utf-8")

    def _install_driver(self) -> Path:
        """Install the driver. Returns the file that makes it fail, once it is there."""
        packages = Path(sysconfig.get_path("purelib", vars={"base": str(Path(self.program).parents[1])}))
        text = _DRIVER.format(nodes=list(NODES), broken=NODES[1], resource={**NODE, "cpu_info": ""} | _UNUSED)
        (packages / "rack_driver.py").write_text(text, encoding="utf-8")
        metadata = packages / "rack_driver-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rack-driver\nVersion: 1.0\n", encoding="utf-8")
        (metadata / "entry_points.txt").write_text(
            "[tracker_worker.inventory]\nrack = rack_driver:RackDriver\n", encoding="utf-8"
        )
        return packages / "rack_driver.broken"

    def _drop(self, role: str) -> None:
        self.postgresql.ensure_running()
        with psycopg.connect(self.postgresql.url.replace("+psycopg", "", 1), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {role} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {role}")


_UNUSED = dict.fromkeys(("vcpus_used", "memory_mb_used", "local_gb_used"), 0)
