# SPDX-License-Identifier: Apache-2.0
"""OpenStack Placement from PyPI, on the benchmark's PostgreSQL.

The WSGI server is uWSGI, with the command of Placement's installation guide (``uwsgi -M --http ... --processes N --threads
10``); pyuwsgi is uWSGI as a wheel, which needs no compiler. Beyond the guide, the router keeps connections open, and the second
log line for each request, which is uWSGI's, is off. The driver is psycopg2, because Placement reads ``lastrowid`` of a cursor,
which psycopg 3 does not have. Authentication is ``noauth2``: no token is checked.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from benchmarks.placement.http import HEADERS
from benchmarks.programs import program
from benchmarks.stage import Stage
from tests.servers.ports import Ports
from tests.support.deadline import wait_until

THREADS = 10
_CLASSES = ("VCPU", "MEMORY_MB", "DISK_GB")
# The largest total that the API takes; the ratio makes room for more claims than a run can make.
_INVENTORY = {"total": 2**31 - 1, "allocation_ratio": 1000.0}
_STOP_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Serving:
    """Placement that answers. ``provider`` is the resource provider's uuid, ``watched`` the process ids by name in the
    figures; the server's is that of uWSGI's master, whose children are its router and its workers.
    """

    port: int
    provider: str
    watched: Mapping[str, int]


@contextmanager
def serving(stage: Stage, processes: int) -> Iterator[Serving]:
    """Run Placement with so many worker processes and one resource provider on a database of its own.

    Raises ClickException: a program is not installed. AssertionError: Placement does not start; the message holds its log.
    """
    with (
        stage.empty_database() as url,
        TemporaryDirectory(prefix="tracker-benchmark-placement-") as directory,
    ):
        configured = Path(directory)
        (configured / "placement.conf").write_text(
            "[api]\nauth_strategy = noauth2\n"
            f"[placement_database]\nconnection = {url.replace('+psycopg', '+psycopg2')}\n",
            encoding="utf-8",
        )
        environment = {**os.environ, "OS_PLACEMENT_CONFIG_DIR": directory}
        command = [program("placement-manage"), "--config-dir", directory, "db", "sync"]
        synced = subprocess.run(command, env=environment, capture_output=True)
        assert synced.returncode == 0, f"placement-manage db sync failed:\n{synced.stderr.decode()[-4000:]}"
        ports = Ports()
        try:
            with _uwsgi(ports.first, processes, configured / "log", environment) as pid:
                yield Serving(ports.first, _provider(ports.first), {"server": pid, "database": stage.database_pid})
        finally:
            ports.close()


@contextmanager
def _uwsgi(port: int, processes: int, log: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Run the WSGI server and yield its process id once Placement answers."""
    command = [
        program("uwsgi"),
        "--master",
        f"--http=127.0.0.1:{port}",
        "--http-keepalive",
        "--module=placement.wsgi.api:application",
        f"--processes={processes}",
        f"--threads={THREADS}",
        "--disable-logging",
        "--die-on-term",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def answers() -> bool:
        said = log.read_text(encoding="utf-8", errors="replace")[-4000:]
        assert process.poll() is None, f"uWSGI ended:\n{said}"
        assert "no python application found" not in said, f"Placement does not load:\n{said}"
        return "spawned uWSGI http" in said and said.count("spawned uWSGI worker") == processes

    try:
        wait_until(answers, lambda: f"Placement starts; it says:\n{log.read_text()[-4000:]}")
        yield process.pid
        process.terminate()
        process.wait(_STOP_SECONDS)
    finally:
        process.kill()
        process.wait()


def _provider(port: int) -> str:
    """Create a resource provider with an inventory that holds every claim of a run; return its uuid."""
    provider = str(uuid4())
    _send(port, "POST", "/resource_providers", {"name": "node-1", "uuid": provider})
    inventories = {"resource_provider_generation": 0, "inventories": dict.fromkeys(_CLASSES, _INVENTORY)}
    _send(port, "PUT", f"/resource_providers/{provider}/inventories", inventories)
    return provider


def _send(port: int, method: str, path: str, body: Mapping[str, Any]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_STOP_SECONDS)
    try:
        connection.request(method, path, json.dumps(body), HEADERS)
        answer = connection.getresponse()
        said = answer.read()
        assert answer.status == 200, f"{method} {path}: {answer.status} {said!r}"
    finally:
        connection.close()
