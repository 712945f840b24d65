# SPDX-License-Identifier: Apache-2.0
"""Outbox -> bus: every notification, in order per node, a limited number at a time, and the cursor never past a gap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pytest

from tests.support.builders import HOST, begin, node_name
from tests.support.engine import ScriptedStore
from tests.support.store import TOPIC, settle
from tracker_worker.bus.base import Bus, Publication
from tracker_worker.errors import StoreUnavailable
from tracker_worker.notifications.notification import Notification
from tracker_worker.service.chores import relay as module
from tracker_worker.service.chores.relay import Relay
from tracker_worker.store.base import Commit
from tracker_worker.wire.message import decode_message

N1, N2 = node_name(1), node_name(2)


class RecordingBus:
    """The part of the bus that a relay uses."""

    def __init__(self) -> None:
        self.calls: list[list[Publication]] = []
        self.sender = self

    def send(self, notifications: Sequence[Publication]) -> None:
        self.calls.append(list(notifications))

    def take(self) -> list[tuple[int, int]]:
        """The keys sent since the last call."""
        keys = [outgoing.key[:2] for call in self.calls for outgoing in call]
        self.calls.clear()
        return keys


class Case:
    """A host whose nodes have one notification each, and a relay that has not taken the host yet."""

    def __init__(self, nodes: int = 1) -> None:
        self.store = ScriptedStore()
        self.writer = settle(self.store, nodes=nodes)
        self.ids = [ledger.id for ledger in self.writer.host]
        self.sent = RecordingBus()
        self.relay = Relay(self.store, cast(Bus, self.sent), topics=[TOPIC], wake=lambda: None)
        self.numbers = iter(range(1, 10000))

    def taken(self) -> Case:
        """Let the relay take the host, with all its notifications sent and confirmed."""
        self.relay.take(self.writer.host)
        self.relay._catch_up()
        self.confirm(*self.sent.take())
        return self

    def commit(self, count: int, node: str = N1) -> list[Notification]:
        """Commit ``count`` more notifications to the outbox."""
        for _ in range(count):
            self.writer.put(begin(next(self.numbers), node=node))
        rows = list(self.writer.notifications)
        self.writer.commit()
        return rows

    def offer(self, count: int, node: str = N1) -> list[tuple[int, int]]:
        """Commit and offer ``count`` more notifications. Return the sent keys."""
        self.offer_rows(self.commit(count, node))
        return self.sent.take()

    def offer_rows(self, rows: Sequence[Notification]) -> None:
        """Offer the rows to the relay and send the ready publications, as the engine does."""
        if ready := self.relay.offer(rows):
            self.sent.send(ready)

    def behind(self) -> bool:
        """Whether the outbox has rows to read and the window has room for them."""
        return lagging(self.relay)

    def confirm(self, *keys: tuple[int, int]) -> None:
        self.relay.confirmed([(*key, TOPIC) for key in keys])
        self.relay._take_confirms()

    def cursors(self) -> dict[int, int]:
        """The cursors that moved since the last call; the call writes them."""
        moved = dict(self.relay.moved)
        self.store.commit(Commit(cursors=moved))
        self.relay.written(moved)
        return {node_id: cursor for (node_id, _), cursor in moved.items()}


@pytest.fixture
def case() -> Case:
    return Case().taken()


@pytest.fixture
def small_window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "WINDOW", 4)
    return 4


def lagging(relay: Relay) -> bool:
    """Whether the outbox has rows to read and the window has room for them."""
    return bool(relay._lagging) and relay._in_flight < module.WINDOW // 2


def keys(*sequences: int, node: int = 1) -> list[tuple[int, int]]:
    return [(node, sequence) for sequence in sequences]


def test_committed_notifications_are_sent_from_memory(case: Case) -> None:
    case.store.calls.clear()
    assert case.offer(3) == keys(2, 3, 4)
    assert not case.behind()
    assert "outbox" not in case.store.calls


def test_a_notification_has_the_fields_of_its_outbox_row(case: Case) -> None:
    (row,) = case.commit(1)
    case.offer_rows([row])
    ((outgoing,),) = case.sent.calls
    message = decode_message(outgoing.body)
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
        relay = Relay(case.store, cast(Bus, case.sent), topics=[TOPIC], wake=lambda: None)
        relay.take(case.writer.host)
        relay._catch_up()
        messages.append([decode_message(outgoing.body) for call in case.sent.calls for outgoing in call][-1])
        case.sent.calls.clear()
    assert messages[0].pop("_unique_id") != messages[1].pop("_unique_id")
    assert messages[0] == messages[1]
    assert messages[0]["message_id"] == row[0].message_id


def test_a_new_relay_begins_after_the_cursor(case: Case) -> None:
    case.commit(5)
    case.store.commit(Commit(cursors={(1, TOPIC): 3}))
    relay = Relay(case.store, cast(Bus, case.sent), topics=[TOPIC], wake=lambda: None)
    relay.take(case.writer.host)
    assert lagging(relay)
    relay._catch_up()
    assert case.sent.take() == keys(4, 5, 6)
    assert not lagging(relay)


def test_notifications_of_a_host_that_is_not_taken_are_not_sent() -> None:
    case = Case()
    case.offer_rows(case.commit(2))
    assert not case.behind()
    case.confirm((1, 2))
    assert case.sent.take() == []
    assert dict(case.relay.moved) == {}


def test_the_cursor_moves_to_the_last_confirm_before_a_gap(case: Case) -> None:
    case.offer(4)
    case.cursors()
    case.confirm((1, 4), (1, 3))
    assert case.cursors() == {}
    case.confirm((1, 2))
    assert case.cursors() == {1: 4}
    case.confirm((1, 5))
    assert case.cursors() == {1: 5}
    assert case.cursors() == {}


def test_a_cursor_that_moved_on_while_it_was_written_is_written_again(case: Case) -> None:
    case.offer(2)
    case.cursors()
    case.confirm((1, 2))
    writing = dict(case.relay.moved)
    case.confirm((1, 3))
    case.relay.written(writing)
    assert case.cursors() == {1: 3}


def test_a_confirm_counts_once_and_only_for_a_sent_notification(case: Case) -> None:
    case.offer(2)
    case.cursors()
    case.confirm((1, 3), (1, 3), (1, 1), (1, 99), (7, 2))
    assert case.cursors() == {}
    case.confirm((1, 2), (1, 2))
    assert case.cursors() == {1: 3}
    assert case.relay._in_flight == 0


def test_the_cursors_of_nodes_are_independent() -> None:
    case = Case(nodes=2).taken()
    assert case.cursors() == {1: 1, 2: 1}
    assert case.offer(2, N1) == keys(2, 3)
    assert case.offer(1, N2) == keys(2, node=2)
    case.confirm((2, 2), (1, 3))
    assert case.cursors() == {2: 2}


def test_no_more_notifications_than_the_window_are_in_flight(case: Case, small_window: int) -> None:
    assert case.offer(10) == keys(2, 3, 4, 5)
    assert not case.behind()
    case.confirm((1, 2), (1, 3))
    assert not case.behind()
    # The relay reads only when half of the window is free, so that it does not read the outbox row by row.
    case.confirm((1, 4))
    assert case.behind()
    case.relay._catch_up()
    assert case.sent.take() == keys(6, 7, 8)
    for sequence in (5, 6, 7, 8):
        case.confirm((1, sequence))
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


def test_sequences_without_an_outbox_row_are_skipped() -> None:
    """Notifications were switched off for a while."""
    case = Case().taken()
    case.cursors()
    case.commit(2)
    case.writer.put(begin(101, node=N1)).put(begin(102, node=N1))
    case.writer.notifications.clear()
    case.writer.commit()
    case.commit(1)
    case.relay.take(case.writer.host)
    case.relay._catch_up()
    assert case.sent.take() == keys(2, 3, 6)
    case.confirm((1, 6))
    assert case.cursors() == {}
    case.confirm((1, 3), (1, 2))
    assert case.cursors() == {1: 6}
    assert case.offer(1) == keys(7)


def test_sequences_without_an_outbox_row_at_the_end_are_skipped(case: Case) -> None:
    case.cursors()
    case.writer.put(begin(101, node=N1)).put(begin(102, node=N1))
    case.writer.notifications.clear()
    case.writer.commit()
    case.relay.take(case.writer.host)
    for _ in range(3):
        if case.behind():
            case.relay._catch_up()
    assert not case.behind()
    assert case.cursors() == {1: 3}
    assert case.offer(1) == keys(4)
    case.confirm((1, 4))
    assert case.cursors() == {1: 4}


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
    case.confirm((1, 3))
    case.relay.drop(case.writer.host)
    case.relay.drop(case.writer.host)
    assert case.relay._in_flight == 0
    assert dict(case.relay.moved) == {}
    assert case.offer(1) == []
    case.confirm((1, 2))
    assert dict(case.relay.moved) == {}


def test_a_host_that_is_taken_again_continues_from_its_cursor(case: Case) -> None:
    case.cursors()
    case.offer(3)
    case.confirm((1, 2))
    case.cursors()
    case.relay.drop(case.writer.host)
    case.relay.take(case.writer.host)
    # The confirm is for the sending before the drop; since then, the relay has not sent this notification.
    case.confirm((1, 3))
    assert case.cursors() == {}
    case.relay._catch_up()
    assert case.sent.take() == keys(3, 4)
    case.confirm((1, 3), (1, 3), (1, 4))
    assert case.cursors() == {1: 4}
    assert case.relay._in_flight == 0


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
        turns.append({node for node, _ in on_the_way})
        case.confirm(*on_the_way)
        if case.behind():
            case.relay._catch_up()
        on_the_way = case.sent.take()
    assert turns == [{first}, {first}, {second}, {first}]
