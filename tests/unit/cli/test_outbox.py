# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker outbox`` without a broker."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import NOW, begin
from tests.support.store import ALL, TOPIC, Writer, cursors, note
from tests.unit.cli.conftest import Cli
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.outbox_replay import Range
from tracker_worker.cli.outbox_skip import skip
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.store.base import Commit, Stream, StreamEnd
from tracker_worker.store.sql.store import SQLStore

_BROKER = "transport_url = rabbit://tracker:secret@127.0.0.1:1//"  # no broker listens there


def test_the_backlog_of_every_node_is_shown(cli: Cli, ledger: Writer) -> None:
    ledger.commit(cursors={ledger["node-1"].stream_id: 2, ledger["node-2"].stream_id: 1})

    first, second = cli.json("outbox", "status")

    assert first == {
        "host": "host-1",
        "node": "node-1",
        "topic": TOPIC,
        "sequence": 2,
        "cursor": 2,
        "rows": 0,
        "oldest_at": None,
        "oldest_age_seconds": None,
        "refused_sequence": None,
        "refused_reason": None,
        "blocked_since": None,
    }
    assert (second["sequence"], second["cursor"], second["rows"]) == (3, 1, 2)
    assert second["oldest_at"] == "2026-01-15T12:00:00.000000Z"
    assert second["oldest_age_seconds"] >= 0
    lines = [line.split() for line in cli.succeed("outbox", "status").splitlines()[2:]]
    assert lines[0] == ["host-1", "node-1", TOPIC, "2", "2", "0", "-", "-", "-"]
    assert lines[1][:7] == ["host-1", "node-2", TOPIC, "3", "1", "2", "2026-01-15T12:00:00Z"]


def test_an_empty_backlog_is_reported(cli: Cli, store: SQLStore) -> None:
    assert cli.succeed("outbox", "status") == (
        "There are no cursors: no worker publishes notifications of this database, or [notifications] topics is empty.\n"
    )
    assert cli.json("outbox", "status") == []


def test_a_refused_notification_and_an_alarm_are_shown_for_each_topic(
    cli: Cli, store: SQLStore, ledger: Writer
) -> None:
    store.open_cursors("host-1", [TOPIC, "other"])
    ledger.commit(cursors={ledger["node-1"].stream_id: 1})
    store.mark_refused(ledger["node-1"].stream_id, TOPIC, 2, "message size 9 is larger \x1b[1m")
    store.take_lease([1], "a", now=NOW, until=NOW + 1, blocked_since=NOW)

    rows = cli.json("outbox", "status")
    assert [(row["node"], row["topic"], row["cursor"], row["refused_sequence"]) for row in rows] == [
        ("node-1", TOPIC, 1, 2),
        ("node-1", "other", 2, None),
        ("node-2", TOPIC, 0, None),
        ("node-2", "other", 3, None),
    ]
    assert rows[0]["refused_reason"] == "message size 9 is larger \x1b[1m"
    assert {row["blocked_since"] for row in rows} == {"2026-01-15T12:00:00.000000Z"}
    lines = cli.succeed("outbox", "status").splitlines()
    assert lines[2].split()[-1] == "2"
    assert lines[-2:] == [
        f"The broker does not take notification 2 of host-1/node-1 on topic {TOPIC}: message size 9 is larger \\x1b[1m.",
        "The broker has taken no messages of the worker of host-1 since 2026-01-15T12:00:00Z (alarm).",
    ]


