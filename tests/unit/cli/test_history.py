# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker history``: what was decided, from the database alone."""

from __future__ import annotations

import json

import pytest

from tests.support.builders import HOST, NOW, begin, inventory, node_name, uuid
from tests.unit.cli.conftest import Cli
from tracker_worker.domain import commands
from tracker_worker.domain.views import iso
from tracker_worker.errors import ClaimConflict
from tracker_worker.ids import NewIds
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.requests.refusals import of_refusal
from tracker_worker.store.ledgers import Ledgers
from tracker_worker.store.sql.store import SQLStore
from tracker_worker.unit_of_work import UnitOfWork

N1 = node_name(1)
ALICE = Asked(method="begin_resource_claim", project_id="p", user_id="alice", request_id="r-1", duration_ms=0.8)
_HOUR = 3600 * 1_000_000


@pytest.fixture
def decided(store: SQLStore) -> SQLStore:
    """A claim that was begun, one that was refused, and a conflict, an hour apart."""
    store.register_host(HOST, topic="tracker", version="1", now=NOW)
    store.create_node(1, N1)
    ledgers = Ledgers(store)
    for number, command in enumerate(
        (
            commands.ReportNode(node=N1, inventory=inventory()),
            begin(1, node=N1),
            begin(2, node=N1, limits={"memory_mb": 1}),
        )
    ):
        unit = UnitOfWork(store, ledgers, notify=True, new_id=NewIds(lambda size: bytes(size)))
        unit.decide(ledgers.get(HOST), command, NOW + number * _HOUR, ALICE.encode())
        unit.commit()
        unit.committed()
    error = ClaimConflict(instance_uuid=uuid(1), node=N1, reason="it is charged on another node")
    entry = of_refusal(error, at=NOW + 3 * _HOUR, host=HOST, node=N1, instance_uuid=uuid(1), asked=ALICE)
    store.keep_refusals([entry.refusal_row(uuid(900))], 10)
    return store


def test_a_refused_claim_shows_its_shortfalls_and_who_asked(cli: Cli, decided: SQLStore) -> None:
    (entry,) = cli.json("history", uuid(2))
    assert entry["outcome"] == "refused"
    assert entry["who"] == {"project_id": "p", "user_id": "alice", "request_id": "r-1", "roles": []}
    assert entry["shortfalls"] == [{"resource": "MEMORY_MB", "requested": 4096, "used": 4608, "limit": 1}]
    line = cli.succeed("history", uuid(2)).splitlines()[-1]
    for part in ("refused", uuid(2), f"{HOST}/{N1}", "MEMORY_MB=4096/4608/1", "alice", "r-1", "0.8"):
        assert part in line


def test_the_keys_are_those_of_the_documents_in_their_order(cli: Cli, decided: SQLStore) -> None:
    entries = cli.json("history")
    text = "at host node instance_uuid method outcome code figures shortfalls reason who worker duration_ms sequence"
    keys = text.split(" ")
    assert [list(entry) for entry in entries] == [keys] * 4
    assert [entry["outcome"] for entry in entries] == ["updated", "begun", "refused", "conflict"]
    assert [entry["at"] for entry in entries] == [iso(NOW + number * _HOUR) for number in range(4)]


def test_what_is_shown_can_be_narrowed(cli: Cli, decided: SQLStore) -> None:
    def outcomes(*arguments: str) -> list[str]:
        return [entry["outcome"] for entry in cli.json("history", *arguments)]

    assert outcomes("--host", "nowhere") == []
    assert outcomes("--node", N1, "--host", HOST, "--limit", "2") == ["refused", "conflict"]
    assert outcomes("--project", "p") == ["updated", "begun", "refused", "conflict"]
    assert outcomes("--since", iso(NOW + 2 * _HOUR)) == ["refused", "conflict"]
    assert outcomes(uuid(1)) == ["begun", "conflict"]


@pytest.mark.parametrize("since", ["yesterday", "24", "5w", "2026-13-01"])
def test_a_time_that_is_none_is_wrong_usage(cli: Cli, decided: SQLStore, since: str) -> None:
    done = cli.run("history", "--since", since)
    assert done.exit_code == 2
    assert "--since" in done.stderr


def test_nothing_is_a_sentence_or_an_empty_document(cli: Cli, store: SQLStore) -> None:
    assert cli.succeed("history") == "There are no such decisions.\n"
    assert json.loads(cli.succeed("history", "--format", "json")) == []
