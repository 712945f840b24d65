# SPDX-License-Identifier: Apache-2.0
"""The relay where a row of the outbox is several messages, or none, or cannot be written: what counts is the row."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.support.builders import node_name
from tests.support.relay import A, Case, keys
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.dialects.dialect import Bodies, Dialect
from tracker_worker.notifications.notification import INFO, WARN, Notification
from tracker_worker.service.chores import track
from tracker_worker.store.base import Commit

N1, N2 = node_name(1), node_name(2)
# Later than any pause of the relay, which has the clock of this machine.
LATE = 1e9


class Scripted:
    """A dialect in which each row is the number of messages that a test says for its sequence; UNWRITABLE: it cannot be
    written."""

    UNWRITABLE = -1

    def __init__(self, messages: dict[int, int], size: int = 10, *, otherwise: int = 1) -> None:
        self.messages = messages
        self.size = size
        self.otherwise = otherwise
        self.dialect = Dialect(option="compute_topics", write=self.write, content_type="text/plain")

    def write(self, notification: Notification) -> Bodies:
        count = self.messages.get(notification.sequence, self.otherwise)
        if count == self.UNWRITABLE:
            raise KeyError("released")
        return tuple(b"%d.%d" % (notification.sequence, index) + bytes(self.size) for index in range(count))


def taken(script: Scripted, nodes: int = 1) -> Case:
    case = Case(nodes=nodes, dialects={A: script.dialect}).taken()
    case.cursors()
    return case


class TestSeveralMessages:
    def test_they_are_one_publication_in_their_order_in_the_dialects_format(self) -> None:
        case = taken(Scripted({2: 2}, size=0))
        case.offer_rows(case.commit(1))
        [[publication]] = case.sent.calls
        assert publication.bodies == (b"2.0", b"2.1")
        assert (publication.key, publication.topic, publication.content_type) == ((1, 2, A), A, "text/plain")
        assert publication.priority == INFO

    def test_they_go_to_the_queue_that_the_dialect_says(self) -> None:
        case = taken(Scripted({}))
        [row] = case.commit(1)
        case.offer_rows([replace(row, priority=WARN)])
        [[publication]] = case.sent.calls
        assert publication.priority == INFO

    def test_their_bytes_fill_the_window_and_a_confirm_of_the_row_frees_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(track, "_WINDOW_BYTES", 3000)
        case = taken(Scripted({}, size=1000, otherwise=2))
        assert case.offer(3) == keys(2, 3)
        case.relay._catch_up()
        assert case.sent.take() == []
        case.confirm(*keys(2, 3))
        assert case.cursors() == {(1, A): 3}
        case.relay._catch_up()
        assert case.sent.take() == keys(4)
        case.confirm(*keys(4))
        assert case.relay._topics[A]._bytes == case.relay._topics[A].in_flight == 0

    def test_what_is_read_is_published_as_far_as_the_window_goes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The messages of a row may be many times as large as the row that is read."""
        monkeypatch.setattr(track, "_WINDOW_BYTES", 30_000)
        case = taken(Scripted({}, size=5000, otherwise=2))
        case.commit(10)
        case.relay.take(case.writer.host)
        heard = []
        for _ in range(10):
            case.relay._catch_up()
            sent = case.sent.take()
            assert sum(case.relay._topics[A].tracks[1].in_flight.values()) < 50_000
            heard += sent
            case.confirm(*sent)
        assert heard == keys(*range(2, 12))


