# SPDX-License-Identifier: Apache-2.0
"""Connections to brokers that refuse, say nothing, close at once, or raise an alarm; and what is left of a connection."""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.channels import SETTINGS
from tests.support.deadline import wait_until
from tests.support.fake_broker import FakeBroker, FakeConnection
from tracker_worker.bus.amqp import connection as module
from tracker_worker.bus.amqp import opening
from tracker_worker.bus.amqp.connection import BrokerConnection
from tracker_worker.bus.amqp.consumer import Consumer
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.amqp.publisher import Message, Publisher

_SECONDS = 10
_PROPERTIES = encode_properties({"delivery_mode": 2})


def died(error: BaseException) -> None:
    raise AssertionError from error


def publisher_of(broker: FakeBroker) -> Publisher:
    return Publisher(replace(SETTINGS, urls=(broker.url,)), confirm_threshold=1, confirmed=lambda: None, died=died)


def consumer_of(broker: FakeBroker) -> Consumer:
    return Consumer(
        replace(SETTINGS, urls=(broker.url,)), ["h1"], received=lambda deliveries: None, lost=lambda: None, died=died
    )


def once(connection: BrokerConnection) -> None:
    """Use one address once, on this thread, without the waits between rounds."""
    connection._connect_and_serve(connection._visitor.take(time.monotonic()))


def message(body: bytes, done: Callable[[bool], None] | None = None) -> Message:
    return Message("", "reply_1", body, _PROPERTIES, done, retry_before=time.monotonic() + 60)


def serve(connection: FakeConnection) -> None:
    connection.log_in()
    connection.answer()


# --- limits --------------------------------------------------------------------------------------------------------------


def silent(connection: FakeConnection) -> None:
    connection.sock.recv(65536)
    connection.sock.recv(65536)


def dripping(connection: FakeConnection) -> None:
    """Heartbeats and nothing else: each read ends soon, and the login never."""
    while True:
        connection.heartbeat()
        time.sleep(0.05)


def silent_after_login(connection: FakeConnection) -> None:
    connection.log_in()
    dripping(connection)


@pytest.mark.parametrize(
    ("behaviour", "phase"),
    [(silent, "the login"), (dripping, "the login"), (silent_after_login, "declaring and consuming")],
)
def test_every_phase_of_opening_ends_whatever_the_broker_says(
    behaviour: Callable[[FakeConnection], None],
    phase: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(opening, "LOGIN_SECONDS", 0.4)
    monkeypatch.setattr(module, "_OPENED_SECONDS", 0.4)
    monkeypatch.setattr(opening, "CLOSE_SECONDS", 0.1)
    with closing(FakeBroker(behaviour)) as broker:
        began = time.monotonic()
        once(consumer_of(broker))
        assert time.monotonic() - began < _SECONDS / 2
    assert phase in caplog.text


def test_the_size_of_segments_is_left_to_the_system() -> None:
    """As soon as the peer has told of a larger window, the system's own size may be one that cannot be set."""

    def talkative(connection: FakeConnection) -> None:
        while True:
            connection.heartbeat()

    with closing(FakeBroker(talkative)) as broker:
        connection = replace(SETTINGS, urls=(broker.url,)).connection(broker.url)
        settings = connection.socket_settings
        transport = connection.Transport(connection.host, _SECONDS, socket_settings=settings)
        parts = urlsplit(broker.url)
        with closing(socket.create_connection((parts.hostname, parts.port))) as transport.sock:

            def cannot_be_set() -> bool:
                transport.sock.recv(65536)
                return bool(transport.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) > 32767)

            wait_until(cannot_be_set, "the size of segments grows")
            transport._set_socket_options(settings)


def test_a_broker_that_closes_at_once_is_not_asked_without_a_pause() -> None:
    with closing(FakeBroker(FakeConnection.close)) as broker:
        consumer = consumer_of(broker)
        consumer.start()
        wait_until(lambda: len(broker.connections) >= 3, "three attempts")
        consumer.stop(_SECONDS)
        assert len(broker.connections) <= 4


def test_a_stop_ends_the_opening_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "LOGIN_SECONDS", 60)
    with closing(FakeBroker(silent)) as broker:
        consumer = consumer_of(broker)
        consumer.start()
        wait_until(lambda: broker.connections, "the attempt")
        began = time.monotonic()
        consumer.stop(0.1)
        assert time.monotonic() - began < _SECONDS / 2
        assert not consumer._thread.is_alive()


