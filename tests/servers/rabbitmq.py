# SPDX-License-Identifier: Apache-2.0
"""A private RabbitMQ node, with its own Erlang port mapper, that a test may stop, kill and start again."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from pifpaf.drivers.rabbitmq import RabbitMQDriver

from .binaries import find_rabbitmq
from .ports import Ports, is_listening

_USER = "tracker"
# Every call of rabbitmqctl takes more than a second, so virtual hosts are created in batches.
_VIRTUAL_HOSTS_PER_BATCH = 20
_STOP_SECONDS = 30
# rabbitmqctl is a node too and needs a port; the additional ports are for a call that starts while another is ending.
_CTL_PORTS = 5
# The node writes the metadata of its queues (Mnesia's log, the Raft library's dets tables) to disk with a delay.
_SETTLE = "ok = mnesia:sync_log(), [ok = dets:sync(Table) || Table <- dets:all()], ok."


class _Driver(RabbitMQDriver):
    """pifpaf's driver with this project's environment for every command."""

    def __init__(self, *, environment: dict[str, str], distribution_ports: Mapping[int, int], **kwargs: Any) -> None:
        """``distribution_ports`` maps a node's client port to the port for the other nodes."""
        super().__init__(**kwargs)
        self._environment = environment
        self._distribution_ports = distribution_ports

    def _exec(self, command: list[str], **kwargs: Any) -> Any:
        environment = {**(kwargs.get("env") or {}), **self._environment}
        if (port := environment.get("RABBITMQ_NODE_PORT")) is not None:
            environment["RABBITMQ_DIST_PORT"] = str(self._distribution_ports[int(port)])
        kwargs["env"] = environment
        # Erlang writes crash dumps to the directory in which it was started.
        return super()._exec(["env", f"--chdir={self.tempdir}", *command], **kwargs)

    def server_process(self, node: str) -> psutil.Popen | None:
        """The root of the node's processes, or None while the node is killed."""
        return self._process.get(node)


