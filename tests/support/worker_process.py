# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker serve`` as a separate process: its configuration, its signals, its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.support.deadline import SECONDS, wait_until
from tests.support.memory import limit_memory

PROGRAM = Path(sys.executable).with_name("tracker-worker")
# Date, time, process id, level: oslo.log's default format.
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \d+ [A-Z]+ ")

Options = Mapping[str, Mapping[str, Any]]
Nodes = Mapping[str, Mapping[str, int]]

NODE = {"vcpus": 64, "memory_mb": 262144, "local_gb": 4000}


class WorkerProcess:
    """One worker. A second ``start`` after its end continues on the same state, with the configuration of that moment.

    ``options`` override the default configuration, section by section. ``within`` is a command that becomes another command,
    such as ``ip netns exec``. ``program`` may be that of another release. Not thread-safe.
    """

    def __init__(
        self,
        directory: Path,
        *,
        transport_url: str,
        hosts: Mapping[str, Nodes],
        options: Options | None = None,
        name: str = "worker",
        environment: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        program: Path = PROGRAM,
    ) -> None:
        self.directory = directory
        self.configuration = directory / f"{name}.conf"
        self.inventory = directory / "inventory.yaml"
        self.log_path = directory / f"{name}.log"
        self._within = within
        self._program = program
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._read_from = 0
        self._sections: dict[str, dict[str, Any]] = {
            "DEFAULT": {"transport_url": transport_url},
            "tracker": {
                "state_path": directory / "state",
                "hosts": ", ".join(hosts),
                "inventory_driver": "static",
            },
            "inventory": {"static_file": self.inventory},
            # What a test hears must not depend on whether an hour ends meanwhile.
            "notifications": {"usage_audit_period": "year"},
            # A short maximum finds a restarted broker quickly; unit tests cover the growing interval.
            "oslo_messaging_rabbit": {"rabbit_interval_max": 1},
            # The port belongs to the machine: two workers side by side would conflict.
            "health": {"listen": ""},
        }
        self.write_inventory(hosts)
        self.configure(options or {})

    def configure(self, options: Options) -> None:
        """Change options in the configuration file."""
        for section, values in options.items():
            self._sections.setdefault(section, {}).update(values)
        lines = []
        for section, values in self._sections.items():
            lines += [f"[{section}]", *(f"{name} = {value}" for name, value in values.items())]
        self.configuration.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def write_inventory(self, hosts: Mapping[str, Nodes]) -> None:
        """Replace the static inventory file: host -> node -> its keys."""
        content = {"hosts": {host: {"nodes": dict(nodes)} for host, nodes in hosts.items()}}
        written = self.inventory.with_suffix(".new")
        written.write_text(yaml.safe_dump(content), encoding="utf-8")
        written.replace(self.inventory)  # a worker that reloads meanwhile reads one of the two, whole

    @property
    def database(self) -> Path:
        """The worker's default SQLite file."""
        return self.directory / "state" / "tracker.sqlite"

    def start(self, *, stdout: int | None = None, stderr: int | None = None) -> None:
        """Start the process. Returns immediately. The log's file gets both streams, but those for which a file descriptor is
        given."""
        assert self._process is None
        with self.log_path.open("ab") as log:
            self._read_from = log.tell()
            self._process = subprocess.Popen(
                [*self._within, self._program, f"--config-file={self.configuration}", "serve"],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log if stdout is None else stdout,
                stderr=log if stderr is None else stderr,
            )

    def wait_ready(self, *, seconds: float = SECONDS) -> None:
        """Wait for the log line that says that the worker consumes."""
        self.wait_for_log(" ready: ", seconds=seconds)

    def run(self) -> int:
        """Start the worker, wait until it ends, and return its exit code. For a worker whose start fails."""
        self.start()
        return self.wait()

    def log(self) -> str:
        """The output since the last start, on stdout and stderr."""
        return self.log_path.read_text(encoding="utf-8")[self._read_from :]

    def plain_lines(self) -> list[str]:
        """The lines of ``log`` that do not have the log format."""
        return [line for line in self.log().splitlines() if not _LOG_LINE.match(line)]

    def wait_for_log(self, text: str, *, times: int = 1, seconds: float = SECONDS) -> None:
        """Wait until the log holds ``text``. Raises AssertionError: the process ends first, or the time is over."""

        def said() -> bool:
            ended = not self.is_alive()
            if self.log().count(text) >= times:
                return True
            assert not ended, f"the worker ended before it said {text!r}:\n{self.log()}"
            return False

        wait_until(said, lambda: f"the worker says {text!r}; it says:\n{self.log()}", seconds=seconds)

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def thread_names(self) -> list[str]:
        """The names of the process's threads, as the system knows them."""
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task")
        return [(task / "comm").read_text(encoding="utf-8").strip() for task in tasks.iterdir()]

    def peak_memory(self) -> int:
        """The most resident memory that the process has had, in bytes."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))

    def limit_memory(self, size: int) -> None:
        """See ``limit_memory``."""
        assert self._process is not None
        limit_memory(self._process.pid, size)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def signal_ready(self, number: signal.Signals) -> None:
        """Send a signal if the process runs and has been ready. Another thread may start and stop the process meanwhile."""
        process = self._process
        if process is not None and " ready: " in self.log():
            process.send_signal(number)

    def wait(self, seconds: float = 30) -> int:
        """Wait for the end and return the exit code, negative for a signal.

        Raises subprocess.TimeoutExpired: the process does not end in time.
        """
        assert self._process is not None
        code = self._process.wait(seconds)
        self._process = None
        return code

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def terminate(self, seconds: float = 30) -> int:
        """Send SIGTERM, wait for the end and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def reload(self) -> None:
        """Send SIGHUP and wait until the worker has reloaded its configuration."""
        times = self.log().count(" reloaded")
        self.signal(signal.SIGHUP)
        self.wait_for_log(" reloaded", times=times + 1)

    def close(self) -> None:
        """Kill the process if it runs."""
        if self._process is not None:
            self._process.kill()
            self.wait()
