# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker move list`` and ``show``: what the database knows of moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.builders import NOW, begin, node_name, uuid
from tests.support.store import Writer, settle
from tests.unit.cli.conftest import Cli
from tracker_worker.cli.move_records import effective
from tracker_worker.domain import commands
from tracker_worker.domain.move import ABORT, CONFIRM, FINISH, REVERT, Move
from tracker_worker.domain.values import SECOND
from tracker_worker.store.sql.store import SQLStore

N1 = node_name(1)
HOUR = 3600 * SECOND


@pytest.fixture
def source(store: SQLStore) -> Writer:
    """host-1, which is charged for instance 1."""
    return settle(store, nodes=1).put(begin(1, node=N1)).commit()


@pytest.fixture
def destination(store: SQLStore, source: Writer) -> Writer:
    """host-2, where the instance is incoming from host-1."""
    return begun(settle(store, host="host-2", nodes=1), "m1", from_host="host-1")


def begun(writer: Writer, move_id: str, *, from_host: str, kind: str = "migration", number: int = 1) -> Writer:
    claim = begin(number, node=N1)
    return writer.put(
        commands.BeginMove(begin=claim, id=move_id, kind=kind, from_host=from_host, from_node=N1)
    ).commit()


def take(writer: Writer, step: str, told: Move | None = None) -> Writer:
    command = commands.StepMove(id="m1", step=step, told=told, effective_at=None, remembers=HOUR)
    return writer.put(command, NOW + SECOND).commit()


def record(writer: Writer) -> Move:
    return writer[N1].moves["m1"]


def listed(cli: Cli) -> list[tuple[str, str]]:
    return [(move["id"], move["state"]) for move in cli.json("move", "list")]


def test_a_move_is_listed_from_its_begin_until_the_source_has_confirmed(
    cli: Cli, source: Writer, destination: Writer
) -> None:
    assert listed(cli) == [("m1", "begun")]
    take(destination, FINISH)
    assert listed(cli) == [("m1", "finished")]
    take(source, FINISH, record(destination))
    assert listed(cli) == [("m1", "finished")]
    take(source, CONFIRM)
    assert listed(cli) == []
    assert cli.json("move", "show", "m1")["state"] == "confirmed"


def test_a_hand_over_of_which_the_source_was_not_told_is_listed(cli: Cli, source: Writer, destination: Writer) -> None:
    take(take(destination, FINISH), CONFIRM)
    assert listed(cli) == [("m1", "confirmed")]
    take(source, CONFIRM, record(destination))
    assert listed(cli) == []


@pytest.mark.parametrize(
    "end",
    [lambda writer: take(writer, ABORT), lambda writer: take(take(writer, FINISH), REVERT)],
    ids=["aborted", "reverted"],
)
def test_a_move_after_which_everything_is_as_before_is_not_listed(
    cli: Cli, source: Writer, destination: Writer, end: Callable[[Writer], Writer]
) -> None:
    end(destination)
    assert listed(cli) == []
    assert source.host.holding(uuid(1)) is not None


def test_a_source_of_another_database_is_not_waited_for(cli: Cli, store: SQLStore) -> None:
    writer = begun(settle(store, nodes=1), "m1", from_host="elsewhere", kind="live_migration")
    assert listed(cli) == [("m1", "begun")]
    take(writer, FINISH)
    assert listed(cli) == []


def test_an_unknown_move_is_one_sentence(cli: Cli, destination: Writer) -> None:
    assert cli.refuse("move", "show", "m2").startswith("no host knows a move m2: ")


def test_without_moves_the_table_is_a_sentence(cli: Cli, source: Writer) -> None:
    assert cli.succeed("move", "list") == "There are no open moves.\n"


def test_the_source_takes_the_time_of_the_destination_where_it_is_known() -> None:
    move = {"to_host": "host-2", "finished_at": "2026-01-15T12:00:01.000000Z", "ended_at": ""}
    assert effective("finish_move", move, "host-1") == move["finished_at"]
    assert effective("revert_move", move, "host-1") is None
    assert effective("revert_move", {**move, "ended_at": "2026-01-15T12:00:02.000000Z"}, "host-1") is not None
    assert effective("finish_move", move, "host-2") is None
    assert effective("confirm_move", move, "host-1") is None
    assert effective("finish_move", None, "host-1") is None