class RabbitMQServer:
    """One node. Not thread-safe; ``close()`` ends every process and removes every file.

    ``running -stop_app()-> no listeners -start_app()-> running``; ``running -kill()-> dead -start()-> running``.
    Queues, messages and virtual hosts survive each of these transitions as RabbitMQ promises.
    """

    nodes = 1

    def __init__(self) -> None:
        self._held = Ports(2 * self.nodes + 1 + _CTL_PORTS)
        self.port = self._held.first
        self.user = _USER
        self.password = secrets.token_hex(8)
        self.name = f"tracker-{os.getpid()}-{self.port}"
        self.node = f"{self.name}@localhost"
        self._epmd_port = self.port + 2 * self.nodes
        self.directory = Path(tempfile.mkdtemp(prefix="tracker-rabbitmq-"))
        self._epmd: subprocess.Popen[bytes] | None = None
        self._driver: _Driver | None = None
        self._virtual_host_names = (f"test-{number}" for number in itertools.count(1))
        self._virtual_hosts: list[str] = []

    @property
    def ports(self) -> list[int]:
        """The ports of the nodes for clients."""
        # pifpaf counts the ports up from the first.
        return [self.port + number for number in range(self.nodes)]

    @property
    def url(self) -> str:
        """An oslo.messaging transport URL of the default virtual host."""
        return f"rabbit://{self.user}:{self.password}@127.0.0.1:{self.port}//"

    @property
    def amqp_url(self) -> str:
        """The URL of the default virtual host for kombu and amqp."""
        return f"amqp://{self.user}:{self.password}@127.0.0.1:{self.port}//"

    def open(self) -> None:
        """Start the port mapper and the node. Raises: RuntimeError with the node's output when the node does not start."""
        # The port mapper runs in the foreground as a child process: a node without one starts a daemon that outlives the tests.
        program = find_rabbitmq("epmd")
        if program is None:
            raise RuntimeError("epmd cannot be found")
        self._epmd = subprocess.Popen(
            [program, "-port", str(self._epmd_port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Like the node, epmd must not get Ctrl-C, because this process may have to start the node again.
            start_new_session=True,
        )
        (self.directory / "rabbitmq.conf").write_text(f"default_pass = {secrets.token_hex(8)}\n", encoding="utf-8")
        self._driver = _Driver(
            environment=self._environment(),
            distribution_ports={port: port + self.nodes for port in self.ports},
            port=self.port,
            nodename=self.name,
            cluster=self.nodes > 1,
            username=self.user,
            password=self.password,
            tmp_rootdir=str(self.directory),
        )
        self._driver.setUp()

    def close(self) -> None:
        """Stop everything and remove the directory. No effect if nothing was started."""
        try:
            if self._driver is not None:
                # The directory is removed, so the node need not write anything before it ends.
                self.kill(settle=False)
                self._driver.cleanUp()
        finally:
            if self._epmd is not None:
                self._epmd.terminate()
                self._epmd.wait(_STOP_SECONDS)
            shutil.rmtree(self.directory, ignore_errors=True)
            self._held.close()

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` and return its output. Raises: subprocess.CalledProcessError when it fails."""
        return subprocess.run(
            [*self.ctl_command(), *arguments],
            env={**os.environ, **self.ctl_environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def ctl_command(self) -> list[str]:
        """``rabbitmqctl`` for this node, in ``ctl_environment``."""
        program = find_rabbitmq("rabbitmqctl")
        assert program is not None
        return [program, "--quiet", "--node", self.node]

    def ctl_environment(self) -> dict[str, str]:
        return {**self._started().env, **self._environment()}

    def stop_app(self) -> None:
        """Close every connection and listener; Erlang keeps running."""
        self._started().stop_node(self.node)

    def start_app(self) -> None:
        """Start the application after ``stop_app()``. Returns when the node accepts connections."""
        self._started().start_node(self.node)

    def kill(self, *, settle: bool = True) -> None:
        """Send SIGKILL. Returns when every process has ended.

        ``settle`` first writes declarations to disk. Without it, a quorum queue that was declared within the last two
        or three seconds never gets a leader again (RabbitMQ 3.10.8, a single node; measured; does not happen after a
        clean stop).
        """
        if settle and is_listening(self.port):
            self.ctl("eval", _SETTLE)
        self._end(signal.SIGKILL)

    def start(self) -> None:
        """Start the node after ``kill()``. Returns when it accepts connections."""
        self._started().start_node(self.node)

    def restart(self) -> None:
        """Stop the node cleanly if it runs, and start it on the same data."""
        self._end(signal.SIGTERM)
        self.start()

    def ensure_running(self) -> None:
        """Start the node if a test has stopped or killed it."""
        if not is_listening(self.port):
            self._started().start_node(self.node)

    def virtual_host(self) -> str:
        """The name of an unused virtual host with all permissions. Every twentieth call takes a second."""
        if not self._virtual_hosts:
            self._virtual_hosts = list(itertools.islice(self._virtual_host_names, _VIRTUAL_HOSTS_PER_BATCH))
            rights = {"user": self.user, "configure": ".*", "write": ".*", "read": ".*"}
            definitions = {
                "vhosts": [{"name": name} for name in self._virtual_hosts],
                "permissions": [{"vhost": name, **rights} for name in self._virtual_hosts],
            }
            path = self.directory / "definitions.json"
            path.write_text(json.dumps(definitions), encoding="utf-8")
            self.ctl("import_definitions", str(path))
        return self._virtual_hosts.pop(0)

    def virtual_host_url(self) -> str:
        """An oslo.messaging transport URL of an unused virtual host; with ``amqp://`` for ``rabbit://`` it is kombu's."""
        return f"rabbit://{self.user}:{self.password}@127.0.0.1:{self.port}/{self.virtual_host()}"

    def _end(self, number: signal.Signals, node: str | None = None) -> None:
        driver = self._started()
        process = driver.server_process(node or self.node)
        if process is None:
            return
        family = process.children(recursive=True)
        driver.kill_node(node or self.node, signal=number)
        process.poll()  # gets its exit code, without which Python warns that it still runs
        # pifpaf has waited for a shell; the virtual machine that holds ports and files is another process.
        _, alive = psutil.wait_procs(family, timeout=_STOP_SECONDS)
        if alive:
            raise RuntimeError(f"RabbitMQ did not end within {_STOP_SECONDS} s: {alive}")

    def _started(self) -> _Driver:
        if self._driver is None:
            raise RuntimeError("RabbitMQ was not started")
        return self._driver

    def _environment(self) -> dict[str, str]:
        """An environment that shares nothing with the machine's own RabbitMQ (ports, port mapper, files in /etc)."""
        return {
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._epmd_port + 1),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._epmd_port + _CTL_PORTS),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "no-environment"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "no-advanced.config"),
            # Only this machine can reach the node, and its idle schedulers leave the cores to the tests.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "+sbwt none +sbwtdcpu none +sbwtdio none",
        }
