# SPDX-License-Identifier: Apache-2.0
"""The server fixtures of the functional tests work as their docstrings say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kombu
import psycopg
import pytest

from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.ports import is_listening

pytestmark = pytest.mark.long


@contextmanager
def _channel(transport_url: str, **options: object) -> Iterator[Any]:
    # Without a limit on reads, a queue without a leader blocks for a minute.
    options = {"read_timeout": 20, **options}
    url = transport_url.replace("rabbit://", "amqp://", 1)
    with kombu.Connection(url, connect_timeout=5, transport_options=options) as connection:
        yield connection.default_channel


def _queue(channel: Any, queue_type: str = "classic") -> kombu.Queue:
    queue = kombu.Queue("letters", durable=True, channel=channel, queue_arguments={"x-queue-type": queue_type})
    queue.declare()
    return queue


def _publish(channel: Any, body: str) -> None:
    producer = kombu.Producer(channel)
    producer.publish(body, routing_key="letters", delivery_mode=2)


def _select_one(url: str) -> object:
    with psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=5) as connection:
        return connection.execute("SELECT 1").fetchone()


def test_rabbitmq_delivers_a_message(rabbitmq: RabbitMQServer, broker_vhost: str) -> None:
    with _channel(broker_vhost) as channel:
        queue = _queue(channel)
        _publish(channel, "hello")

        message = queue.get(no_ack=True)

    assert message is not None
    assert message.payload == "hello"


def test_virtual_hosts_are_separate(rabbitmq: RabbitMQServer, broker_vhost: str) -> None:
    with _channel(broker_vhost) as channel, _channel(rabbitmq.virtual_host_url()) as other:
        queue, others_queue = _queue(channel), _queue(other)
        _publish(channel, "mine")

        assert others_queue.get(no_ack=True) is None
        assert queue.get(no_ack=True) is not None


def test_rabbitmqctl_reaches_the_node_of_the_tests(rabbitmq: RabbitMQServer, broker_vhost: str) -> None:
    with _channel(broker_vhost) as channel:
        _queue(channel)
        listing = rabbitmq.ctl("list_queues", "--vhost", broker_vhost.rpartition("/")[2], "name")

    assert "letters" in listing


def test_a_stopped_application_refuses_connections_until_it_is_started(
    rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    rabbitmq.stop_app()
    assert not is_listening(rabbitmq.port)

    rabbitmq.start_app()
    with _channel(broker_vhost) as channel:
        _queue(channel)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_a_killed_node_has_its_queues_and_confirmed_messages_after_a_start(
    rabbitmq: RabbitMQServer, broker_vhost: str, queue_type: str
) -> None:
    with _channel(broker_vhost, confirm_publish=True) as channel:
        _queue(channel, queue_type)
        _publish(channel, "kept")
    rabbitmq.kill()
    assert not is_listening(rabbitmq.port)

    rabbitmq.start()
    with _channel(broker_vhost) as channel:
        # A passive declaration distinguishes a lost queue from a lost message.
        channel.queue_declare("letters", passive=True)
        message = channel.basic_get("letters", no_ack=True)

    assert message is not None
    assert message.body == "kept"


def test_the_default_virtual_host_answers_after_a_restart(rabbitmq: RabbitMQServer) -> None:
    rabbitmq.restart()

    with kombu.Connection(rabbitmq.amqp_url, connect_timeout=5) as connection:
        assert connection.connect()


def test_postgresql_answers(postgresql: PostgreSQLServer) -> None:
    assert _select_one(postgresql.url) == (1,)


def test_each_new_database_is_empty(postgresql: PostgreSQLServer, postgresql_url: str) -> None:
    for url in (postgresql_url, postgresql.create_database()):
        with psycopg.connect(url.replace("+psycopg", "", 1)) as connection:
            connection.execute("CREATE TABLE letters (body text)")


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_postgresql_has_the_committed_data_after_a_start(
    postgresql: PostgreSQLServer, postgresql_url: str, mode: str
) -> None:
    with psycopg.connect(postgresql_url.replace("+psycopg", "", 1)) as connection:
        connection.execute("CREATE TABLE kept (body text)")
    postgresql.stop(mode=mode)
    with pytest.raises(psycopg.OperationalError):
        _select_one(postgresql_url)

    postgresql.start()
    with psycopg.connect(postgresql_url.replace("+psycopg", "", 1)) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
    postgresql.restart()
    assert _select_one(postgresql_url) == (1,)
