# SPDX-License-Identifier: Apache-2.0
"""Publishing with confirms, on a connection whose broker gives scripted answers."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import amqp
import pytest
from amqp.exceptions import NotFound

from tracker_worker.cli import publishing
from tracker_worker.cli.publishing import Answer, ConfirmedPublisher, NoAnswer, Unsendable

Event = Callable[["FakeChannel"], None]


class FakeChannel:
    """A channel that records messages, and the callbacks for the broker's answers."""

    def __init__(self) -> None:
        self.auto_decode = True
        self.confirming = False
        self.events: dict[str, set[Callable[..., None]]] = defaultdict(set)
        self.published: list[tuple[amqp.Message, str, str, bool]] = []

    def confirm_select(self) -> None:
        self.confirming = True

    def basic_publish(self, message: amqp.Message, *, exchange: str, routing_key: str, mandatory: bool) -> None:
        assert self.confirming
        self.published.append((message, exchange, routing_key, mandatory))

    def fire(self, event: str, *arguments: Any) -> None:
        for callback in self.events[event]:
            callback(*arguments)


def _nested(levels: int) -> object:
    value: object = None
    for _ in range(levels):
        value = [value]
    return value


class FakeConnection:
    """Each entry of ``answers`` is one event that ``drain_events`` reads; without an entry, ``drain_events`` times out."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.answers: deque[Event] = deque()
        self.ticks = 0
        self.frame_max = 131072

    def channel(self) -> FakeChannel:
        self.channels.append(FakeChannel())
        return self.channels[-1]

    def drain_events(self, timeout: float) -> None:
        if not self.answers:
            raise TimeoutError
        self.answers.popleft()(self.channels[-1])

    def heartbeat_tick(self) -> None:
        self.ticks += 1


def ack(tag: int, multiple: bool = False) -> Event:
    return lambda channel: channel.fire("basic_ack", tag, multiple)


def nack(tag: int) -> Event:
    return lambda channel: channel.fire("basic_nack", tag, False)


def give_back(exchange: str, routing_key: str, body: bytes) -> Event:
    return lambda channel: channel.fire("basic_return", None, exchange, routing_key, amqp.Message(body))


def close_channel(_channel: FakeChannel) -> None:
    raise NotFound("no exchange")


def silence(_channel: FakeChannel) -> None:
    raise TimeoutError


@pytest.fixture
def connection() -> FakeConnection:
    return FakeConnection()


@pytest.fixture
def publisher(connection: FakeConnection) -> ConfirmedPublisher:
    return ConfirmedPublisher(connection)


def test_a_message_is_published_as_mandatory_with_its_properties(
    connection: FakeConnection, publisher: ConfirmedPublisher
) -> None:
    publisher.publish(b"\xff", {"priority": 3, "application_headers": {"a": 1}}, exchange="e", routing_key="k")
    ((message, *where),) = connection.channels[0].published
    assert where == ["e", "k", True]
    assert message.body == b"\xff"
    assert message.properties == {"priority": 3, "application_headers": {"a": 1}}


def test_each_message_gets_the_answer_of_the_broker(connection: FakeConnection, publisher: ConfirmedPublisher) -> None:
    sent = [publisher.publish(body, {}, exchange="e", routing_key="k") for body in (b"1", b"2", b"3", b"4", b"5")]
    assert [message.answer for message in sent] == [None] * 5
    connection.answers.extend([nack(2), give_back("e", "k", b"4"), silence, ack(4, True), ack(5)])

    publisher.wait()

    assert [message.answer for message in sent] == [
        Answer.CONFIRMED,
        Answer.REFUSED,
        Answer.CONFIRMED,
        Answer.RETURNED,
        Answer.CONFIRMED,
    ]
    assert connection.ticks == 1
    assert len(connection.channels) == 1


def test_returns_of_equal_messages_are_matched_by_routing_key(
    connection: FakeConnection, publisher: ConfirmedPublisher
) -> None:
    sent = [publisher.publish(b"same", {}, exchange="e", routing_key=key) for key in ("k", "j", "k")]
    connection.answers.extend([give_back("e", "k", b"same"), give_back("e", "k", b"same"), ack(3, True)])
    publisher.wait()
    assert [message.answer for message in sent] == [Answer.RETURNED, Answer.CONFIRMED, Answer.RETURNED]


def test_a_silent_broker_is_waited_for_until_the_time_limit(
    connection: FakeConnection, publisher: ConfirmedPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(publishing.time, "monotonic", lambda: next(clock))
    publisher.publish(b"1", {}, exchange="e", routing_key="k")
    publisher.publish(b"2", {}, exchange="e", routing_key="k")
    connection.answers.extend([silence, silence, ack(1), silence, silence, silence])

    with pytest.raises(NoAnswer, match="has not confirmed within 30 s"):
        publisher.wait()

    assert not connection.answers  # the confirm of the first message has restarted the time limit
    assert connection.ticks == 6


def test_a_closed_channel_is_replaced_and_its_messages_stay_without_an_answer(
    connection: FakeConnection, publisher: ConfirmedPublisher
) -> None:
    lost = publisher.publish(b"1", {}, exchange="nowhere", routing_key="k")
    connection.answers.append(close_channel)
    with pytest.raises(NotFound):
        publisher.wait()
    publisher.wait()  # returns, because no message waits for an answer

    sent = publisher.publish(b"2", {}, exchange="e", routing_key="k")
    connection.answers.append(ack(1))
    publisher.wait()

    assert (lost.answer, sent.answer) == (None, Answer.CONFIRMED)
    assert len(connection.channels) == 2


@pytest.mark.parametrize("headers", [{"h": "x" * 200_000}, {"h": _nested(2000)}], ids=["long", "deep"])
def test_headers_that_cannot_be_written_are_refused_and_nothing_is_sent(headers: dict[str, object]) -> None:
    connection = FakeConnection()
    with pytest.raises(Unsendable, match="its headers"):
        ConfirmedPublisher(connection).publish(b"x", {"application_headers": headers}, exchange="", routing_key="q")
    assert connection.channels == []
