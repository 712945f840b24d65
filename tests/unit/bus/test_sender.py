# SPDX-License-Identifier: Apache-2.0
"""What becomes of replies, dead letters and notifications that the broker does not take."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.support.channels import SETTINGS, RecordingConnection
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.sender import AMQPSender
from tracker_worker.bus.base import (
    DeadLetter,
    Delivery,
    Outgoing,
    Publication,
    Refusal,
    RefusedDeadLetter,
    RefusedPublication,
    Reply,
    Settlement,
)
from tracker_worker.wire.message import JSON, MSGPACK, ReplyTo, decode_message, to_json

TOO_LARGE = "PRECONDITION_FAILED - message size 5000 is larger than configured max size 4000"
LARGE = b"x" * 5000


class Case:
    def __init__(self) -> None:
        self.settled: list[Delivery] = []
        self.confirmed: list[Any] = []
        self.refused: list[Refusal] = []
        self.sender = AMQPSender(
            SETTINGS,
            confirm_threshold=3,
            settle=self.settled.extend,
            confirmed=self.confirmed.extend,
            refused=self.refused.extend,
            died=lambda error: pytest.fail(str(error)),
        )
        self.connection = RecordingConnection()
        self.sender.opened(self.connection)
        self.channel = self.connection.last

    def send(self, *outgoing: Outgoing) -> None:
        self.sender.send(outgoing)
        self.sender.work()

    def refuse_large_ones(self) -> None:
        self.channel.close_by_broker(406, TOO_LARGE)
        self.channel.published.clear()
        self.sender.work()
        self.sender.work()

    def confirm(self) -> None:
        self.channel.tell("basic_ack", len(self.channel.published), True)
        self.sender.work()


@pytest.fixture
def case() -> Any:
    case = Case()
    yield case
    case.sender.stop(0)


def delivery(**fields: Any) -> Delivery:
    return Delivery(body=LARGE, source="h1", exchange="openstack", routing_key="tracker.h1", **fields)


@pytest.mark.parametrize("content_type", ["application/json", MSGPACK])
def test_a_reply_that_is_too_large_becomes_an_error_with_the_figures(case: Case, content_type: str) -> None:
    asked = delivery()
    case.send(Reply(delivery=asked, reply_to=ReplyTo("reply_1", "m-1", content_type), body=LARGE))
    case.refuse_large_ones()
    (published,) = case.channel.published
    assert published.routing_key == "reply_1"
    reply = decode_message(published.body, content_type)
    assert reply["_msg_id"] == "m-1"
    assert '"AnswerTooLarge"' in reply["failure"]
    assert '"bytes":5000' in reply["failure"]
    assert '"limit":4000' in reply["failure"]
    assert case.settled == []
    case.confirm()
    assert case.settled == [asked]


def test_a_reply_is_dropped_and_its_delivery_settled_if_the_error_is_refused_too(case: Case) -> None:
    asked = delivery()
    case.send(Reply(delivery=asked, reply_to=ReplyTo("reply_1", "m-1"), body=LARGE))
    case.channel.close_by_broker(406, TOO_LARGE.replace("4000", "10"))
    case.channel.published.clear()
    case.sender.work()
    case.sender.work()
    assert case.channel.published == []
    assert case.settled == [asked]
    assert case.sender.idle()


def test_a_dead_letter_is_reported_as_it_would_have_gone_out_and_not_settled(case: Case) -> None:
    parked = delivery(header_table=b"\x01aV", properties={"message_id": "m"})
    case.send(DeadLetter(delivery=parked, reason="no good"))
    case.refuse_large_ones()
    (refused,) = case.refused
    assert isinstance(refused, RefusedDeadLetter)
    assert (refused.delivery, refused.reason) == (parked, "no good")
    assert (refused.exchange, refused.routing_key) == ("openstack", "tracker.h1")
    assert refused.headers.startswith(b"\x01aV")
    assert b"\x01m" in refused.properties
    assert "larger than" in refused.broker_error
    assert case.settled == []
    assert case.channel.published == []


def test_a_notification_is_reported_by_its_key_and_later_ones_go_on(case: Case) -> None:
    case.send(
        Publication(key=1, topic="notifications", priority="INFO", bodies=(LARGE,)),
        Publication(key=2, topic="notifications", priority="WARN", bodies=(b"x",)),
    )
    case.refuse_large_ones()
    (refused,) = case.refused
    assert isinstance(refused, RefusedPublication)
    assert refused.key == 1
    assert "larger than" in refused.reason
    case.confirm()
    assert case.confirmed == [2]


class TestANotificationOfSeveralMessages:
    BODIES = (b"first", b"second", b"third")

    def publication(self, *bodies: bytes, content_type: str = JSON) -> Publication:
        return Publication(key=1, topic="notifications", priority="INFO", bodies=bodies, content_type=content_type)

    def test_is_confirmed_once_when_all_are(self, case: Case) -> None:
        case.send(self.publication(*self.BODIES))
        assert [message.body for message in case.channel.published] == list(self.BODIES)
        for tag, confirmed in ((2, []), (1, []), (3, [1])):
            case.channel.tell("basic_ack", tag, False)
            case.sender.work()
            assert case.confirmed == confirmed

    def test_after_a_lost_connection_only_what_is_not_confirmed_goes_out_again(self, case: Case) -> None:
        case.send(self.publication(*self.BODIES))
        case.channel.tell("basic_ack", 1, False)
        case.sender.lost()
        case.sender.opened(connection := RecordingConnection())
        case.sender.work()
        assert [message.body for message in connection.last.published] == [b"second", b"third"]
        assert case.confirmed == []
        connection.last.tell("basic_ack", 2, True)
        case.sender.work()
        assert case.confirmed == [1]

    def test_is_refused_once_and_never_confirmed_if_the_broker_does_not_take_one_of_them(self, case: Case) -> None:
        case.send(self.publication(b"small", LARGE))
        case.refuse_large_ones()
        assert [refused.key for refused in case.refused if isinstance(refused, RefusedPublication)] == [1]
        case.confirm()
        assert case.confirmed == []
        case.send(Publication(key=2, topic="notifications", priority="INFO", bodies=(b"next",)))
        case.confirm()
        assert case.confirmed == [2]

    def test_is_refused_once_if_the_broker_takes_none_of_them(self, case: Case) -> None:
        case.send(self.publication(LARGE, LARGE))
        case.refuse_large_ones()
        assert [refused.key for refused in case.refused if isinstance(refused, RefusedPublication)] == [1]
        assert case.channel.published == []
        assert case.sender.idle()

    def test_has_the_content_type_that_it_is_given_and_utf_8(self, case: Case) -> None:
        case.send(self.publication(b"{}", content_type="application/cloudevents+json"))
        [message] = case.channel.published
        assert message.properties == encode_properties(
            {
                "content_type": "application/cloudevents+json",
                "content_encoding": "utf-8",
                "delivery_mode": 2,
                "priority": 0,
            }
        )

    @pytest.mark.parametrize(("content_type", "same"), [(JSON, False), ("application/cloudevents+json", True)])
    def test_only_an_envelope_of_oslo_messaging_has_another_unique_id_at_the_next_attempt(
        self, case: Case, content_type: str, same: bool
    ) -> None:
        """A value of a CloudEvent can look as the id does in an envelope, whose quotes are escaped once more."""
        body = to_json({"display_name": '"_unique_id":"' + 32 * "0"})
        case.send(self.publication(body, content_type=content_type))
        case.sender.lost()
        case.sender.opened(connection := RecordingConnection())
        case.sender.work()
        [message] = connection.last.published
        assert (message.body == body) is same


def test_a_reply_queue_that_cannot_be_named_settles_the_delivery(case: Case) -> None:
    asked = delivery()
    case.send(Reply(delivery=asked, reply_to=ReplyTo("q" * 300, "m-1"), body=b"x"))
    case.sender.work()
    assert case.settled == [asked]


def test_a_call_whose_time_is_over_is_settled_and_not_answered(case: Case) -> None:
    late = delivery(deadline=time.monotonic() - 1)
    case.send(Reply(delivery=late, reply_to=ReplyTo("reply_1", "m-1"), body=b"x"))
    other = delivery()
    case.send(Settlement(delivery=other))
    assert case.channel.published == []
    assert case.settled == [late, other]