class TestSkip:
    """node-2 has three notifications, of which the first is published on one of two topics."""

    @pytest.fixture(autouse=True)
    def topics(self, store: SQLStore, ledger: Writer) -> None:
        store.open_cursors("host-1", [TOPIC, "early"])
        self.cursors = lambda: {  # of node-2
            topic: at for (stream_id, topic), at in cursors(store).items() if stream_id == ledger["node-2"].stream_id
        }
        ledger.commit(cursors={ledger["node-2"].stream_id: 1})

    def skip(self, sequence: int, *more: str) -> tuple[str, ...]:
        return ("outbox", "skip", "--host", "host-1", "--node", "node-2", "--sequence", str(sequence), *more)

    def test_the_first_unpublished_notification_is_skipped_and_stays_in_the_outbox(
        self, cli: Cli, store: SQLStore, ledger: Writer
    ) -> None:
        assert self.cursors() == {TOPIC: 1, "early": 3}
        assert cli.succeed(*self.skip(2, "--yes")) == f"Skipped notification 2 of host-1/node-2 on topic {TOPIC}.\n"
        assert self.cursors() == {TOPIC: 2, "early": 3}
        assert [row.sequence for row in store.outbox(ledger["node-2"].stream_id, after=0, limit=ALL)] == [1, 2, 3]
        assert cli.json(*self.skip(3, "--topic", TOPIC, "--yes")) == {
            "host": "host-1",
            "node": "node-2",
            "sequence": 3,
            "topics": [TOPIC],
        }
        assert self.cursors() == {TOPIC: 3, "early": 3}

    def test_a_number_of_another_history_is_not_skipped(self, store: SQLStore) -> None:
        before = self.cursors()
        [stream] = [stream for stream in store.streams("host-1") if stream.node == "node-2"]
        with pytest.raises(CommandFailed, match="nothing is skipped: the present history is another one"):
            skip(store, stream, 2, [TOPIC], ledger_id="another")
        assert self.cursors() == before

    def test_a_notification_is_skipped_on_every_topic_that_waits_for_it(
        self, cli: Cli, store: SQLStore, ledger: Writer
    ) -> None:
        ledger.put(begin(70, node="node-2")).put(begin(71, node="node-2"))
        ledger.commit(cursors={ledger["node-2"].stream_id: 3})
        assert cli.json(*self.skip(4, "--yes"))["topics"] == ["early", TOPIC]
        assert self.cursors() == {TOPIC: 4, "early": 4}

    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            ((2,), f"would be skipped on topic {TOPIC}; say --yes to do it"),
            ((1, "--yes"), "notification 1 of host-1/node-2 is published already"),
            ((3, "--yes"), f"not published on topic {TOPIC} is 2, and only the first can be skipped"),
            ((2, "--topic", "early", "--yes"), "notification 2 of host-1/node-2 is published already"),
            ((4, "--topic", "early", "--yes"), "no notification of host-1/node-2 waits to be published on topic early"),
            ((2, "--topic", "x", "--yes"), f"host-1/node-2 has no topic x: its topics are early, {TOPIC}"),
            ((2, "--yes", "--host", "x"), "the database has no host x"),
            ((2, "--yes", "--node", "x"), "host host-1 has no node x"),
        ],
    )
    def test_every_other_notification_is_refused_and_nothing_changes(
        self, cli: Cli, arguments: tuple[int, str], why: str
    ) -> None:
        before = self.cursors()
        assert why in cli.refuse(*self.skip(*arguments))
        assert self.cursors() == before


def test_a_notification_of_a_node_that_has_another_name_now_is_skipped(cli: Cli, store: SQLStore) -> None:
    stream_id = store.stream_id("host-1", "gone")
    store.open_cursors("host-1", [TOPIC])
    node = NodeLedger(id=0, host="host-1", name="gone", stream_id=stream_id)
    end = StreamEnd(stream_id=stream_id, sequence=1, occurred_at=NOW, generation=1)
    store.commit(Commit(notifications=[note(node, 1)], ended_streams=[end]))
    skipped = cli.json("outbox", "skip", "--host", "host-1", "--node", "gone", "--sequence", "1", "--yes")
    assert skipped["topics"] == [TOPIC]


