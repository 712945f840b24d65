# SPDX-License-Identifier: Apache-2.0
"""Capture the traffic of stock programs: raw messages from a broker, and the declarations of the programs.

Only one Capture may be open, and it must be open before the stock programs connect: while it is open, it wraps methods of
py-amqp's Channel, so that it sees the declarations and publishes of every kombu connection of this process.
"""

from __future__ import annotations

import functools
import inspect
import json
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import amqp
import kombu
import oslo_messaging
from amqp.channel import Channel
from kombu.compression import decompress
from oslo_config import cfg

from tests.wire.golden import Golden

WAIT_SECONDS = 30
_DECLARES = ("exchange_declare", "queue_declare", "queue_bind")
# These arguments of py-amqp's methods are not part of the declaration.
_NOT_DECLARED = ("self", "nowait", "argsig")


def neutral(body: bytes) -> bytes:
    """Remove the directories of this machine, which a traceback quotes, from ``body``. A recording has no other edit."""
    repository = Path(__file__).parents[2]
    places = [sysconfig.get_path(place) for place in ("purelib", "platlib", "stdlib")]
    for place in [*places, str(repository)]:
        body = body.replace(place.encode() + b"/", b"")
    return body


class Capture:
    """A raw connection of the recorder, and the declarations and publishes of the stock programs of this process.

    ``declared`` may be read at any time; everything else belongs to the thread that opened the capture.
    """

    def __init__(self, connection: Any) -> None:
        self.server_properties = dict(connection.server_properties)
        self.declared: list[dict[str, Any]] = []
        self._connection = connection
        # auto_decode would turn the bodies into text.
        self.channel = connection.channel()
        self.channel.auto_decode = False
        self._mandatory: dict[tuple[str, str], bool] = {}

    def queue(self, name: str, exchange: str = "", routing_key: str = "") -> str:
        """Declare a temporary queue, bound unless ``exchange`` is the default exchange."""
        self.channel.queue_declare(name, exclusive=True, auto_delete=False)
        if exchange:
            self.channel.queue_bind(name, exchange, routing_key)
        return name

    def take(self, queue: str, name: str, shows: str) -> Golden:
        """Wait for the next message of ``queue`` and return it. Raises: TimeoutError if no message arrives within
        WAIT_SECONDS.
        """
        taken: list[amqp.Message] = []
        tag = self.channel.basic_consume(queue, no_ack=True, callback=taken.append)
        while not taken:
            self._connection.drain_events(timeout=WAIT_SECONDS)
        self.channel.basic_cancel(tag)
        if len(taken) > 1:
            raise RuntimeError(f"{len(taken)} messages in {queue}: which of them is {name}?")
        return self._golden(taken[0], name, shows)

    def answer(self, call: Golden, result: object = None) -> None:
        """Release the stock client that waits for the reply to ``call``."""
        compression = call.headers.get("compression")
        body = decompress(call.body, compression) if compression else call.body
        message = json.loads(json.loads(body)["oslo.message"])
        msg_id = message["_msg_id"]
        reply = {"result": result, "failure": None, "ending": True, "_msg_id": msg_id, "_unique_id": msg_id[::-1]}
        self.send("", message["_reply_q"], reply)

    def send(self, exchange: str, routing_key: str, message: dict[str, Any]) -> None:
        """Publish ``message`` in the envelope."""
        body = json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)})
        properties = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2}
        self.channel.basic_publish(amqp.Message(body, **properties), exchange, routing_key)

    def exists(self, exchange: str) -> bool:
        """Whether the broker has ``exchange``."""
        with self._connection.channel() as channel:
            try:
                channel.exchange_declare(exchange, "topic", passive=True, auto_delete=False)
            except amqp.NotFound:
                return False
        return True

    def delete_declared(self) -> None:
        """Delete every queue and exchange that a stock program declared so far, and forget the declarations."""
        for declared in self.declared:
            if declared["op"] == "queue_declare":
                self.channel.queue_delete(declared["queue"])
        for declared in self.declared:
            if declared["op"] == "exchange_declare":
                self.channel.exchange_delete(declared["exchange"])
        self.declared.clear()

    def note_declare(self, operation: str, arguments: dict[str, Any]) -> None:
        """Record a declaration. Called by the wrapped methods, on the thread that declares."""
        kept = {name: value for name, value in arguments.items() if name not in _NOT_DECLARED}
        self.declared.append({"op": operation, **kept})

    def note_publish(self, exchange: str, routing_key: str, mandatory: bool) -> None:
        """Record a publish. Called by the wrapped method, on the thread that publishes."""
        self._mandatory[exchange, routing_key] = bool(mandatory)

    def _golden(self, message: amqp.Message, name: str, shows: str) -> Golden:
        properties = dict(message.properties)
        exchange, routing_key = message.delivery_info["exchange"], message.delivery_info["routing_key"]
        body = message.body if isinstance(message.body, bytes) else message.body.encode()
        return Golden(
            name=name,
            shows=shows,
            exchange=exchange,
            routing_key=routing_key,
            mandatory=self._mandatory[exchange, routing_key],
            content_type=properties.pop("content_type"),
            content_encoding=properties.pop("content_encoding"),
            headers=properties.pop("application_headers", {}),
            properties=properties,
            body=neutral(body),
        )


@contextmanager
def capturing(conf: cfg.ConfigOpts) -> Iterator[Capture]:
    """Open a Capture on the broker of ``conf``'s transport URL; Channel's methods are wrapped while it is open."""
    url = oslo_messaging.TransportURL.parse(conf)
    host = url.hosts[0]
    connection = kombu.Connection(
        hostname=host.hostname,
        port=host.port,
        userid=host.username,
        password=host.password,
        virtual_host=url.virtual_host or "/",
        transport="pyamqp",
    )
    with connection:
        capture = Capture(connection.connection)
        originals = {name: getattr(Channel, name) for name in (*_DECLARES, "_basic_publish")}
        for name, original in originals.items():
            setattr(Channel, name, _wrapped(name, original, capture))
        try:
            yield capture
        finally:
            for name, original in originals.items():
                setattr(Channel, name, original)


def _wrapped(name: str, original: Callable[..., Any], capture: Capture) -> Callable[..., Any]:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def method(channel: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(channel, *args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        if name == "_basic_publish":
            capture.note_publish(given["exchange"], given["routing_key"], given["mandatory"])
        elif channel.connection is not capture.channel.connection:
            capture.note_declare(name, dict(given))
        return original(channel, *args, **kwargs)

    return method
