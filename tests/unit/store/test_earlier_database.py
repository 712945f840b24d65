# SPDX-License-Identifier: Apache-2.0
"""A database written by an earlier commit: every row is read with its original meaning, and the worker continues on it.

``earlier/<commit>.sql`` is the dump of the database; ``.json`` holds the answers of that commit itself.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import begin
from tracker_worker.domain import views
from tracker_worker.domain.commands import FinishClaim
from tracker_worker.domain.host import HostLedger
from tracker_worker.ids import NewIds
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.sql.location import sqlite_url
from tracker_worker.store.sql.store import SQLStore
from tracker_worker.unit_of_work import UnitOfWork

EARLIER = sorted(Path(__file__).with_name("earlier").glob("*.sql"))
HOST = "h1"


@pytest.fixture(params=EARLIER, ids=lambda path: path.stem)
def dump(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def expected(dump: Path) -> dict[str, Any]:
    return json.loads(dump.with_suffix(".json").read_text("utf-8"))


@pytest.fixture
def store(dump: Path, tmp_path: Path) -> Iterator[SQLStore]:
    path = tmp_path / "tracker.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript(dump.read_text("utf-8"))
    connection.close()
    store = SQLStore(sqlite_url(path))
    store.start()
    yield store
    store.stop()


def unit_of_work(store: SQLStore, ledgers: Ledgers) -> UnitOfWork:
    return UnitOfWork(store, ledgers, notify=True, new_id=NewIds(bytes))


@pytest.fixture
def host(store: SQLStore) -> HostLedger:
    host = store.load_host(HOST)
    assert host is not None
    return host


def test_nodes_claims_and_usage_are_what_the_earlier_worker_answered(
    host: HostLedger, expected: dict[str, Any]
) -> None:
    for ledger, node in zip(host, expected["nodes"], strict=True):
        view = views.node_view(ledger)
        assert {name: view[name] for name in node} == node
        assert (view["state"], view["state_reason"]) == ("open", "")
    claims = list(views.each_claim_view(host))
    for view, claim in zip(sorted(claims, key=itemgetter("instance_uuid")), expected["claims"], strict=True):
        # Its id is new; the uuid of the instance, which was the id, still names it.
        assert {name: view[name] for name in claim if name != "claim_id"} == {
            name: value for name, value in claim.items() if name != "claim_id"
        }
    assert len({view["claim_id"] for view in claims}) == len(claims)
    assert views.usage_view(host) == expected["usage"]
    assert [ledger.drift for ledger in host] == [None, None]


def test_a_claim_of_the_earlier_worker_is_finished_by_the_uuid_that_was_its_id(store: SQLStore) -> None:
    ledgers = Ledgers(store)
    unit = unit_of_work(store, ledgers)
    decision = unit.decide(ledgers.get(HOST), FinishClaim(claim_id="vm-2"), 1_768_478_500_000_000)
    unit.commit()
    assert decision.reply["state"] == "finished"
    host = store.load_host(HOST)
    assert host is not None
    assert [claim["instance_uuid"] for claim in views.each_claim_view(host)] == ["vm-4"]


def test_outbox_cursors_and_inbox_are_what_the_earlier_worker_wrote(
    store: SQLStore, host: HostLedger, expected: dict[str, Any]
) -> None:
    outbox = [
        [row.node, row.sequence, row.event_type, row.message_id, json.loads(row.payload)]
        for ledger in host
        for row in store.outbox(ledger.stream_id, after=0, limit=100)
    ]
    assert outbox == expected["outbox"]
    opened = store.open_cursors(HOST, ["first", "second"])
    assert {stream.node: dict(stream.cursors) for stream in opened} == {
        node: {"first": cursor, "second": cursor} for node, cursor in expected["cursors"].items()
    }
    last = {stream.node: (stream.sequence, stream.last_at) for stream in opened}
    assert last == {
        ledger.name: (ledger.sequence, store.outbox(ledger.stream_id, after=0, limit=100)[-1].occurred_at)
        for ledger in host
    }
    answers = {unique_id: answer.encode() for unique_id, answer in expected["answers"].items()}
    assert store.answered(list(answers)) == answers


def test_the_next_decision_continues_generation_and_sequence_of_the_earlier_worker(
    store: SQLStore, expected: dict[str, Any]
) -> None:
    ledgers = Ledgers(store)
    unit = unit_of_work(store, ledgers)
    before = {view["node"]: view for view in expected["nodes"]}["n1"]
    decision = unit.decide(ledgers.get(HOST), begin(7, node="n1"), 1_800_000_000_000_000)
    unit.commit()
    assert decision.reply["generation"] == before["generation"] + 1
    host = store.load_host(HOST)
    assert host is not None
    assert host.node("n1").sequence == before["sequence"] + 1
    (row,) = store.outbox(host.node("n1").stream_id, after=before["sequence"], limit=10)
    assert row.event_type == "tracker.claim.begun"
