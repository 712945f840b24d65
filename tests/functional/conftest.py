# SPDX-License-Identifier: Apache-2.0
"""Workers and clients that end with their test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional import stock
from tests.functional.worker import WorkerProcess

MakeWorker = Callable[..., WorkerProcess]


@pytest.fixture
def make_worker(tmp_path: Path, broker_vhost: str) -> Iterator[MakeWorker]:
    """Workers with ``WorkerProcess``'s arguments, on a broker of one's own unless told otherwise; not yet started."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> WorkerProcess:
            worker = WorkerProcess(tmp_path, **{"transport_url": broker_vhost, **arguments})
            stack.callback(worker.close)
            return worker

        yield make


@pytest.fixture
def client(broker_vhost: str) -> Iterator[stock.Client]:
    """A stock client with default options."""
    with stock.client(broker_vhost) as connected:
        yield connected


@pytest.fixture
def ear(broker_vhost: str) -> Iterator[stock.Ear]:
    """A stock listener with default options."""
    with stock.listener(broker_vhost) as listening:
        yield listening
