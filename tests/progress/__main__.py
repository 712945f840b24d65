# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.progress``, which ``tox -e progress`` runs: two workers of forty hosts under load, without any fault.

Exit code 1 if a host went without an answer, or a conflict was not resolved within three attempts.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import click

from tests.invariants.record import read_lines
from tests.progress.load import BOTH, BUSY_HOSTS, node_of
from tests.progress.report import Answer, conflict_violations, counters, lines, violations
from tests.servers import PostgreSQLServer, RabbitMQServer, ensure_binaries
from tests.support.callers import connected
from tests.support.migrated import migrated
from tests.support.worker_process import NODE, WorkerProcess

_ROOT = Path(__file__).parents[2]
_STORES = ("sqlite", "postgresql")
_HOSTS = [f"host{number:02}" for number in range(1, 41)]
# A ledger that takes a while to read, on the hosts that are busy.
_INSTANCES = 1000
_PARTS = ("hosts", "shared")


@click.command()
@click.option("--seconds", type=float, default=300, envvar="PROGRESS_SECONDS", show_envvar=True, show_default=True,
              help="How long the load lasts, for each store.")  # fmt: skip
@click.option("--seed", type=int, default=1, envvar="PROGRESS_SEED", show_envvar=True, show_default=True)
@click.option("--store", "stores", type=click.Choice(_STORES), multiple=True, default=_STORES, show_default=True)
def main(seconds: float, seed: int, stores: tuple[str, ...]) -> None:
    """Put two workers under load, and look whether anybody has to wait because others are busy."""
    ensure_binaries()
    signal.signal(signal.SIGTERM, _end)
    found = 0
    for store in stores:
        found += _run(store, seconds, seed)
    _say(f"{found} violations")
    sys.exit(1 if found else 0)


def _run(store: str, seconds: float, seed: int) -> int:
    """The number of violations on one store."""
    directory = Path(tempfile.mkdtemp(prefix=f"tracker-progress-{store}-"))
    _say(f"{store}: {len(_HOSTS)} hosts, two workers, {seconds:g} s")
    found: list[str] = []
    with ExitStack() as stack:
        try:
            found = list(_violations(stack, directory, store, seconds, seed))
        except Exception as error:  # noqa: BLE001 reported as a violation, and the other store follows
            found = [f"the run did not come to its end: {type(error).__name__}: {error}"]
    for violation in found[:50]:
        _say(f"VIOLATION {store}: {violation}")
    if found:
        _say(f"logs are kept in {directory}")
    else:
        shutil.rmtree(directory)
    return len(found)


def _violations(stack: ExitStack, directory: Path, store: str, seconds: float, seed: int) -> Iterator[str]:
    rabbitmq = RabbitMQServer()
    stack.callback(rabbitmq.close)
    rabbitmq.open()
    url = rabbitmq.virtual_host_url()
    workers = _start_workers(stack, directory, url, _database(stack, directory, store))
    with connected(url) as callers:
        for host in _HOSTS[:BUSY_HOSTS]:
            callers.fill(host, node_of(host), _INSTANCES)
    clients = [_start_client(stack, directory, url, part, seed) for part in _PARTS]
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        threading.Event().wait(min(1.0, seconds))
        for worker in workers:
            assert worker.is_alive(), f"a worker has ended; see {worker.log_path}"
        for client in clients:
            assert client.poll() is None, f"a client has ended; see {directory}"
    for client in clients:
        assert client.stdin is not None
        client.stdin.close()
    for client in clients:
        assert client.wait(120) == 0, f"a client failed; see {directory}"
    ended = {worker.configuration.stem: worker.terminate() for worker in workers}
    answers = [one for part in _PARTS for one in read_lines(directory / f"{part}.jsonl", Answer)]
    for line in lines(answers, seconds):
        _say(f"{store}: {line}")
    yield from violations(answers, _HOSTS)
    for worker in workers:
        name = worker.configuration.stem
        if ended[name] != 0:
            yield f"{name} ended with {ended[name]}"
        yield from conflict_violations(name, worker.log())
        if "counters: " in worker.log():
            _say(f"{store}: {name}: {counters(worker.log())}")


def _database(stack: ExitStack, directory: Path, store: str) -> str:
    if store == "sqlite":
        return f"sqlite:///{directory / 'tracker.sqlite'}"
    postgresql = PostgreSQLServer()
    stack.callback(postgresql.close)
    postgresql.open()
    return migrated(postgresql.create_database())


def _start_workers(stack: ExitStack, directory: Path, url: str, database_url: str) -> list[WorkerProcess]:
    """The first is the active worker of one half of the hosts. The second stands by for those, and serves the other half alone:
    what concerns the busy hosts must not keep it from that."""
    workers = []
    for name, hosts in (("worker-a", _HOSTS[:BOTH]), ("worker-b", _HOSTS)):
        worker = WorkerProcess(
            directory,
            transport_url=url,
            hosts={host: {node_of(host): NODE} for host in hosts},
            options={"database": {"connection": database_url}, "tracker": {"audit_interval_seconds": 10}},
            name=name,
        )
        stack.callback(worker.close)
        workers.append(worker)
        worker.start()
        worker.wait_ready()
    return workers


def _start_client(stack: ExitStack, directory: Path, url: str, part: str, seed: int) -> subprocess.Popen[bytes]:
    with (directory / f"{part}.err").open("wb") as errors:
        client = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.progress.load", "--url", url, "--part", part),
                *("--log", str(directory / f"{part}.jsonl"), "--hosts", ",".join(_HOSTS), "--seed", str(seed)),
            ],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=errors,
            stderr=errors,
        )
    stack.callback(client.wait)
    stack.callback(client.kill)
    return client


def _end(_number: int, _frame: object) -> None:
    """End the run. Servers and workers are stopped on the way out, and a second signal must not interrupt that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
