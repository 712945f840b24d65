# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker move`` beside running workers: a source in the same database, and one in another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.functional.conftest import MakeWorker
from tests.functional.test_cli import SMALL, Operator
from tests.support.worker_process import NODE, WorkerProcess

pytestmark = pytest.mark.long

HOSTS = {host: {"n1": NODE} for host in ("h1", "h2")}
OTHER = {"h3": {"n1": NODE}}
LARGE = ("--vcpus", "4", "--memory-mb", "8192", "--root-gb", "20")
VECTORS = ({"VCPU": 1, "MEMORY_MB": 1024, "DISK_GB": 10}, {"VCPU": 4, "MEMORY_MB": 8192, "DISK_GB": 20})


@pytest.fixture
def operator(make_worker: MakeWorker) -> Operator:
    """The operator of a worker of two hosts; instance i-1 is built on the first one."""
    worker = make_worker(hosts=HOSTS, options={"tracker": {"audit_interval_seconds": 3600}})
    worker.start()
    worker.wait_ready()
    operator = Operator(worker)
    claim = operator.json("claim", "begin", "--host", "h1", "--uuid", "i-1", *SMALL)
    operator.json("claim", "finish", claim["claim_id"], "--host", "h1")
    return operator


@pytest.fixture
def other(tmp_path: Path, broker_vhost: str) -> Iterator[Operator]:
    """The operator of a worker with a database of its own."""
    directory = tmp_path / "other"
    directory.mkdir()
    worker = WorkerProcess(directory, transport_url=broker_vhost, hosts=OTHER)
    worker.start()
    worker.wait_ready()
    yield Operator(worker)
    worker.close()


def begin(operator: Operator, host: str, *arguments: str, kind: str = "resize", source: str = "h1") -> Any:
    where = ("--host", host, "--from-host", source, "--from-node", "n1")
    return operator.json(
        "move", "begin", *where, "--uuid", "i-1", "--kind", kind, "--move-id", "m-1", *LARGE, *arguments
    )


def step(operator: Operator, name: str, host: str, *arguments: str) -> Any:
    return operator.json("move", name, "m-1", "--host", host, *arguments)


def charged(operator: Operator) -> list[tuple[str, str, int]]:
    """(host, role, VCPU) of everything that is charged in the database."""
    entries = operator.json("instance", "list")
    return sorted((entry["host"], entry["role"], entry["resources"]["VCPU"]) for entry in entries)


def test_an_instance_is_moved_to_another_host_and_confirmed(operator: Operator) -> None:
    begun = begin(operator, "h2", "--project", "p1", "--user", "u1", "--timeout", "600", "--on-expiry", "release")
    assert (begun["id"], begun["kind"], begun["state"], begun["limit_source"]) == (
        "m-1",
        "resize",
        "begun",
        "unlimited",
    )
    assert (begun["from_host"], begun["to_host"], begun["to_node"]) == ("h1", "h2", "n1")
    assert begun["resources"] == VECTORS[1]
    assert charged(operator) == [("h1", "instance", 1), ("h2", "incoming", 4)]
    assert operator.json("move", "list") == [operator.json("move", "show", "m-1")]
    titles, _, row = operator.run("move", "list").stdout.splitlines()
    assert titles.split()[:4] == ["Move", "Kind", "Instance", "State"]
    assert row.split()[:8] == ["m-1", "resize", "i-1", "begun", "h1", "n1", "h2", "n1"]
    assert row.split()[-1] == "-"
    finished = step(operator, "finish", "h2")
    assert charged(operator) == [("h1", "instance", 1), ("h2", "instance", 4)]
    left = step(operator, "finish", "h1", "--at", finished["finished_at"])
    assert (left["state"], left["finished_at"], left["old_resources"]) == (
        "finished",
        finished["finished_at"],
        VECTORS[0],
    )
    assert charged(operator) == [("h1", "hold", 1), ("h2", "instance", 4)]
    assert [move["id"] for move in operator.json("move", "list")] == ["m-1"]
    assert step(operator, "confirm", "h1")["state"] == "confirmed"
    assert charged(operator) == [("h2", "instance", 4)]
    assert operator.json("move", "list") == []
    assert operator.run("move", "list").stdout == "There are no open moves.\n"
    shown = operator.run("move", "show", "m-1").stdout
    assert "confirmed" in shown
    assert "VCPU: 4, MEMORY_MB: 8192, DISK_GB: 20" in shown


def test_a_hand_over_is_taken_back(operator: Operator) -> None:
    """The source is told the destination's times without being asked for them."""
    begin(operator, "h2")
    finished = step(operator, "finish", "h2")
    assert step(operator, "finish", "h1")["finished_at"] == finished["finished_at"]
    reverted = step(operator, "revert", "h2")
    assert reverted["state"] == "reverted"
    back = step(operator, "revert", "h1")
    assert (back["state"], back["ended_at"]) == ("reverted", reverted["ended_at"])
    assert charged(operator) == [("h1", "instance", 1)]


