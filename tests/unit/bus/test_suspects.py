# SPDX-License-Identifier: Apache-2.0
"""A message for which the broker ends the connection is found and given up; everybody else's messages go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from amqp.exceptions import ConnectionError as AMQPConnectionError
from amqp.exceptions import RecoverableConnectionError, error_for_code

from tests.support.publishing import QUEUE, Case, stopped
from tracker_worker.bus.amqp import suspects
from tracker_worker.bus.amqp.outgoing import FOREVER, Message
from tracker_worker.bus.amqp.publisher import _MARKER

TOO_LARGE = "PRECONDITION_FAILED - message size 18135492 is larger than configured max size 100"


@pytest.fixture
def case() -> Iterator[Broker]:
    with stopped() as case:
        yield Broker(case)


def ended(code: int) -> Exception:
    """The error that py-amqp raises for a Close from the broker."""
    return error_for_code(code, "FRAME_ERROR - cannot be decoded", (0, 0), AMQPConnectionError)


class Broker:
    """A broker that reads the messages in order and ends the connection at each that is ``poison``."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.poison: set[bytes] = set()
        self.code = 501
        self.given_up: list[tuple[bytes, int | None]] = []
        self.taken: list[bytes] = []
        self.connections = 1
        self.markers = True
        self._read = 0
        case.publisher.given_up = self._give_up  # type: ignore[method-assign]

    def _give_up(self, message: Message, error: str, limit: int | None) -> None:
        self.given_up.append((message.body, limit))

    def submit(self, *bodies: bytes, key: str = "reply_1", retry_before: float = 1e9) -> None:
        self.case.publisher.submit(*(self.case.message(body, key=key, retry_before=retry_before) for body in bodies))

    def step(self) -> bool:
        """Write what waits and answer it. Returns whether there was something."""
        self.case.publisher.work()
        published = self.case.channel.published[self._read :]
        if not published:
            return False
        for message in published:
            self._read += 1
            if message.body in self.poison:
                self.end(ended(self.code))
                return True
            if message.routing_key == _MARKER and not self.markers:
                self.end(ended(self.code))
                return True
            if message.routing_key != _MARKER:
                self.taken.append(message.body)
        self.case.ack(self._read, multiple=True)
        return True

    def end(self, error: Exception | None) -> None:
        self.case.lose(error)
        self.case.connect()
        self.connections += 1
        self._read = 0

    def run(self, steps: int = 1000) -> None:
        for _ in range(steps):
            if not self.step():
                return
        raise AssertionError("the publisher does not come to rest")


@pytest.mark.parametrize("code", [501, 502, 505, 541])
def test_the_guilty_message_is_given_up_after_it_failed_alone(case: Broker, code: int) -> None:
    case.code = code
    case.poison = {b"bad"}
    case.submit(b"1", b"2", b"bad", b"3", b"4")
    case.run()
    assert case.given_up == [(b"bad", None)]
    assert set(case.taken) == {b"1", b"2", b"3", b"4"}
    assert {body for body, routed in case.case.done if routed} == {b"1", b"2", b"3", b"4"}
    assert case.case.publisher.idle()
    assert case.case.publisher.waiting_bytes() == 0


@pytest.mark.parametrize("number", [1, 5, 40])
def test_each_of_several_guilty_messages_is_found(case: Broker, number: int) -> None:
    case.poison = {b"bad %d" % each for each in range(number)}
    bodies = [b"%d" % each for each in range(200)]
    for each, body in enumerate(bodies):
        case.submit(body, *([b"bad %d" % each] if each < number else []))
    case.run()
    assert {body for body, _ in case.given_up} == case.poison
    assert set(case.taken) == set(bodies)
    assert case.connections <= 3 + number + 200 // suspects.GROUP


def test_a_thousand_suspects_cost_few_connections(case: Broker) -> None:
    case.poison = {b"bad"}
    case.submit(*(b"%d" % number for number in range(500)), b"bad", *(b"%d" % number for number in range(500, 1000)))
    case.run()
    assert case.given_up == [(b"bad", None)]
    assert len(set(case.taken)) == 1000
    assert case.connections == 4, "at first, its group, and the message alone"


def test_other_messages_are_published_between_two_trials(case: Broker) -> None:
    case.poison = {b"bad"}
    case.submit(*(b"%d" % number for number in range(100)), b"bad")
    case.step()
    assert case.connections == 2
    for number in range(20):
        case.submit(b"fresh %d" % number, key="reply_2")
        before = len(case.taken)
        for _ in range(3):
            case.step()
        assert b"fresh %d" % number in case.taken[before:]
    case.run()
    assert case.given_up == [(b"bad", None)]


def test_later_messages_for_the_same_queue_wait_for_the_suspects(case: Broker) -> None:
    case.poison = {b"bad"}
    case.submit(*(b"%d" % number for number in range(100)), b"bad", key=QUEUE, retry_before=FOREVER)
    case.step()
    del case.taken[:]
    case.submit(b"100", key=QUEUE, retry_before=FOREVER)
    case.run()
    first_times = list(dict.fromkeys(case.taken))
    assert first_times == [*(b"%d" % number for number in range(100)), b"100"]


