# SPDX-License-Identifier: Apache-2.0
"""The store in memory keeps the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.store import StoreContract
from tracker_worker.store.base import Store
from tracker_worker.store.memory import MemoryStore


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        store = MemoryStore()
        store.start()
        yield store
        store.stop()

    @pytest.fixture
    def second(self, store: Store) -> Store:
        return store