# --- what a connection declares ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "declares"), [(publisher_of, True), (consumer_of, False)])
def test_only_the_publisher_declares_that_it_wants_to_hear_of_alarms(
    make: Callable[[FakeBroker], BrokerConnection], declares: bool
) -> None:
    with closing(FakeBroker(serve)) as broker:
        connection = make(broker)
        connection.start()
        wait_until(connection.is_open, "the connection")
        sock: Any = connection._socket
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SETTINGS.heartbeat_seconds * 1000
        assert sock.gettimeout() == SETTINGS.heartbeat_seconds
        connection.stop(_SECONDS)
        assert ("connection.blocked" in broker.connections[0].capabilities) is declares


# --- alarms --------------------------------------------------------------------------------------------------------------


class Alarmed:
    """A broker whose alarm begins with the first message, and which reads nothing until ``over`` is set."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.broker = FakeBroker(self._serve)

    def _serve(self, connection: FakeConnection) -> None:
        connection.log_in()
        while not connection.published:
            connection.step()
        connection.block("low on disk\n")
        assert self.over.wait(_SECONDS)
        connection.unblock()
        connection.answer()

    def close(self) -> None:
        self.over.set()
        self.broker.close()


@pytest.fixture
def alarmed() -> Iterator[Alarmed]:
    with closing(Alarmed()) as alarmed:
        yield alarmed


@pytest.mark.parametrize("size", [10, 30_000], ids=["few bytes", "more than the sockets hold"])
def test_an_alarm_costs_no_connection_and_no_copy(
    alarmed: Alarmed, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    publisher = publisher_of(alarmed.broker)
    done: list[bool] = []
    bodies = [b"%4d" % number + bytes(size) for number in range(500)]
    publisher.submit(*(message(body, done.append) for body in bodies[:400]))
    publisher.start()
    blocked = wait_until(publisher.blocked, "the alarm")
    sock: Any = publisher._socket
    wait_until(lambda: sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0, "no time limit of TCP's")
    waiting = len(publisher._confirms.pending)
    publisher.submit(*(message(body, done.append) for body in bodies[400:]))

    assert blocked.reason == "low on disk\\n"
    assert blocked.since <= time.monotonic()
    assert len(publisher._confirms.pending) == waiting
    assert publisher.is_open()

    alarmed.over.set()
    wait_until(lambda: len(done) == len(bodies), lambda: f"all are confirmed; {len(done)} are")
    assert publisher.blocked() is None
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SETTINGS.heartbeat_seconds * 1000
    publisher.stop(_SECONDS)
    (connection,) = alarmed.broker.connections
    assert connection.published == bodies
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == [
        "the broker has blocked publishing (alarm): low on disk\\n",
        "the broker takes messages again after 0 s",
    ]


def test_a_stop_during_an_alarm_ends_in_time(alarmed: Alarmed) -> None:
    publisher = publisher_of(alarmed.broker)
    publisher.submit(*(message(bytes(30_000)) for _ in range(400)))
    publisher.start()
    wait_until(publisher.blocked, "the alarm")
    began = time.monotonic()
    publisher.stop(0.5)
    assert time.monotonic() - began < _SECONDS / 2
    assert not publisher._thread.is_alive()


def test_messages_for_a_missing_queue_wait_through_an_alarm_without_a_busy_loop(alarmed: Alarmed) -> None:
    publisher = publisher_of(alarmed.broker)
    publisher.submit(message(b"1"))
    publisher.start()
    wait_until(publisher.blocked, "the alarm")
    missing = publisher._destinations.add("notifications.info")
    publisher._destinations.close(missing, 0.0, missing=True)
    assert publisher.due_in() > 0.5
    publisher.stop(0)


# --- what is left --------------------------------------------------------------------------------------------------------


def accept_and_end(connection: FakeConnection) -> None:
    connection.log_in()
    while connection.step() not in ((60, 20), (85, 10)):
        pass
    connection.end(320, "CONNECTION_FORCED - a test")


@pytest.mark.parametrize("make", [publisher_of, consumer_of])
@pytest.mark.parametrize("behaviour", [FakeConnection.refuse_login, accept_and_end])
def test_nothing_is_kept_of_a_connection_that_has_ended(
    make: Callable[[FakeBroker], BrokerConnection], behaviour: Callable[[FakeConnection], None]
) -> None:
    # A worker collects garbage seldom: what only a collection would free counts as kept.
    times = 20
    with closing(FakeBroker(behaviour)) as broker:
        connection = make(broker)
        for _ in range(3):
            once(connection)
        gc.collect()
        gc.disable()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(times):
                once(connection)
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            gc.enable()
        assert len(broker.connections) == times + 3
    assert (after - before) / times < 10_000
