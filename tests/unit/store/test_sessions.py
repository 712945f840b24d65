# SPDX-License-Identifier: Apache-2.0
"""The connection of commits, and transactions that are written together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.builders import begin, node_name
from tests.support.store import Writer, settle
from tracker_worker.store.base import Unstorable
from tracker_worker.store.sql.store import SQLStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SQLStore]:
    store = SQLStore(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    store.start()
    settle(store)
    yield store
    store.stop()


def test_commits_share_one_connection(store: SQLStore) -> None:
    kept = store._sessions._kept
    Writer(store).put(begin(1, node=node_name(1))).commit()
    assert store._sessions._kept is kept is not None


def test_who_writes_together_may_not_commit_in_between(store: SQLStore) -> None:
    """It would wait for the lock that it holds itself."""
    writer = Writer(store).put(begin(1, node=node_name(1)))
    with store.together():
        with pytest.raises(Unstorable, match="together"):
            writer.commit()
        with pytest.raises(RuntimeError, match="together"), store.together():
            pass
    Writer(store).put(begin(2, node=node_name(1))).commit()


def test_a_stopped_store_keeps_no_connection(store: SQLStore) -> None:
    store.stop()
    assert store._sessions._kept is None