def test_the_source_is_told_by_the_hand_overs_own_time_where_none_is_given(operator: Operator) -> None:
    """The last step alone, at the source, brings the hand-over along."""
    begin(operator, "h2")
    finished = step(operator, "finish", "h2")
    confirmed = step(operator, "confirm", "h1")
    assert (confirmed["state"], confirmed["finished_at"]) == ("confirmed", finished["finished_at"])
    assert charged(operator) == [("h2", "instance", 4)]


def test_a_move_in_place_needs_one_host_only(operator: Operator) -> None:
    begun = operator.json("move", "begin", "--host", "h1", "--uuid", "i-1", "--kind", "resize", *LARGE)
    assert (begun["from_host"], begun["from_node"], begun["to_node"]) == ("h1", "n1", "n1")
    assert charged(operator) == [("h1", "incoming", 4), ("h1", "instance", 1)]
    operator.json("move", "finish", begun["id"], "--host", "h1")
    assert charged(operator) == [("h1", "hold", 1), ("h1", "instance", 4)]
    operator.json("move", "confirm", begun["id"], "--host", "h1")
    assert charged(operator) == [("h1", "instance", 4)]


def test_a_move_that_failed_stays_charged_until_it_is_aborted(operator: Operator) -> None:
    begin(operator, "h2")
    assert step(operator, "fail", "h2")["state"] == "failed"
    assert charged(operator) == [("h1", "instance", 1), ("h2", "incoming", 4)]
    assert [move["state"] for move in operator.json("move", "list")] == ["failed"]
    assert step(operator, "abort", "h2")["state"] == "aborted"
    assert charged(operator) == [("h1", "instance", 1)]
    assert operator.json("move", "list") == []


def test_a_refused_move_names_every_shortfall_in_one_sentence(operator: Operator) -> None:
    arguments = ("--host", "h2", "--uuid", "i-1", "--kind", "migration", "--from-host", "h1", *LARGE)
    limits = ("--limit-vcpu", "3", "--limit-memory-mb", "4096", "--limit-disk-gb", "100")
    sentence = operator.refuse("move", "begin", *arguments, *limits)
    assert "VCPU: requested 4, used 0, limit 3" in sentence
    assert "MEMORY_MB: requested 8192, used 512, limit 4096" in sentence
    assert "DISK_GB" not in sentence
    assert operator.json("move", "list") == []


def test_a_step_of_an_unknown_move_is_one_sentence(operator: Operator) -> None:
    for name in ("finish", "confirm", "revert", "abort", "fail"):
        assert "Host h1 knows no move m-9" in operator.refuse("move", name, "m-9", "--host", "h1")
    assert "no host knows a move m-9" in operator.refuse("move", "show", "m-9")


def test_what_cannot_be_done_is_one_sentence(operator: Operator, tmp_path: Path) -> None:
    begin(operator, "h2")
    assert "effective_at: " in operator.refuse("move", "finish", "m-1", "--host", "h2", "--at", "tomorrow")
    finished = step(operator, "finish", "h2")
    assert "it is handed over" in operator.refuse("move", "abort", "m-1", "--host", "h2")
    early = "2020-01-01T00:00:00.000000Z"
    assert "effective_at: is before the move" in operator.refuse("move", "finish", "m-1", "--host", "h1", "--at", early)
    again = operator.json("move", "finish", "m-1", "--host", "h2", "--at", finished["finished_at"])
    assert again["finished_at"] == finished["finished_at"]
    for text, says in (("no json", "is no JSON"), ("[]", "has no move")):
        told = tmp_path / "told.json"
        told.write_text(text, encoding="utf-8")
        assert says in operator.refuse("move", "finish", "m-1", "--host", "h1", "--move", str(told))
    assert charged(operator) == [("h1", "instance", 1), ("h2", "instance", 4)]


def test_a_source_in_another_database_is_told_with_what_the_destination_shows(
    operator: Operator, other: Operator, tmp_path: Path
) -> None:
    begin(other, "h3", kind="migration")
    finished = step(other, "finish", "h3")
    assert "Host h1 knows no move m-1" in operator.refuse("move", "finish", "m-1", "--host", "h1")
    told = tmp_path / "move.json"
    told.write_text(json.dumps(other.json("move", "show", "m-1")), encoding="utf-8")
    left = step(operator, "finish", "h1", "--move", str(told))
    assert (left["state"], left["finished_at"], left["old_resources"]) == (
        "finished",
        finished["finished_at"],
        VECTORS[0],
    )
    assert charged(operator) == [("h1", "hold", 1)]
    assert charged(other) == [("h3", "instance", 4)]
    (listed,) = operator.json("move", "list")
    assert {**listed, "generation": left["generation"]} == left
    reverted = step(other, "revert", "h3")
    step(operator, "revert", "h1", "--at", reverted["ended_at"])
    assert (charged(operator), charged(other)) == ([("h1", "instance", 1)], [])


def test_steps_need_a_worker_and_what_is_shown_does_not(operator: Operator) -> None:
    begun = begin(operator, "h2")
    operator.worker.kill()
    assert "no answer from host h2 within 1 s" in operator.refuse(
        "move", "finish", "m-1", "--host", "h2", "--wait", "1"
    )
    assert operator.json("move", "show", "m-1")["begun_at"] == begun["begun_at"]
    assert [move["id"] for move in operator.json("move", "list")] == ["m-1"]
