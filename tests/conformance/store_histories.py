# SPDX-License-Identifier: Apache-2.0
"""A commit belongs to the present history, and the progress of a store shows whether it has gone back."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from tests.support.builders import HOST, NOW, begin, node_name, uuid
from tests.support.store import TOPIC, StoreCase, Writer, answer, load, picture, settle, uuids
from tracker_worker.errors import StoreUnavailable
from tracker_worker.ids import NewIds, uuid7
from tracker_worker.new_history import begin_history
from tracker_worker.store.base import Commit, Conflict, History, Store

N1, N2 = node_name(1), node_name(2)
OTHER = "host-2"


def present(store: Store) -> str:
    return store.histories()[-1].ledger_id


def succeed(store: Store) -> str:
    """Begin a history without events, and return its id."""
    predecessor = present(store)
    new = uuid7(NOW, len(store.histories()))
    store.commit(Commit(history=History(ledger_id=new, since=NOW, reason="a test", predecessor=predecessor)))
    return new


class ProgressContract(StoreCase):
    def test_the_progress_is_that_of_the_hosts_that_are_asked_for(self, store: Store, second: Store) -> None:
        writer = settle(store)
        settle(store, host=OTHER)
        writer.put(begin(1, node=N1)).commit(cursors={writer[N1].stream_id: 1})
        found = second.progress([HOST, "no-such-host"])
        assert found.ledger_id == present(store)
        assert found.generations == {writer[N1].id: 2, writer[N2].id: 1}
        assert found.sequences == {writer[N1].stream_id: 2, writer[N2].stream_id: 1}
        assert found.cursors == {(writer[N1].stream_id, TOPIC): 1, (writer[N2].stream_id, TOPIC): 0}
        assert second.progress([]).sequences == {}

    def test_a_commit_of_the_present_history_is_written(self, store: Store) -> None:
        writer = settle(store).put(begin(1, node=N1))
        made = writer.made(answer())
        store.commit(Commit(ledger_id=present(store), ledgers=made.ledgers, inbox_rows=made.inbox_rows))
        assert uuids(list(load(store))) == [uuid(1)]

    def test_a_commit_of_an_ended_history_changes_nothing(self, store: Store, second: Store) -> None:
        writer = settle(store)
        old = present(store)
        made = writer.put(begin(1, node=N1)).made(answer(), cursors={writer[N1].stream_id: 1})
        generations = {writer.host.id: {ledger.id: 1 for ledger in writer.host}}
        succeed(second)
        before = picture(store, "u-1")
        for ended in (
            Commit(ledger_id=old, ledgers=made.ledgers, notifications=made.notifications),
            Commit(ledger_id=old, inbox_rows=made.inbox_rows, verified=generations),
            Commit(ledger_id=old, inbox_rows=made.inbox_rows),
            Commit(ledger_id=old, cursors=made.cursors),
        ):
            with pytest.raises(Conflict):
                store.commit(ended)
        assert picture(store, "u-1") == before

    def test_a_locked_host_of_an_ended_history_is_not_written(self, store: Store) -> None:
        writer = settle(store)
        old = present(store)
        succeed(store)
        with store.locked(writer.host.id) as locked, pytest.raises(Conflict):
            locked.commit(Commit(ledger_id=old, inbox_rows=[answer()]))
        assert store.answered(["u-1"]) == {}

    def test_a_history_leaves_no_cursor_above_its_stream(self, store: Store) -> None:
        writer = settle(store)
        first, second = writer[N1].stream_id, writer[N2].stream_id
        store.commit(Commit(cursors={(first, TOPIC): 7, (second, TOPIC): 1}))
        succeed(store)
        assert store.progress([HOST]).cursors == {(first, TOPIC): 1, (second, TOPIC): 1}

    def test_a_ledger_knows_its_history(self, store: Store) -> None:
        settle(store)
        new = succeed(store)
        assert {ledger.ledger_id for ledger in load(store)} == {load(store).ledger_id} == {new}

    def test_of_two_that_begin_a_history_one_succeeds(self, store: Store, second: Store) -> None:
        settle(store)
        settle(store, host=OTHER)
        predecessor = present(store)

        def begun(on: Store) -> str | None:
            try:
                return begin_history(on, predecessor=predecessor, reason="a test", now=NOW, new_id=NewIds())
            except Conflict:
                return None

        with ThreadPoolExecutor(max_workers=2) as pool:
            ids = list(pool.map(begun, [store, second]))
        assert sorted(ids, key=str)[1:] == [None]
        assert present(store) in ids
        assert {ledger.sequence for host in (HOST, OTHER) for ledger in load(store, host)} == {2}

    def test_a_writer_that_is_busy_does_not_keep_a_history_from_its_begin(self, store: Store, second: Store) -> None:
        settle(store)
        ended = Event()

        def work() -> int:
            for number in itertools.count(1):
                if ended.is_set():
                    return number
                try:
                    Writer(second).put(begin(number, node=N1)).commit()
                except (Conflict, StoreUnavailable):
                    continue
            raise AssertionError

        with ThreadPoolExecutor(max_workers=1) as pool:
            working = pool.submit(work)
            for _ in range(3):
                begin_history(store, predecessor=present(store), reason="a test", now=NOW, new_id=NewIds())
            ended.set()
            assert working.result(timeout=60) > 1
        assert len(store.histories()) == 4
