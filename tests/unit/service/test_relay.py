# SPDX-License-Identifier: Apache-2.0
"""Outbox -> bus: every notification, in order per node, a limited number at a time, and the cursor never past a gap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import cast

import pytest

from tests.support.builders import HOST, NOW, node_name
from tests.support.relay import A, Case, keys, lagging
from tracker_worker.administration import Administration
from tracker_worker.bus.base import Bus
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.dialects.table import PLAIN
from tracker_worker.service.chores.relay import _MOST_READS, Relay
from tracker_worker.store.base import Commit
from tracker_worker.wire.message import decode_message

N1, N2 = node_name(1), node_name(2)


def test_committed_notifications_are_sent_from_memory(case: Case) -> None:
    case.store.calls.clear()
    assert case.offer(3) == keys(2, 3, 4)
    assert not case.behind()
    assert "outbox" not in case.store.calls


def test_a_notification_has_the_fields_of_its_outbox_row(case: Case) -> None:
    (row,) = case.commit(1)
    case.offer_rows([row])
    ((outgoing,),) = case.sent.calls
    message = decode_message(outgoing.bodies[0])
    assert outgoing.priority == row.priority == message["priority"]
    assert message["message_id"] == row.message_id
    assert message["publisher_id"] == f"tracker.{HOST}"
    assert message["event_type"] == row.event_type
    assert message["payload"]["sequence"] == row.sequence
    assert message["timestamp"] == "2026-01-15 12:00:00.000000"


def test_two_sendings_of_a_notification_differ_only_in_the_unique_id(case: Case) -> None:
    row = case.commit(1)
    messages = []
    for _ in range(2):
        relay = Relay(case.store, cast(Bus, case.sent), topics={A: PLAIN}, wake=lambda: None)
        relay.take(case.writer.host)
        relay._catch_up()
        messages.append([decode_message(outgoing.bodies[0]) for call in case.sent.calls for outgoing in call][-1])
        case.sent.calls.clear()
    assert messages[0].pop("_unique_id") != messages[1].pop("_unique_id")
    assert messages[0] == messages[1]
    assert messages[0]["message_id"] == row[0].message_id


def test_a_new_relay_begins_after_the_cursor(case: Case) -> None:
    case.commit(5)
    case.store.commit(Commit(cursors={(1, A): 3}))
    relay = Relay(case.store, cast(Bus, case.sent), topics={A: PLAIN}, wake=lambda: None)
    relay.take(case.writer.host)
    assert lagging(relay)
    relay._catch_up()
    assert case.sent.take() == keys(4, 5, 6)
    assert not lagging(relay)


def test_notifications_of_a_host_that_is_not_taken_are_not_sent() -> None:
    case = Case()
    case.offer_rows(case.commit(2))
    assert not case.behind()
    case.confirm((1, 2, A))
    assert case.sent.take() == []
    assert dict(case.relay.moved) == {}


def test_the_cursor_moves_to_the_last_confirm_before_a_gap(case: Case) -> None:
    case.offer(4)
    case.cursors()
    case.confirm((1, 4, A), (1, 3, A))
    assert case.cursors() == {}
    case.confirm((1, 2, A))
    assert case.cursors() == {(1, A): 4}
    case.confirm((1, 5, A))
    assert case.cursors() == {(1, A): 5}
    assert case.cursors() == {}


def test_a_cursor_that_moved_on_while_it_was_written_is_written_again(case: Case) -> None:
    case.offer(2)
    case.cursors()
    case.confirm((1, 2, A))
    writing = dict(case.relay.moved)
    case.confirm((1, 3, A))
    case.relay.written(writing)
    assert case.cursors() == {(1, A): 3}


def test_a_confirm_counts_once_and_only_for_a_sent_notification(case: Case) -> None:
    case.offer(2)
    case.cursors()
    case.confirm((1, 3, A), (1, 3, A), (1, 1, A), (1, 99, A), (7, 2, A))
    assert case.cursors() == {}
    case.confirm((1, 2, A), (1, 2, A))
    assert case.cursors() == {(1, A): 3}
    assert case.relay._topics[A].in_flight == 0


def test_the_cursors_of_nodes_are_independent() -> None:
    case = Case(nodes=2).taken()
    assert case.cursors() == {(1, A): 1, (2, A): 1}
    assert case.offer(2, N1) == keys(2, 3)
    assert case.offer(1, N2) == keys(2, node=2)
    case.confirm((2, 2, A), (1, 3, A))
    assert case.cursors() == {(2, A): 2}


def test_no_more_notifications_than_the_window_are_in_flight(case: Case, small_window: int) -> None:
    assert case.offer(10) == keys(2, 3, 4, 5)
    assert not case.behind()
    case.confirm((1, 2, A))
    assert not case.behind()
    # The relay reads only when half of the window is free, so that it does not read the outbox row by row.
    case.confirm((1, 3, A))
    assert case.behind()
    case.confirm((1, 4, A))
    case.relay._catch_up()
    assert case.sent.take() == keys(6, 7, 8)
    for sequence in (5, 6, 7, 8):
        case.confirm((1, sequence, A))
    case.relay._catch_up()
    assert case.sent.take() == keys(9, 10, 11)
    assert not case.behind()


def test_a_notification_offered_while_the_relay_lags_waits_for_its_turn(case: Case, small_window: int) -> None:
    case.offer(6)
    case.confirm(*keys(2, 3, 4, 5))
    assert case.offer(1) == []
    case.relay._catch_up()
    assert case.sent.take() == keys(6, 7, 8)
    assert case.offer(1) == keys(9)


def test_all_nodes_share_one_window(small_window: int) -> None:
    case = Case(nodes=2).taken()
    assert case.offer(3, N1) == keys(2, 3, 4)
    assert case.offer(3, N2) == keys(2, node=2)
    assert not case.behind()
    case.confirm(*keys(2, 3, 4))
    case.relay._catch_up()
    assert case.sent.take() == keys(3, 4, node=2)


def test_a_relay_that_cannot_read_the_outbox_reads_it_later(case: Case) -> None:
    case.commit(2)
    case.relay.take(case.writer.host)
    case.store.script["outbox"] = [StoreUnavailable(reason="away")]
    with pytest.raises(StoreUnavailable):
        case.relay._catch_up()
    assert case.behind()
    case.relay._catch_up()
    assert case.sent.take() == keys(2, 3)


def test_a_dropped_host_is_not_relayed_and_frees_its_window(case: Case, small_window: int) -> None:
    case.offer(4)
    case.confirm((1, 3, A))
    case.relay.drop(HOST)
    case.relay.drop(HOST)
    assert case.relay._topics[A].in_flight == 0
    assert dict(case.relay.moved) == {}
    assert case.offer(1) == []
    case.confirm((1, 2, A))
    assert dict(case.relay.moved) == {}


def test_a_host_that_is_taken_again_continues_from_its_cursor(case: Case) -> None:
    case.cursors()
    case.offer(3)
    case.confirm((1, 2, A))
    case.cursors()
    case.relay.drop(HOST)
    case.relay.take(case.writer.host)
    # The confirm is for the sending before the drop; since then, the relay has not sent this notification.
    case.confirm((1, 3, A))
    assert case.cursors() == {}
    case.relay._catch_up()
    assert case.sent.take() == keys(3, 4)
    case.confirm((1, 3, A), (1, 3, A), (1, 4, A))
    assert case.cursors() == {(1, A): 4}
    assert case.relay._topics[A].in_flight == 0


def test_taking_a_host_twice_sends_only_rows_that_another_worker_has_added(case: Case) -> None:
    case.offer(2)
    case.relay.take(case.writer.host)
    assert not case.behind()
    case.commit(1)
    case.relay.take(case.writer.host)
    case.relay._catch_up()
    assert case.sent.take() == keys(4)


def test_lagging_nodes_take_turns(small_window: int) -> None:
    case = Case(nodes=2).taken()
    first, second = case.ids
    rows = case.commit(3 * small_window) + case.commit(small_window, node=N2)
    case.offer_rows(rows)
    on_the_way = case.sent.take()
    turns = []
    while case.behind() or on_the_way:
        turns.append({node for node, _, _ in on_the_way})
        case.confirm(*on_the_way)
        if case.behind():
            case.relay._catch_up()
        on_the_way = case.sent.take()
    assert turns == [{first}, {first}, {second}, {first}]


def _caught_up(nodes: int, topics: Sequence[str] = (A,)) -> Case:
    """A relay that has published everything so far, of so many nodes."""
    case = Case(nodes=nodes, topics=topics)
    case.relay.take(case.writer.host)
    while case.relay.step(now=0.0) == 0.0:
        case.confirm(*case.sent.take())
    case.confirm(*case.sent.take())
    return case


def test_requests_have_their_turn_while_many_nodes_lag() -> None:
    case = Case(nodes=2 * _MOST_READS + 1)
    case.relay.take(case.writer.host)
    sent = []
    while not sent or sent[-1]:
        again = case.relay.step(now=0.0)
        sent.append(len(case.sent.take()))
        assert (again == 0.0) is (sent in ([_MOST_READS], [_MOST_READS, _MOST_READS]))
    assert sent == [_MOST_READS, _MOST_READS, 1, 0]


def test_nodes_that_wait_for_confirms_are_read_again_with_the_next_confirm_or_flush() -> None:
    """Behind what is on its way, each of them has numbers that the outbox lacks."""
    nodes = 2 * _MOST_READS
    case = _caught_up(nodes)
    for number in range(1, nodes + 1):
        case.offer(1, node_name(number))
        case.commit_lost(1, node_name(number), passes_over=True)
    case.relay.take(case.writer.host)

    waits = [case.relay.step(now=1.0) for _ in range(3)]

    assert all(wait is not None and wait > 0 for wait in waits)


def test_each_topic_has_its_turn_while_many_nodes_lag() -> None:
    nodes = _MOST_READS + 1
    case = _caught_up(nodes, topics=(A, "b"))
    for number in range(1, nodes + 1):
        case.commit(1, node_name(number))
    case.relay.take(case.writer.host)
    case.relay.step(now=1.0)
    topics = Counter(topic for _, _, topic in case.sent.take())
    assert topics == {A: _MOST_READS, "b": _MOST_READS}


def test_the_last_event_of_a_name_that_a_node_has_left_is_sent() -> None:
    """An operator has moved a node to another host; the command writes the event, and no worker offers it."""
    case = Case(nodes=2).taken()
    case.cursors()
    case.store.register_host("host-2", topic="tracker", version="1.0", now=NOW)
    Administration(case.store, notify=True).move_node(N2, host=HOST, to="host-2", name=N2)
    [host] = case.store.refreshed({HOST: {}}).values()
    case.relay.take(host)
    case.relay._catch_up()
    assert case.sent.take() == keys(2, node=2)


def test_what_a_node_says_under_a_name_that_it_had_between_two_looks_is_sent() -> None:
    """An operator gives a node another name and takes it back before the host's lease is renewed, twice: the first time the
    other name is new."""
    case = Case().taken()
    case.cursors()
    operator = Administration(case.store, notify=True)
    for first in (1, 3):
        operator.move_node(N1, host=HOST, to=HOST, name=N2)
        operator.move_node(N2, host=HOST, to=HOST, name=N1)
        case.relay.note(case.store.progress([HOST]).sequences)
        [host] = case.store.refreshed({HOST: {}}).values()
        case.relay.take(host)
        case.relay._catch_up()
        sent = case.sent.take()
        assert {key for key in sent if key[0] == 2} == set(keys(first, first + 1, node=2))
        case.confirm(*sent)
