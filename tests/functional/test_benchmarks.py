# SPDX-License-Identifier: Apache-2.0
"""Every command of the benchmarks at its smallest size, on the tests' servers: it runs, writes its samples and names its sides.

What is measured here means nothing: see benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import click
import pytest

from benchmarks.__main__ import COMMANDS
from benchmarks.borrowed import VARIABLE, Servers
from benchmarks.client_load import CLIENTS
from benchmarks.generator import ROOT
from benchmarks.growth.experiments import EXPERIMENTS
from benchmarks.placement.compare import placement_side
from benchmarks.sides import OURS, OURS_POSTGRESQL, SIDES, WATCHED
from benchmarks.spying import sampled
from benchmarks.workers.compare import ARRANGEMENTS, POSTGRESQL
from tests.servers import PostgreSQLServer, RabbitMQServer

_PROCESSES = 2
_ROUND = "--rounds=1"
_PERIOD = "exists"
_SIDES = [WATCHED, *(side for side in SIDES if side != OURS_POSTGRESQL)]
# For each command its smallest runs, which together have every side and experiment: arguments, and what the tables name.
SMALLEST: dict[str, Sequence[tuple[Sequence[str], Sequence[str]]]] = {
    "compare": [
        (
            [
                "--calls=20",
                _ROUND,
                "--in-flight=1",
                "--queue=classic",
                *(f"--side={side}" for side in _SIDES),
            ],
            _SIDES,
        )
    ],
    "growth": [
        (
            ["--smallest", *(f"--experiment={name}" for name in EXPERIMENTS if name != _PERIOD)],
            [OURS, *(name for short, name in EXPERIMENTS.items() if short != _PERIOD)],
        ),
        # Most of its time it waits for the end of a period.
        (["--smallest", f"--experiment={_PERIOD}", f"--side={OURS_POSTGRESQL}"], [OURS_POSTGRESQL]),
    ],
    "clients": [(["--calls=20", _ROUND], CLIENTS)],
    "placement": [
        (
            ["--calls=20", "--allocations=20", _ROUND, "--in-flight=4", f"--processes={_PROCESSES}"],
            [OURS_POSTGRESQL, placement_side(_PROCESSES)],
        )
    ],
    "workers": [
        (["--calls=20", _ROUND, "--hosts=2", "--in-flight=4", f"--store={POSTGRESQL}"], [POSTGRESQL, *ARRANGEMENTS]),
    ],
    "moves": [(["--moves=10", _ROUND, "--in-flight=4", f"--side={OURS_POSTGRESQL}"], [OURS_POSTGRESQL])],
    "profile": [(["--calls=100"], [OURS])],
}
RUNS = [
    pytest.param(command, *run, id=f"{command}-{number}")
    for command in COMMANDS
    for number, run in enumerate(SMALLEST.get(command, [((), ())]), 1)
]
_VIRTUAL_HOSTS, _DATABASES = 6, 3


@pytest.fixture
def servers(rabbitmq: RabbitMQServer, postgresql: PostgreSQLServer, tmp_path: Path) -> Iterator[Path]:
    """A file that lends the session's servers to a command."""
    rabbitmq.ensure_running()
    postgresql.ensure_running()
    lent = Servers(
        broker_port=rabbitmq.port,
        database_port=postgresql.port,
        virtual_hosts=[rabbitmq.virtual_host_url() for _ in range(_VIRTUAL_HOSTS)],
        databases=[postgresql.create_database() for _ in range(_DATABASES)],
    )
    path = tmp_path / "servers.json"
    path.write_text(json.dumps(asdict(lent)), encoding="utf-8")
    yield path
    for url in lent.databases:
        postgresql.drop_database(url)


@pytest.mark.parametrize(("command", "arguments", "named"), RUNS)
def test_a_command_runs_at_its_smallest_size(
    command: str, arguments: Sequence[str], named: Sequence[str], servers: Path, tmp_path: Path
) -> None:
    assert arguments, f"SMALLEST has no run of {command}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", command, *arguments, f"--output={tmp_path / 'results'}"],
        cwd=ROOT,
        env={**os.environ, VARIABLE: str(servers)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (tmp_path / "results").glob("*.json")
    assert json.loads(written.read_text(encoding="utf-8"))["samples"]
    for name in named:
        assert name in done.stdout


def test_a_profile_says_why_there_is_none(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()

    with (
        pytest.raises(click.ClickException, match="py-spy cannot sample the worker"),
        sampled(ended.pid, tmp_path / "stacks.raw", rate=100, idle=False),
    ):
        pytest.fail("a process that has ended was sampled")
