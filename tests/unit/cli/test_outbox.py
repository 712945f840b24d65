# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker outbox`` without a broker."""

from __future__ import annotations

import pytest

from tests.support.store import Writer
from tests.unit.cli.conftest import Cli
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.outbox_replay import Range
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.sql.store import SQLStore

_BROKER = "transport_url = rabbit://tracker:secret@127.0.0.1:1//"  # no broker listens there


def test_the_backlog_of_every_node_is_shown(cli: Cli, ledger: Writer) -> None:
    ledger.commit(cursors={ledger["node-1"].id: 2, ledger["node-2"].id: 1})

    first, second = cli.json("outbox", "status")

    assert first == {
        "host": "host-1",
        "node": "node-1",
        "sequence": 2,
        "cursor": 2,
        "rows": 0,
        "oldest_at": None,
        "oldest_age_seconds": None,
    }
    assert (second["sequence"], second["cursor"], second["rows"]) == (3, 1, 2)
    assert second["oldest_at"] == "2026-01-15T12:00:00.000000Z"
    assert second["oldest_age_seconds"] >= 0
    lines = [line.split() for line in cli.succeed("outbox", "status").splitlines()[2:]]
    assert lines[0] == ["host-1", "node-1", "2", "2", "0", "-", "-"]
    assert lines[1][:6] == ["host-1", "node-2", "3", "1", "2", "2026-01-15T12:00:00Z"]


def test_an_empty_backlog_is_reported(cli: Cli, store: SQLStore) -> None:
    assert cli.succeed("outbox", "status") == "There are no nodes.\n"
    assert cli.json("outbox", "status") == []


@pytest.mark.parametrize("arguments", [("--host", "x", "--node", "node-1"), ("--host", "host-1", "--node", "x")])
def test_a_replay_of_an_unknown_node_is_refused(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    cli.configure(f"[DEFAULT]\n{_BROKER}\n[tracker]\nstate_path = {cli.state}\n")
    assert " x" in cli.refuse("outbox", "replay", *arguments, "--from-sequence", "1")


def test_a_replay_without_notifications_is_refused(cli: Cli, ledger: Writer) -> None:
    cli.configure(f"[DEFAULT]\n{_BROKER}\n[tracker]\nstate_path = {cli.state}\n[notifications]\ndriver = noop\n")
    refused = cli.refuse("outbox", "replay", "--host", "host-1", "--node", "node-1", "--from-sequence", "1")
    assert refused.startswith("nothing is published in this configuration")


@pytest.mark.parametrize("sequences", [("0",), ("x",), ("3", "--to-sequence", "2")])
def test_an_invalid_range_is_a_usage_error(cli: Cli, ledger: Writer, sequences: tuple[str, ...]) -> None:
    done = cli.run("outbox", "replay", "--host", "host-1", "--node", "node-1", "--from-sequence", *sequences)
    assert done.exit_code == 2


class TestRange:
    @pytest.fixture
    def node(self) -> NodeLedger:
        return NodeLedger(id=7, host="host-1", name="node-1", sequence=10)

    def test_a_range_without_an_end_reaches_to_the_last_sequence(self, node: NodeLedger) -> None:
        assert Range.of(node, 3, None, published=10) == Range(node_id=7, first=3, last=10)

    def test_a_range_includes_both_ends(self, node: NodeLedger) -> None:
        assert Range.of(node, 3, 3, published=10) == Range(node_id=7, first=3, last=3)

    @pytest.mark.parametrize(("first", "last"), [(11, None), (3, 11)])
    def test_a_range_beyond_the_last_sequence_is_refused(self, node: NodeLedger, first: int, last: int | None) -> None:
        with pytest.raises(CommandFailed, match="up to 10, not 11"):
            Range.of(node, first, last, published=10)

    def test_a_range_may_begin_right_after_the_cursor(self, node: NodeLedger) -> None:
        assert Range.of(node, 6, None, published=5).first == 6

    def test_a_range_that_begins_later_than_the_next_sequence_is_refused(self, node: NodeLedger) -> None:
        with pytest.raises(CommandFailed, match="from 6 on are not published yet"):
            Range.of(node, 7, None, published=5)
