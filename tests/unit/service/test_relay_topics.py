# SPDX-License-Identifier: Apache-2.0
"""The relay with several topics, and with a notification that the broker does not take."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, node_name
from tests.support.relay import A, Case, keys
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import Commit

N1, N2 = node_name(1), node_name(2)
B = "b"


class TestTopics:
    @pytest.fixture
    def both(self) -> Case:
        return Case(topics=(A, B)).taken()

    def test_every_topic_gets_every_notification(self, both: Case) -> None:
        assert both.offer(2) == [*keys(2), *keys(2, topic=B), *keys(3), *keys(3, topic=B)]

    def test_a_topic_without_confirms_holds_up_only_itself(self, both: Case, small_window: int) -> None:
        heard = []
        for _ in range(20):
            sent = both.offer(2)
            heard += [key for key in sent if key[2] == A]
            both.confirm(*[key for key in sent if key[2] == A])
        both.relay._catch_up()
        heard += [key for key in both.sent.take() if key[2] == A]
        assert heard == keys(*range(2, 42))
        assert both.relay._topics[B].in_flight == 4
        both.confirm(*heard, *keys(2, 3, 4, 5, topic=B))
        assert both.cursors() == {(1, A): 41, (1, B): 5}

    def test_a_gap_bounds_what_is_remembered_behind_it(self, case: Case, small_window: int) -> None:
        case.offer(50)
        for _ in range(50):
            case.confirm(*keys(*range(3, 60)))
            case.relay._catch_up()
        assert len(case.relay._topics[A].tracks[1].ahead) < small_window

    def test_without_topics_nothing_is_published_and_no_old_cursor_is_left(self) -> None:
        case = Case(topics=())
        case.relay.take(case.writer.host)
        case.offer_rows(case.commit(2))
        assert case.sent.take() == []
        assert [dict(stream.cursors) for stream in case.store.streams(HOST)] == [{}]
        assert case.relay.step(0.0) is None


class TestRefused:
    """The broker does not take one notification."""

    @pytest.fixture
    def refused(self) -> Case:
        case = Case(nodes=2).taken()
        case.cursors()
        case.offer(3, N1)
        case.relay.refused((1, 3, A), "message size 2000000 is larger than 1048576")
        return case

    def waiting(self, case: Case) -> dict[str, int | None]:
        return {backlog.node: backlog.refused_sequence for backlog in case.store.backlog()}

    def test_its_node_waits_and_the_others_do_not(self, refused: Case) -> None:
        assert refused.offer(1, N1) == []
        refused.relay.take(refused.writer.host)
        assert not refused.behind()
        assert refused.offer(1, N2) == keys(2, node=2)
        assert self.waiting(refused) == {N1: 3, N2: None}
        refused.confirm(*keys(2, 4))
        assert refused.cursors() == {(1, A): 2}

    def test_its_node_goes_on_when_an_operator_has_set_it_aside(self, refused: Case) -> None:
        refused.confirm(*keys(2))
        refused.cursors()
        refused.offer(1, N1)
        refused.store.commit(Commit(cursors={(1, A): 3}))
        refused.relay.take(refused.writer.host)
        refused.relay._catch_up()
        assert refused.sent.take() == keys(4, 5)
        refused.confirm(*keys(4, 5))
        assert refused.cursors() == {(1, A): 5}
        assert refused.relay._topics[A].in_flight == 0

    def test_a_refusal_that_cannot_be_kept_is_kept_later(self, refused: Case) -> None:
        refused.store.script["mark_refused"] = [StoreUnavailable(reason="away")]
        with pytest.raises(StoreUnavailable):
            refused.relay.refused((1, 2, A), "too large")
        refused.relay.refused((1, 2, A), "too large")
        assert refused.store.calls.count("mark_refused") == 3

    def test_of_several_the_first_one_is_named_which_is_to_be_set_aside(self, refused: Case) -> None:
        refused.relay.refused((1, 4, A), "too large")
        assert self.waiting(refused) == {N1: 3, N2: None}
        refused.relay.refused((1, 2, A), "too large")
        assert self.waiting(refused) == {N1: 2, N2: None}
