# SPDX-License-Identifier: Apache-2.0
"""A new history begins in one commit, which every node of every host tells; of two writers one begins it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, node_name
from tests.support.store import ALL, Writer, settle
from tracker_worker.administration import Administration
from tracker_worker.domain.values import SECOND
from tracker_worker.ids import NewIds
from tracker_worker.new_history import begin_history, follows
from tracker_worker.store.base import Conflict, Store
from tracker_worker.store.memory import MemoryStore

N1, N2 = node_name(1), node_name(2)
OTHER = "host-2"


@pytest.fixture
def store() -> MemoryStore:
    """Two hosts with two nodes each; one node of the first host has a claim."""
    store = MemoryStore(now=lambda: NOW)
    settle(store)
    settle(store, host=OTHER)
    Writer(store).put(begin(1, node=N1)).commit()
    return store


def begun(store: Store, **options: Any) -> str:
    present = store.histories()[-1].ledger_id
    arguments = {"predecessor": present, "reason": "a test", "now": NOW + SECOND, "new_id": NewIds(), **options}
    return begin_history(store, **arguments)


def payloads(store: Store, host: str, node: str) -> list[dict[str, Any]]:
    (stream,) = (stream for stream in store.streams(host) if stream.node == node)
    return [json.loads(row.payload) for row in store.outbox(stream.id, after=0, limit=ALL)]


def test_every_node_of_every_host_tells_the_new_history_with_its_next_number(store: MemoryStore) -> None:
    old = store.histories()[-1].ledger_id
    new = begun(store)
    told = {(host, node): payloads(store, host, node)[-1] for host in (HOST, OTHER) for node in (N1, N2)}
    assert {payload["ledger_id"] for payload in told.values()} == {new}
    assert {payload["previous_ledger_id"] for payload in told.values()} == {old}
    assert {key: payload["previous_sequence"] for key, payload in told.items()} == {
        (HOST, N1): 2,
        (HOST, N2): 1,
        (OTHER, N1): 1,
        (OTHER, N2): 1,
    }
    assert all(payload["sequence"] == payload["previous_sequence"] + 1 for payload in told.values())


def test_a_name_that_no_node_has_tells_the_new_history_too(store: MemoryStore) -> None:
    """That a node came to it may be among what was lost, and a node that comes to it later goes on after that event."""
    Administration(store, notify=True).move_node(N1, host=HOST, to=HOST, name="new")
    old = store.histories()[-1].ledger_id
    new = begun(store)
    told = payloads(store, HOST, N1)[-1]
    assert (told["ledger_id"], told["previous_ledger_id"], told["previous_sequence"]) == (new, old, 3)
    assert (told["sequence"], told["id"], told["state"], told["running_vms"]) == (4, 0, "unknown", 0)
    Administration(store, notify=True).move_node("new", host=HOST, to=HOST, name=N1)
    came = payloads(store, HOST, N1)[-1]
    assert (came["sequence"], came["previous_node"], came["running_vms"]) == (5, "new", 1)
    assert came["generation"] > told["generation"]


def test_without_notifications_the_numbers_of_a_name_that_no_node_has_are_passed_over(store: MemoryStore) -> None:
    Administration(store, notify=True).move_node(N1, host=HOST, to=HOST, name="new")
    begun(store, notify=False)
    (stream,) = store.left_streams()
    assert (stream.node, stream.sequence, len(payloads(store, HOST, N1))) == (N1, 4, 3)
    (opened,) = [stream for stream in store.open_cursors(HOST, ["a topic"]) if stream.node == N1]
    assert opened.cursors == {"a topic": 4}


def test_the_history_keeps_when_why_and_after_which_one_it_began(store: MemoryStore) -> None:
    first = store.histories()[-1]
    new = begun(store, reason="a restore")
    assert store.histories()[0] == first
    present = store.histories()[1]
    assert (present.ledger_id, present.since, present.reason, present.predecessor) == (
        new,
        NOW + SECOND,
        "a restore",
        first.ledger_id,
    )


def test_what_is_charged_stays_as_it_is(store: MemoryStore) -> None:
    before = store.load_host(HOST)
    begun(store)
    after = store.load_host(HOST)
    assert before is not None
    assert after is not None
    assert after.node(N1).allocations == before.node(N1).allocations
    assert after.node(N1).usage == before.node(N1).usage
    assert [ledger.generation for ledger in after] == [ledger.generation + 1 for ledger in before]


def test_without_notifications_the_numbers_rise_and_nothing_is_kept(store: MemoryStore) -> None:
    rows = {host: len(payloads(store, host, N1)) for host in (HOST, OTHER)}
    new = begun(store, notify=False)
    assert store.histories()[-1].ledger_id == new
    assert {host: len(payloads(store, host, N1)) for host in (HOST, OTHER)} == rows


def test_a_history_that_has_a_successor_gets_no_second_one(store: MemoryStore) -> None:
    old = store.histories()[-1].ledger_id
    new = begun(store)
    with pytest.raises(Conflict, match="has a successor already"):
        begun(store, predecessor=old)
    assert [history.ledger_id for history in store.histories()] == [old, new]


def test_a_history_follows_each_of_its_predecessors_and_not_itself(store: MemoryStore) -> None:
    ids = [store.histories()[-1].ledger_id, begun(store), begun(store)]
    assert [follows(store.histories(), ledger_id) for ledger_id in ids] == [True, True, False]
    assert not follows(store.histories(), "another database")