@pytest.mark.parametrize(
    "error", [None, OSError(104, "reset"), RecoverableConnectionError("Socket closed"), ended(320), ended(504)]
)
def test_another_end_of_the_connection_never_counts(case: Broker, error: Exception | None) -> None:
    case.submit(b"1")
    for _ in range(20):
        case.case.publisher.work()
        case.end(error)
    case.run()
    assert case.given_up == []
    assert case.taken == [b"1"]


def test_a_message_that_fails_while_no_other_is_confirmed_is_kept(case: Broker) -> None:
    """A broker that ends every connection has another reason."""
    case.markers = False
    case.poison = {b"bad"}
    case.submit(b"bad")
    for _ in range(20):
        case.step()
    assert case.given_up == []
    case.markers, case.poison = True, set()
    case.run()
    assert case.taken == [b"bad"]


def test_a_connection_that_is_lost_during_a_trial_repeats_it(case: Broker) -> None:
    case.poison = {b"bad"}
    case.submit(b"1", b"bad")
    for turn in range(30):
        case.step()
        if turn in (1, 2, 3):
            case.case.publisher.work()
            case.end(OSError(104, "reset"))
    case.run()
    assert case.given_up == [(b"bad", None)]
    assert b"1" in case.taken


class TestTheChannel:
    def test_a_message_over_the_brokers_limit_is_the_first_one_that_is_larger(self, case: Broker) -> None:
        large = b"x" * 101
        case.submit(b"1", large, large + b"2", b"3")
        channel = case.case.channel
        case.case.publisher.work()
        channel.tell("basic_ack", 1, False)
        channel.close_by_broker(406, TOO_LARGE)
        channel.published.clear()
        case.case.publisher.work()
        assert channel.confirms
        assert [body for body, _ in case.given_up] == [large, large + b"2"]
        assert {limit for _, limit in case.given_up} == {100}
        assert case.case.published() == [b"3"]
        channel.tell("basic_ack", 1, False)
        assert [body for body, routed in case.case.done if routed] == [b"1", b"3"]
        assert case.case.publisher.waiting_bytes() == 0

    def test_the_limit_holds_for_later_messages_of_this_connection(self, case: Broker) -> None:
        case.submit(b"x" * 101)
        case.case.publisher.work()
        case.case.channel.close_by_broker(406, TOO_LARGE)
        case.case.publisher.work()
        before = len(case.case.published())
        case.submit(b"y" * 101, b"z" * 100)
        case.case.publisher.work()
        assert case.case.published()[before:] == [b"z" * 100]
        case.end(OSError())
        case.submit(b"y" * 101)
        case.case.publisher.work()
        assert b"y" * 101 in case.case.published()

    def test_nothing_is_written_before_the_channel_is_in_use_again(self, case: Broker) -> None:
        case.submit(b"1")
        case.case.publisher.work()
        channel = case.case.channel
        channel.close_by_broker(406, TOO_LARGE)
        case.submit(b"2")
        case.case.publisher.write()
        assert [message.body for message in channel.published] == [b"1"]

    @pytest.mark.parametrize("code", [406, 501])
    def test_another_reason_makes_suspects_on_the_same_connection(self, case: Broker, code: int) -> None:
        def read(published: list[bytes], poison: bytes) -> bool:
            return poison not in published

        assert self._trials(case, code, read) == [b"bad"]
        assert case.connections == 1

    def _trials(self, case: Broker, code: int, is_good: Callable[[list[bytes], bytes], bool]) -> list[bytes]:
        case.submit(b"1", b"bad", b"2")
        channel = case.case.channel
        for _ in range(50):
            case.case.publisher.work()
            published = [message.body for message in channel.published]
            if published and is_good(published, b"bad"):
                channel.tell("basic_ack", len(published), True)
            elif published:
                channel.published.clear()
                channel.close_by_broker(code, "PRECONDITION_FAILED - it is not good")
        assert {body for body, routed in case.case.done if routed} == {b"1", b"2"}
        return [body for body, _ in case.given_up]

    def test_a_missing_exchange_holds_up_only_what_goes_through_it(self, case: Broker) -> None:
        case.submit(b"n", key=QUEUE, retry_before=FOREVER)
        case.submit(b"r")
        channel = case.case.channel
        for attempt in range(3):
            case.case.publisher.work()
            channel.close_by_broker(404, "NOT_FOUND - no exchange 'openstack' in vhost '/'")
            channel.published.clear()
            case.case.publisher.work()
            assert case.case.published() == ([b"r"] if attempt == 0 else [])
            channel.tell("basic_ack", 1, True)
            assert (b"r", True) in case.case.done
            channel.published.clear()
            channel.confirm_select()
            case.case.publisher._confirms.published = 0
            case.case.later(5)
            assert case.case.published() == [b"n"], "declared and tried again"
        assert case.given_up == []
