# SPDX-License-Identifier: Apache-2.0
"""The stores for the tests of the library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tracker import FailingMemoryStore, FailingSQLStore, sqlite
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A started, empty store of each kind."""
    kept = MemoryStore() if request.param == "memory" else sqlite(tmp_path)
    yield kept
    kept.stop()


@pytest.fixture(params=["memory", "sqlite"])
def failing_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FailingMemoryStore | FailingSQLStore]:
    """A store of each kind whose commits fail on demand."""
    kept: FailingMemoryStore | FailingSQLStore
    kept = FailingMemoryStore() if request.param == "memory" else FailingSQLStore(f"sqlite:///{tmp_path}/ledger.sqlite")
    kept.start()
    yield kept
    kept.stop()
