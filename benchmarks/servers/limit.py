# SPDX-License-Identifier: Apache-2.0
"""The limit set by the broker and the client library: a batch consumer on the worker's queues that finds the ids of a request
and sends a constant reply. It decodes nothing else, stores and confirms nothing, and acknowledges a batch immediately.
"""

from __future__ import annotations

import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import tracker_worker.cli.threading_backend  # noqa: F401 first: chooses threads for oslo.service

# isort: split

import amqp
from oslo_config import cfg

from benchmarks.servers import program
from benchmarks.servers.stock import CLAIM
from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import read_settings
from tracker_worker.wire.message import ReplyTo, decode_message
from tracker_worker.wire.reply import encode_answer, encode_reply

_IDS = re.compile(rb'_msg_id\\": ?\\"([^"\\]+).*_reply_q\\": ?\\"([^"\\]+)')
_PROPERTIES = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 0}


class Echo:
    """A consumer that owns the connection. ``run`` belongs to a thread of its own."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        settings = read_settings(conf)
        self._connection: Any = settings.connection(settings.urls[0])
        self._connection.connect()
        queues = topology.served(settings, conf.tracker.hosts, "1")[:1]
        topology.declare_served(self._connection, settings, queues)
        self._channel = self._connection.channel()
        self._channel.basic_qos(0, settings.prefetch, False)
        self._arrived: list[Any] = []
        self._channel.basic_consume(queues[0].name, callback=self._arrived.append)
        self._parts = _template()
        self._stopping = threading.Event()

    def run(self) -> None:
        poller = select.poll()
        poller.register(self._connection.sock, select.POLLIN)
        while not self._stopping.is_set():
            if poller.poll(500):
                while poller.poll(0):
                    self._connection.blocking_read()
                self._answer()
            self._connection.heartbeat_tick()

    def _answer(self) -> None:
        for message in self._arrived:
            body = message.body if isinstance(message.body, bytes) else message.body.encode()
            found = _IDS.search(body)
            assert found is not None
            before, between, after = self._parts
            reply = b"".join((before, found[1], between, uuid4().hex.encode(), after))
            self._channel.basic_publish(amqp.Message(reply, **_PROPERTIES), routing_key=found[2].decode())
        if self._arrived:
            self._channel.basic_ack(self._arrived[-1].delivery_tag, multiple=True)
            self._arrived.clear()

    def stop(self) -> None:
        self._stopping.set()


def _template() -> list[bytes]:
    """The parts of a reply before, between and after its two ids, _msg_id and _unique_id."""
    reply = encode_reply(encode_answer("application/json", result=CLAIM), ReplyTo("", "@"))
    return reply.replace(decode_message(reply)["_unique_id"].encode(), b"@").split(b"@")


@contextmanager
def serve(conf: cfg.ConfigOpts) -> Iterator[None]:
    echo = Echo(conf)
    thread = threading.Thread(target=echo.run, daemon=True)
    thread.start()
    yield
    echo.stop()
    thread.join()


if __name__ == "__main__":
    program.run(serve)
