# SPDX-License-Identifier: Apache-2.0
"""Plain AMQP, to send messages that no stock client would send and to read the bytes."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import amqp
import kombu
import msgpack
from amqp.exceptions import NotFound

from tests.support.deadline import wait_until

__all__ = [
    "DEAD_LETTERS",
    "EXCHANGE",
    "JSON",
    "MSGPACK",
    "NotFound",
    "RawConnection",
    "check_parked",
    "connect",
    "deep_table",
    "packed",
    "unpacked",
    "wide_table",
]

EXCHANGE = "openstack"
DEAD_LETTERS = "tracker.dead"
MSGPACK = {"content_type": "application/x-msgpack", "content_encoding": "binary"}
JSON = {"content_type": "application/json", "content_encoding": "utf-8", "delivery_mode": 2, "priority": 0}


def deep_table(levels: int) -> bytes:
    """An encoded table of a few KB that few programs can decode and fewer can encode: lists within lists."""
    value = b"V"
    for _ in range(levels):
        value = b"A" + len(value).to_bytes(4, "big") + value
    return b"\x01h" + value


def wide_table(numbers: int) -> bytes:
    """An encoded table of many one-byte integers, which py-amqp writes as longer ones."""
    return b"\x01hA" + (2 * numbers).to_bytes(4, "big") + b"b\x01" * numbers


class RawConnection:
    """One channel and one reply queue. Not thread-safe."""

    def __init__(self, connection: Any) -> None:
        self.channel = connection.channel()
        self.channel.auto_decode = False  # deliver bodies as bytes
        self.reply_queue = self.channel.queue_declare(f"reply_{uuid.uuid4().hex}", exclusive=True).queue
        self._replies: dict[str, dict[str, Any]] = {}

    def request(
        self, method: str, arguments: Mapping[str, Any], *, call: bool = False, keys: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """A request as oslo.messaging 18.3 sends it; ``keys`` override its keys."""
        message: dict[str, Any] = {
            "method": method,
            "args": arguments,
            "version": "1.0",
            "_unique_id": uuid.uuid4().hex,
            "_context_project_id": "project-of-context",
        }
        if call:
            message |= {"_msg_id": uuid.uuid4().hex, "_reply_q": self.reply_queue, "_timeout": None}
        return message | dict(keys or {})

    def publish(self, key: str, body: bytes, *, exchange: str = EXCHANGE, **properties: Any) -> None:
        headers = properties.pop("headers", {})
        message = amqp.Message(body, application_headers=headers, **{**JSON, **properties})
        self.channel.basic_publish(message, exchange=exchange, routing_key=key)

    def publish_unreadable(self, key: str, body: bytes, *, exchange: str = EXCHANGE) -> None:
        """Publish a message whose content type is not UTF-8 and which has a header with a date after the year 9999."""
        header = b"\x01aT" + (2**40).to_bytes(8, "big")
        properties = b"\xa0\x00" + b"\x02\xff\xfe" + len(header).to_bytes(4, "big") + header
        message = amqp.Message(body)
        message._serialize_properties = lambda: properties
        self.channel.basic_publish(message, exchange=exchange, routing_key=key)

    def publish_table(self, key: str, body: bytes, table: bytes, *, exchange: str = EXCHANGE) -> None:
        """Publish a message whose application headers are these bytes."""
        properties = b"\x30\x00" + len(table).to_bytes(4, "big") + table + b"\x02"
        message = amqp.Message(body)
        message._serialize_properties = lambda: properties
        self.channel.basic_publish(message, exchange=exchange, routing_key=key)

    def reply(self, msg_id: str) -> dict[str, Any]:
        """Wait for the message that ends the call and return it without its envelope."""

        def arrived() -> bool:
            while (message := self.channel.basic_get(self.reply_queue, no_ack=True)) is not None:
                packed_reply = message.properties.get("content_type") == MSGPACK["content_type"]
                reply = msgpack.unpackb(message.body) if packed_reply else unpacked(message.body)
                self._replies[reply["_msg_id"]] = reply
            return msg_id in self._replies

        wait_until(arrived, f"a reply to {msg_id}")
        return self._replies.pop(msg_id)

    def take(self, queue: str) -> Any:
        """Wait for the next message of a queue and return it."""
        return wait_until(lambda: self.channel.basic_get(queue, no_ack=True), f"a message in {queue}")

    def is_routed(self, key: str) -> bool:
        """Whether the exchange has a queue for this routing key. Sends a ping that expires at once and is not answered."""
        channel = self.channel.connection.channel()
        returned: list[Any] = []
        channel.events["basic_return"].add(lambda *told: returned.append(told))
        ping = amqp.Message(packed(self.request("oslo_rpc_server_ping", {})), expiration="0", **JSON)
        try:
            channel.basic_publish_confirm(ping, exchange=EXCHANGE, routing_key=key, mandatory=True, timeout=20)
        except NotFound:
            return False
        channel.close()
        return not returned

    def count(self, queue: str) -> int:
        """The number of ready messages in a queue."""
        return int(self.channel.queue_declare(queue, passive=True).message_count)


@contextmanager
def connect(transport_url: str) -> Iterator[RawConnection]:
    """Connect to the broker of an oslo.messaging transport URL."""
    with kombu.Connection(transport_url.replace("rabbit://", "amqp://", 1), connect_timeout=5) as connection:
        yield RawConnection(connection)


def packed(message: Any) -> bytes:
    """Put ``message`` into the envelope, version 2.0."""
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(message)}).encode()


def unpacked(body: bytes | str) -> dict[str, Any]:
    """Take a message out of its envelope, which must be of version 2.0 and hold nothing else."""
    outer = json.loads(body)
    assert set(outer) == {"oslo.version", "oslo.message"}
    assert outer["oslo.version"] == "2.0"
    message: dict[str, Any] = json.loads(outer["oslo.message"])
    return message


def check_parked(parked: Any, body: bytes, *, topic: str, exchange: str = EXCHANGE, **properties: Any) -> None:
    """Check a parked message: the body byte by byte, the original properties (``JSON`` and ``properties``), and its origin."""
    assert (parked.body or b"") == body  # py-amqp gives a text if there are no bytes
    headers = dict(parked.properties["application_headers"])
    headers.pop("x-delivery-count", None)  # set by the broker for a quorum queue
    assert headers.pop("x-tracker-reason")
    assert headers.pop("x-tracker-exchange") == exchange
    assert headers.pop("x-tracker-routing-key") == topic
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", headers.pop("x-tracker-time"))
    assert headers == properties.pop("headers", {})
    kept = {name: value for name, value in parked.properties.items() if name != "application_headers"}
    assert kept == {**JSON, **properties}