@pytest.mark.parametrize("arguments", [("--host", "x", "--node", "node-1"), ("--host", "host-1", "--node", "x")])
def test_a_replay_of_an_unknown_node_is_refused(cli: Cli, ledger: Writer, arguments: tuple[str, ...]) -> None:
    cli.configure(f"[DEFAULT]\n{_BROKER}\n[tracker]\nstate_path = {cli.state}\n")
    assert " x" in cli.refuse("outbox", "replay", *arguments, "--from-sequence", "1")


def test_a_replay_without_notifications_is_refused(cli: Cli, ledger: Writer) -> None:
    cli.configure(f"[DEFAULT]\n{_BROKER}\n[tracker]\nstate_path = {cli.state}\n[notifications]\ndriver = noop\n")
    refused = cli.refuse("outbox", "replay", "--host", "host-1", "--node", "node-1", "--from-sequence", "1")
    assert refused.startswith("nothing is published in this configuration")


def test_a_replay_to_a_topic_that_is_not_configured_is_refused(cli: Cli, ledger: Writer) -> None:
    cli.configure(f"[DEFAULT]\n{_BROKER}\n[tracker]\nstate_path = {cli.state}\n[notifications]\ntopics = a, b\n")
    replay = ("outbox", "replay", "--host", "host-1", "--node", "node-1", "--from-sequence", "1")
    assert "[notifications] has no topic c: it has a, b" in cli.refuse(*replay, "--topic", "c")


@pytest.mark.parametrize("sequences", [("0",), ("x",), ("3", "--to-sequence", "2")])
def test_an_invalid_range_is_a_usage_error(cli: Cli, ledger: Writer, sequences: tuple[str, ...]) -> None:
    done = cli.run("outbox", "replay", "--host", "host-1", "--node", "node-1", "--from-sequence", *sequences)
    assert done.exit_code == 2


class TestRange:
    @pytest.fixture
    def stream(self) -> Stream:
        return Stream(id=7, host="host-1", node="node-1", sequence=10, cursors={"slow": 5, "fast": 10})

    def test_a_range_without_an_end_reaches_to_the_last_sequence(self, stream: Stream) -> None:
        assert Range.of(stream, 3, None) == Range(stream_id=7, first=3, last=10)

    def test_a_range_includes_both_ends(self, stream: Stream) -> None:
        assert Range.of(stream, 3, 3) == Range(stream_id=7, first=3, last=3)

    @pytest.mark.parametrize(("first", "last"), [(11, None), (3, 11)])
    def test_a_range_beyond_the_last_sequence_is_refused(self, stream: Stream, first: int, last: int | None) -> None:
        with pytest.raises(CommandFailed, match="up to 10, not 11"):
            Range.of(stream, first, last)

    def test_a_range_may_begin_right_after_the_slowest_cursor(self, stream: Stream) -> None:
        assert Range.of(stream, 6, None).first == 6

    def test_a_range_that_begins_later_than_the_next_sequence_is_refused(self, stream: Stream) -> None:
        with pytest.raises(CommandFailed, match="from 6 on are not published yet"):
            Range.of(stream, 7, None)

    @pytest.mark.parametrize(("topic", "first"), [("slow", 6), ("fast", 11)])
    def test_of_a_range_for_one_topic_only_the_cursor_of_this_topic_counts(
        self, stream: Stream, topic: str, first: int
    ) -> None:
        stream = replace(stream, sequence=20)
        assert Range.of(stream, first, None, topic) == Range(stream_id=7, first=first, last=20)
        with pytest.raises(CommandFailed, match=f"from {first} on are not published yet"):
            Range.of(stream, first + 1, None, topic)

    def test_a_topic_that_no_worker_publishes_to_yet_may_get_everything_that_was_issued(self, stream: Stream) -> None:
        assert Range.of(stream, 9, None, "new") == Range(stream_id=7, first=9, last=10)
        with pytest.raises(CommandFailed, match="from 1 on are not published yet"):
            Range.of(replace(stream, cursors={}), 2, None, "new")
