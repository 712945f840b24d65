# SPDX-License-Identifier: Apache-2.0
"""A database of 100,000 allocations is listed quickly, in little memory, and completely."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.limits.conftest import SLOWEST_SECONDS
from tests.support.builders import begin
from tests.support.store import settle
from tests.support.worker_process import PROGRAM
from tracker_worker.store.sql.store import SQLStore

HOSTS, NODES, ON_EACH = 10, 10, 1000
MOST_SECONDS = 3 * SLOWEST_SECONDS
MOST_MEMORY = 128 << 20


class Ran(NamedTuple):
    """What a command printed, the seconds that it took, and the most memory that it had, in bytes."""

    stdout: bytes
    seconds: float
    memory: int


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("listing")
    store = SQLStore(f"sqlite:///{directory / 'tracker.sqlite'}")
    store.start()
    for host in range(HOSTS):
        writer = settle(store, host=f"host-{host}", nodes=NODES)
        for node in range(NODES):
            first = (host * NODES + node) * ON_EACH
            for number in range(first, first + ON_EACH):
                writer.put(begin(number, node=f"node-{node + 1}", project_id=f"project-{number % 7}"))
            writer.commit()
    store.stop()
    path = directory / "worker.conf"
    path.write_text(f"[tracker]\nstate_path = {directory}\n", encoding="utf-8")
    return path


def run(configuration: Path, *arguments: str) -> Ran:
    output = configuration.with_name("output")
    began = time.monotonic()
    with output.open("wb") as stdout:
        process = subprocess.Popen([PROGRAM, "--config-file", configuration, *arguments], stdout=stdout)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Ran(output.read_bytes(), time.monotonic() - began, usage.ru_maxrss * 1024)


def run_json(configuration: Path, *arguments: str) -> Any:
    return json.loads(run(configuration, *arguments, "--format", "json").stdout)


@pytest.mark.parametrize("style", ["table", "json"])
def test_100000_allocations_are_listed_in_3_seconds_and_little_memory(configuration: Path, style: str) -> None:
    listed = run(configuration, "instance", "list", "--format", style)
    assert listed.stdout.count(b"host-") == HOSTS * NODES * ON_EACH
    assert listed.seconds < MOST_SECONDS
    assert listed.memory < MOST_MEMORY


def test_the_list_is_what_projects_and_nodes_are_charged(configuration: Path) -> None:
    nodes: Counter[tuple[str, str, str]] = Counter()
    projects: Counter[tuple[str, str]] = Counter()
    listed = run_json(configuration, "instance", "list")
    for view in listed:
        for name, amount in view["resources"].items():
            nodes[view["host"], view["node"], name] += amount
            projects[view["project_id"], name] += amount
    assert len({view["instance_uuid"] for view in listed}) == HOSTS * NODES * ON_EACH
    assert projects == {
        (project, name): held[name]
        for project, held in run_json(configuration, "usage").items()
        for name in ("VCPU", "MEMORY_MB", "DISK_GB")
    }
    views = run_json(configuration, "node", "list")
    assert {(view["host"], view["node"]): view["vcpus_used"] for view in views} == {
        (host, node): used for (host, node, name), used in nodes.items() if name == "VCPU"
    }
