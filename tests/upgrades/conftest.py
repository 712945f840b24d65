# SPDX-License-Identifier: Apache-2.0
"""The earlier commit's programs, and workers of both commits that end with their test."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.worker_process import NODE, WorkerProcess

HOST = "h1"
MakeWorker = Callable[..., WorkerProcess]


@pytest.fixture(scope="session")
def earlier() -> Path:
    """The directory of the earlier commit's programs."""
    directory = os.environ.get("UPGRADES_EARLIER")
    if not directory or not Path(directory, "bin", "tracker-worker").is_file():
        pytest.exit(
            "These tests need an earlier commit beside this one: run `tox -e upgrades`, or install it with `python -m "
            "tests.upgrades.earlier DIRECTORY` and set UPGRADES_EARLIER to the directory",
            returncode=1,
        )
    return Path(directory, "bin")


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str) -> Iterator[MakeWorker]:
    """Makes workers of one host on the same state; ``program`` is that of the commit."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, transport_url=broker_vhost, hosts={HOST: {"n1": NODE}}, **arguments)
            stack.callback(worker.close)
            return worker

        yield make
