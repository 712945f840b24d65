# SPDX-License-Identifier: Apache-2.0
"""The simulated broker does what RabbitMQ does: each story is played with both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import ChannelError, NotFound, PreconditionFailed, ResourceLocked

from tests.simulation.desk import Desk, Ear, RealDesk, SimulatedDesk, Story, new_name, publish

QUORUM = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}


@pytest.fixture(params=["simulated", "rabbitmq"])
def play(request: pytest.FixtureRequest) -> Callable[[Story], None]:
    if request.param == "simulated":
        return SimulatedDesk().play
    return RealDesk(request.getfixturevalue("broker_vhost")).play


@pytest.fixture(params=["classic", "quorum"])
def arguments(request: pytest.FixtureRequest) -> dict[str, Any]:
    return QUORUM if request.param == "quorum" else {}


def declared(channel: Any, arguments: dict[str, Any], **options: Any) -> str:
    name = new_name()
    channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments, **options)
    return name


def test_what_is_published_is_confirmed_in_order(play: Callable[[Story], None], arguments: dict[str, Any]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        ear.confirm()
        for number in range(10):
            publish(channel, b"%d" % number, key=name)
        ear.until(lambda: _confirmed(ear) == set(range(1, 11)))
        assert channel.queue_declare(name, passive=True).message_count == 10

    play(story)


def _confirmed(ear: Ear) -> set[int]:
    found: set[int] = set()
    for name, tag, multiple in ear.said:
        assert name == "ack"
        found.update(range(1, tag + 1) if multiple else (tag,))
    return found


def test_what_no_queue_takes_is_returned_before_it_is_confirmed(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear = Ear(desk, channel)
        ear.confirm()
        publish(channel, b"1", key="nobody", mandatory=True)
        ear.until(lambda: len(ear.said) == 2)
        publish(channel, b"2", key="nobody")
        ear.until(lambda: len(ear.said) == 3)
        assert ear.said == [("return", "nobody"), ("ack", 1, False), ("ack", 2, False)]

    play(story)


def test_a_full_queue_refuses(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, {"x-max-length": 1, "x-overflow": "reject-publish"})
        other = declared(channel, {})
        ear.confirm()
        for key in (name, name, other):
            publish(channel, b"x", key=key)
            ear.quiet()
        assert [name for name, *_ in ear.said] == ["ack", "nack", "ack"]

    play(story)


def test_a_missing_exchange_ends_the_channel_which_can_be_used_again(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear = Ear(desk, channel)

        def publish_twice() -> None:
            for _ in range(2):
                publish(channel, b"x", exchange="nothing", key="k")
            ear.quiet()

        with pytest.raises(NotFound, match="no exchange 'nothing' in vhost"):
            publish_twice()
        ear.confirm()
        publish(channel, b"3", key="nobody", mandatory=True)
        ear.until(lambda: ear.said == [("return", "nobody"), ("ack", 1, False)])

    play(story)


def test_a_consumer_holds_at_most_its_limit(play: Callable[[Story], None], arguments: dict[str, Any]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        for number in range(5):
            publish(channel, b"%d" % number, key=name)
        ear.consume(name, limit=2)
        ear.until(lambda: len(ear.delivered) == 2)
        ear.quiet()
        assert len(ear.delivered) == 2
        channel.basic_ack(2, multiple=True)
        ear.until(lambda: len(ear.delivered) == 4)
        assert ear.bodies() == [b"0", b"1", b"2", b"3"]

    play(story)


def test_a_single_consumer_is_active_and_the_next_one_gets_what_it_held(
    play: Callable[[Story], None], arguments: dict[str, Any]
) -> None:
    def story(desk: Desk) -> None:
        first, second, sender = desk.connect(), desk.connect(), desk.connect().channel()
        one, two = Ear(desk, first.channel()), Ear(desk, second.channel())
        name = declared(sender, {"x-single-active-consumer": True, **arguments})
        one.consume(name, limit=4)
        two.consume(name, limit=2)
        for number in range(6):
            publish(sender, b"%d" % number, key=name)
        one.until(lambda: len(one.delivered) == 4)
        two.quiet()
        assert two.delivered == []
        one._channel.basic_ack(2)
        one.until(lambda: len(one.delivered) == 5)
        first.close()
        two.until(lambda: len(two.delivered) == 2)
        two._channel.basic_ack(2, multiple=True)
        two.until(lambda: len(two.delivered) == 4)
        assert [(body, redelivered) for _, body, redelivered, _ in two.delivered] == [
            (b"0", True),
            (b"2", True),
            (b"3", True),
            (b"4", True),
        ]

    play(story)


def test_the_consumer_of_a_deleted_queue_is_told(play: Callable[[Story], None], arguments: dict[str, Any]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        ear.consume(name)
        desk.connect().channel().queue_delete(name)
        ear.until(lambda: ear.cancelled == [name])

    play(story)


def test_an_exclusive_queue_is_locked_until_its_connection_ends(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        owner, other = desk.connect(), desk.connect().channel()
        name = new_name()
        owner.channel().queue_declare(name, exclusive=True, auto_delete=True)
        with pytest.raises(ResourceLocked):
            other.queue_declare(name, exclusive=True, auto_delete=True)
        owner.close()
        other.queue_declare(name, exclusive=True, auto_delete=True)

    play(story)


def test_a_message_that_was_asked_for_and_given_back_is_there_again(
    play: Callable[[Story], None], arguments: dict[str, Any]
) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        name = declared(channel, arguments)
        assert channel.basic_get(name) is None
        ear = Ear(desk, channel)
        ear.confirm()
        publish(channel, b"1", key=name, delivery_mode=2)
        ear.until(lambda: ear.said)
        for looks in range(3):
            message = channel.basic_get(name)
            assert bytes(message.body) == b"1"
            assert message.delivery_info["redelivered"] is (looks > 0)
            counted = (message.properties.get("application_headers") or {}).get("x-delivery-count", 0)
            assert counted == (looks if arguments else 0)
            assert channel.queue_declare(name, passive=True).message_count == 0
            channel.basic_reject(message.delivery_tag, requeue=True)
            ear.quiet()

    play(story)


def test_an_expiration_of_0_reaches_an_idle_consumer_and_stays_nowhere(
    play: Callable[[Story], None], arguments: dict[str, Any]
) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        publish(channel, b"1", key=name, expiration="0")
        ear.quiet()
        assert channel.queue_declare(name, passive=True).message_count == 0
        ear.consume(name, limit=1)
        publish(channel, b"2", key=name, expiration="0")
        ear.until(lambda: ear.bodies() == [b"2"])
        publish(channel, b"3", key=name, expiration="0")
        ear.quiet()
        channel.basic_ack(1)
        ear.quiet()
        assert ear.bodies() == [b"2"]

    play(story)


def test_what_has_expired_is_not_delivered(play: Callable[[Story], None], arguments: dict[str, Any]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        publish(channel, b"1", key=name, expiration="100")
        publish(channel, b"2", key=name)
        ear.quiet()
        ear.consume(name)
        ear.until(lambda: ear.bodies() == [b"2"])

    play(story)


def test_a_passive_declaration_counts_messages_and_consumers(
    play: Callable[[Story], None], arguments: dict[str, Any]
) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, name = Ear(desk, channel), declared(channel, arguments)
        ear.consume(name, limit=1)
        for number in range(3):
            publish(channel, b"%d" % number, key=name)
        ear.until(lambda: ear.delivered)
        ear.quiet()
        said = channel.queue_declare(name, passive=True)
        assert (said.message_count, said.consumer_count) == (2, 1)
        with pytest.raises(NotFound, match="no queue 'nothing' in vhost"):
            channel.queue_declare("nothing", passive=True)

    play(story)


def test_a_queue_keeps_its_arguments(play: Callable[[Story], None], arguments: dict[str, Any]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        name = declared(channel, arguments)
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        with pytest.raises(PreconditionFailed):
            channel.queue_declare(name, durable=True, auto_delete=False, arguments={"x-max-length": 5, **arguments})

    play(story)


def test_an_unknown_delivery_tag_ends_the_channel(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        channel.basic_ack(7)
        with pytest.raises(PreconditionFailed):
            Ear(desk, channel).quiet()

    play(story)


def test_a_fanout_exchange_reaches_every_queue_and_ends_with_the_last(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        first, second = desk.connect(), desk.connect()
        exchange = new_name()
        ears = []
        for connection in (first, second):
            channel = connection.channel()
            channel.exchange_declare(exchange, "fanout", auto_delete=True)
            name = new_name()
            channel.queue_declare(name, exclusive=True, auto_delete=True)
            channel.queue_bind(name, exchange, "")
            ears.append(Ear(desk, channel))
            ears[-1].consume(name)
        publish(first.channel(), b"1", exchange=exchange, key="any")
        for ear in ears:
            ear.until(lambda ear=ear: ear.bodies() == [b"1"])
        first.close()
        second.channel().exchange_declare(exchange, "fanout", passive=True)
        second.close()
        channel = desk.connect().channel()
        Ear(desk, channel).quiet()
        with pytest.raises(ChannelError):
            channel.exchange_declare(exchange, "fanout", passive=True)

    play(story)


def test_a_topic_exchange_reaches_the_queues_that_are_bound(play: Callable[[Story], None]) -> None:
    def story(desk: Desk) -> None:
        channel = desk.connect().channel()
        ear, exchange = Ear(desk, channel), new_name()
        channel.exchange_declare(exchange, "topic", durable=False, auto_delete=False)
        name = declared(channel, {})
        ear.confirm()
        publish(channel, b"1", exchange=exchange, key="k", mandatory=True)
        ear.until(lambda: ear.said == [("return", "k"), ("ack", 1, False)])
        channel.queue_bind(name, exchange, "k")
        publish(channel, b"2", exchange=exchange, key="k", mandatory=True)
        ear.until(lambda: len(ear.said) == 3)
        assert ear.said[-1] == ("ack", 2, False)

    play(story)
