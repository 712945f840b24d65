# SPDX-License-Identifier: Apache-2.0
"""How often a commit on PostgreSQL waits for the server, and that a commit of several statements is one transaction."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from tests.support.builders import begin, node_name, uuid
from tests.support.migrated import migrated
from tests.support.store import ALL, TOPIC, Writer, answer, cursors, load, note, picture, settle, snapshots
from tracker_worker.domain.commands import AbortClaim
from tracker_worker.store.base import Commit, Conflict
from tracker_worker.store.sql.postgresql import MOST_ROWS
from tracker_worker.store.sql.sessions import Sessions
from tracker_worker.store.sql.store import SQLStore

N1, N2 = node_name(1), node_name(2)


class Trips:
    """Counts what the sessions of a process send to the server and wait for, with libpq's own trace."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def counted(self) -> Iterator[list[str]]:
        """Yield a list that has, after the block, the kind of each request that ended with a wait."""
        found: list[str] = []
        with self._path.open("w+b") as trace:
            traced: set[Any] = set()
            take = Sessions._connection

            def watch(sessions: Sessions) -> Any:
                taken = take(sessions)
                taken.driver_connection.pgconn.trace(trace.fileno())
                traced.add(taken.driver_connection.pgconn)
                return taken

            with patch.object(Sessions, "_connection", watch):
                yield found
            for connection in traced:
                connection.untrace()
            trace.seek(0)
            found += re.findall(r"\tF\t\d+\t(Sync|Query)\b", trace.read().decode())


@pytest.fixture
def trips(tmp_path: Path) -> Trips:
    return Trips(tmp_path / "trace")


@pytest.fixture
def store(postgresql_url: str) -> Iterator[SQLStore]:
    store = SQLStore(migrated(postgresql_url))
    store.start()
    settle(store)
    yield store
    store.stop()


def prepare(store: SQLStore) -> Writer:
    """Commit claims as all of them are, so that their statements are prepared, and what another host has to be verified for."""
    other = settle(store, host="host-2")
    verified = {other.host.id: {ledger.id: ledger.generation for ledger in other.host}}
    for number, (cursor, checked) in enumerate(((0, {}), (1, {}), (1, verified)), 1001):
        writer = Writer(store).put(begin(number, node=N1))
        answers = [answer(f"u-{number}")]
        if checked:  # as for several claims
            answers.append(answer(f"u-{number} too"))
        moved = {writer[N1].stream_id: cursor} if cursor else {}
        store.commit(replace(writer.made(*answers, cursors=moved), verified=checked))
    return other


def test_an_ordinary_commit_is_one_round_trip(store: SQLStore, trips: Trips) -> None:
    other = prepare(store)
    writer = Writer(store)
    for number in range(1, 200):
        writer.put(begin(number, node=N1 if number % 2 else N2))
    answers = [answer(f"u-{number:04}") for number in range(MOST_ROWS)]
    verified = {other.host.id: {ledger.id: ledger.generation for ledger in other.host}}
    made = writer.made(*answers, cursors={ledger.id: 1 for ledger in writer.host})
    with trips.counted() as counted:
        store.commit(replace(made, verified=verified))
    assert len(counted) == 1
    for ledger in made.ledgers:
        ledger.committed()
    assert snapshots(load(store)) == snapshots(writer.host)
    assert len(store.answered([f"u-{number:04}" for number in range(MOST_ROWS)])) == MOST_ROWS


def test_a_commit_that_conflicts_is_one_round_trip(store: SQLStore, trips: Trips) -> None:
    prepare(store)
    stale = Writer(store).put(begin(2, node=N1))
    Writer(store).put(begin(1, node=N1)).commit()
    with trips.counted() as counted, pytest.raises(Conflict):
        stale.commit(answer("u-1"))
    assert len(counted) == 1


def test_a_decision_under_lock_takes_at_most_four_round_trips(store: SQLStore, trips: Trips) -> None:
    prepare(store)
    with trips.counted() as counted, store.locked(1) as locked:
        assert locked.answered(["u-1"]) == {}
        late = Writer.on(store, locked.ledger).put(begin(1, node=N1))
        locked.commit(late.made(answer("u-1"), cursors={late[N1].stream_id: 1}))
    assert len(counted) <= 4
    assert uuid(1) in load(store).node(N1).allocations


def test_a_large_commit_is_one_transaction_of_several_statements(store: SQLStore, trips: Trips) -> None:
    writer = Writer(store).put(begin(1, node=N1)).put(begin(2, node=N2)).commit()
    for number, target in ((1, N2), (2, N1)):  # they move
        writer.put(AbortClaim(claim_id=uuid(number))).put(begin(number, node=target))
    for number in range(3, 2 * MOST_ROWS + 3):
        writer.put(begin(number, node=N1))
    answers = [answer(f"u-{number:04}") for number in range(MOST_ROWS + 1)]
    before = picture(store, *(row.unique_id for row in answers))
    with trips.counted() as counted, pytest.raises(Conflict):
        store.commit(writer.made(*answers, answers[-1]))  # refused by one of the last statements
    assert len(counted) > 6
    assert picture(store, *(row.unique_id for row in answers)) == before
    writer.commit(*answers, cursors={writer[N1].stream_id: 1})
    assert snapshots(load(store)) == snapshots(writer.host)
    assert len(store.outbox(writer[N1].stream_id, after=0, limit=ALL)) == writer[N1].sequence
    assert cursors(store)[writer[N1].stream_id, TOPIC] == 1


def test_rows_of_many_megabytes_are_committed(store: SQLStore) -> None:
    writer = Writer(store)
    rows = [replace(note(writer[N1], sequence), payload=bytes(10**6)) for sequence in range(100, 112)]
    store.commit(Commit(notifications=rows))
    assert store.outbox(writer[N1].stream_id, after=99, limit=ALL) == rows