class TestNoMessage:
    def test_the_cursor_passes_it(self) -> None:
        case = taken(Scripted({}, otherwise=0))
        assert case.offer(3) == []
        assert case.cursors() == {(1, A): 4}
        assert case.offer(1) == []
        assert case.cursors() == {(1, A): 5}

    def test_the_cursor_waits_for_what_comes_before_it(self) -> None:
        case = taken(Scripted({3: 0, 4: 0, 6: 0}))
        assert case.offer(5) == keys(2, 5)
        assert case.cursors() == {}
        case.confirm(*keys(5))
        assert case.cursors() == {}
        case.confirm(*keys(2))
        assert case.cursors() == {(1, A): 6}

    def test_nothing_is_published_again_after_a_restart(self) -> None:
        case = taken(Scripted({2: 0, 3: 0}))
        case.offer(2)
        case.cursors()
        case.offer(1)
        relay = case.another_relay()
        relay.take(case.writer.host)
        relay._catch_up()
        assert case.sent.take() == keys(4)

    def test_many_are_passed_without_a_wait(self) -> None:
        """No confirm tells the relay to go on, and nothing is left for the next flush."""
        case = taken(Scripted({}, otherwise=0), nodes=2)
        case.commit(3 * track.SHARE + 1)
        case.relay.take(case.writer.host)
        due, steps = case.relay.step(1.0), 1
        while due == 0.0:
            due, steps = case.relay.step(1.0), steps + 1
        assert steps <= 5
        assert case.cursors() == {(1, A): 3 * track.SHARE + 2}
        assert case.sent.take() == []
        assert case.relay.step(2.0) is None

    def test_a_step_that_cannot_read_waits(self) -> None:
        case = taken(Scripted({}, otherwise=0))
        case.commit(3 * track.SHARE)
        case.relay.take(case.writer.host)
        assert case.relay.step(1.0) == 0.0
        case.store.script["outbox"] = [StoreUnavailable(reason="away")]
        due = case.relay.step(1.0)
        assert due is not None
        assert due > 0.0
        assert case.relay.outage is not None

    def test_a_share_counts_them_behind_what_is_not_confirmed(self, small_window: int) -> None:
        case = taken(Scripted({2: 1}, otherwise=0))
        case.offer(10)
        assert len(case.relay._topics[A].tracks[1].ahead) < small_window
        case.confirm(*keys(2))
        assert case.relay.step(1.0) is not None
        for _ in range(5):
            case.relay._catch_up()
        assert case.cursors() == {(1, A): 11}

    def test_a_hole_behind_them_is_reported(self) -> None:
        case = taken(Scripted({2: 0, 5: 0}))
        case.commit(1)
        case.commit_lost(2)
        case.commit(1)
        case.relay.take(case.writer.host)
        for _ in range(3):
            case.relay.step(1.0)
        assert case.holes == [("host-1", N1, 3, 4)]
        assert case.cursors() == {(1, A): 5}


class TestARowThatCannotBeWritten:
    @pytest.fixture
    def case(self) -> Case:
        """One that is offered behind a good one."""
        case = taken(Scripted({3: Scripted.UNWRITABLE}), nodes=2)
        assert case.offer(3, N1) == keys(2)
        return case

    def waiting(self, case: Case) -> dict[str, tuple[int, str] | None]:
        return {
            each.node: None if each.refused_sequence is None else (each.refused_sequence, str(each.refused_reason))
            for each in case.store.backlog()
        }

    def test_its_node_waits_and_says_why_and_the_others_go_on(
        self, case: Case, caplog: pytest.LogCaptureFixture
    ) -> None:
        case.relay.step(1.0)
        waits = self.waiting(case)
        assert waits[N2] is None
        assert waits[N1] is not None
        assert waits[N1] == (3, "it cannot be written for [notifications] compute_topics: KeyError('released')")
        assert "the worker cannot write notification 3 of node node-1 for topic notifications" in caplog.text
        assert case.offer(1, N2) == keys(2, node=2)
        case.confirm(*keys(2))
        assert case.cursors() == {(1, A): 2}
        assert not case.behind()

    def test_the_node_goes_on_when_it_is_set_aside(self, case: Case) -> None:
        case.relay.step(1.0)
        case.confirm(*keys(2))
        case.cursors()
        case.store.commit(Commit(cursors={(1, A): 3}))
        case.relay.take(case.writer.host)
        case.relay.step(2.0)
        assert case.sent.take() == keys(4)

    def test_what_comes_before_it_goes_out_though_the_store_is_away(self) -> None:
        case = taken(Scripted({4: Scripted.UNWRITABLE}))
        case.commit(4)
        case.relay.take(case.writer.host)
        case.store.script["mark_refused"] = [StoreUnavailable(reason="away")]
        case.relay.step(1.0)
        assert case.sent.take() == keys(2, 3)
        assert self.waiting(case) == {N1: None}
        case.relay.step(LATE)
        assert case.sent.take() == []
        assert self.waiting(case)[N1] is not None
