# SPDX-License-Identifier: Apache-2.0
"""One message in the dead-letter queue: what its headers and its body say, and the properties to send it again with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tracker_worker.wire.message import JSON, Malformed, decode_message
from tracker_worker.wire.request import MAX_VALUES, Request, decode_request

UNKNOWN = "unknown"
QUEUE = "queue"
"""Kept in the dead-letter queue."""
DATABASE = "database"
"""Kept in the database, because the broker did not take the message."""
_ID_CHARACTERS = 12
_WORKER_PREFIX = "x-tracker-"
# Headers that are not sent again. RabbitMQ adds where a message was dead-lettered and how often it was delivered. CC and BCC
# name further queues, which had their copies when the message was first sent.
_BROKER_HEADERS = frozenset({"x-delivery-count", "x-acquired-count", "x-death", "CC", "BCC"})
_BROKER_PREFIXES = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadMessage:
    """One message in the dead-letter queue.

    ``number`` is the place in the listing, from 1; 0 before the messages are ordered. ``id`` is the same in every listing,
    and has no digits, so that it is never taken for a number. ``code`` and ``text`` say why the message is in the
    dead-letter queue, ``exchange`` and ``routing_key`` where it was first sent. ``problem`` is why the worker cannot decode
    the message as a request; None when it can. ``body`` is None when it was not kept; ``size`` is the body's length in
    bytes. ``kept_in`` is QUEUE or DATABASE; ``tag`` is the delivery tag on the channel that took the message, or its id in the
    database.
    """

    tag: int
    id: str
    time: datetime | None
    code: str
    text: str
    exchange: str
    routing_key: str
    method: str | None
    host: str | None
    node: str | None
    instance: str | None
    unique_id: str | None
    call: bool
    problem: str | None
    size: int
    headers: Mapping[str, Any]
    properties: Mapping[str, Any]
    body: bytes | None
    kept_in: str = QUEUE
    number: int = 0

    @property
    def target(self) -> str:
        """The exchange and the routing key that the message was first sent to."""
        return f"{self.exchange}/{self.routing_key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    """Why a message is in the dead-letter queue, since when, and where it was first sent."""

    code: str
    text: str
    time: datetime | None
    exchange: str
    routing_key: str


def read_message(
    body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any], *, tag: int, topic: str, max_bytes: int
) -> DeadMessage:
    """Read a message of any content: a sender may have written anything.

    ``properties`` are without the headers. ``topic`` is the worker's; ``max_bytes`` is the largest body that it serves.
    """
    cause = _cause(headers)
    message, problem = decode(body, headers, properties, max_bytes)
    message = message or {}
    args = _mapping(message.get("args"))
    instance = _mapping(args.get("instance"))
    prefix = f"{topic}."
    served = cause.routing_key.removeprefix(prefix) if cause.routing_key.startswith(prefix) else None
    return DeadMessage(
        tag=tag,
        id=_id(body, cause),
        time=cause.time,
        code=cause.code,
        text=cause.text,
        exchange=cause.exchange,
        routing_key=cause.routing_key,
        method=_text(message.get("method")),
        host=_text(args.get("host")) or served,
        node=_text(args.get("node")) or _text(instance.get("node")),
        instance=_text(instance.get("uuid")) or _text(args.get("claim_id")),
        unique_id=_text(message.get("_unique_id")),
        call=message.get("_msg_id") is not None,
        problem=problem,
        size=len(body),
        headers=headers,
        properties=properties,
        body=body,
    )


def decode(
    body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any], max_bytes: int
) -> tuple[dict[str, Any] | None, str | None]:
    """Return the decoded message, None when it cannot be decoded; and why it is not a request, None when it is."""
    content_type = _text(properties.get("content_type"))
    compression = _text(headers.get("compression"))
    request, problem = None, None
    try:
        request = decode_request(body, content_type=content_type, compression=compression, max_bytes=max_bytes)
    except Malformed as error:
        problem = str(error)
    if compression:
        return (None if request is None else _message(request)), problem
    with suppress(Malformed):
        # Without a limit, a large message of small values would take gigabytes.
        return decode_message(body, content_type or JSON, most_values=MAX_VALUES), problem
    return None, problem


def _message(request: Request) -> dict[str, Any]:
    """The keys and values of the request's envelope."""
    message: dict[str, Any] = {
        "method": request.method,
        "args": request.args,
        "version": request.version,
        "namespace": request.namespace,
        "_unique_id": request.unique_id,
        **{f"_context_{name}": value for name, value in request.context.items()},
    }
    if request.reply_to is not None:
        message |= {"_msg_id": request.reply_to.msg_id, "_reply_q": request.reply_to.queue}
    return message


def sendable_properties(message: DeadMessage) -> dict[str, Any]:
    """The properties and headers that the message was first sent with.

    user_id is left out: RabbitMQ refuses a message whose user_id is not the publishing user.
    """
    properties = {name: value for name, value in message.properties.items() if name != "user_id"}
    headers = {name: value for name, value in message.headers.items() if not _added(str(name))}
    return {**properties, "application_headers": headers}


def _added(header: str) -> bool:
    return header.startswith((_WORKER_PREFIX, *_BROKER_PREFIXES)) or header in _BROKER_HEADERS


def _cause(headers: Mapping[str, Any]) -> _Cause:
    """From the worker's headers, or else from RabbitMQ's x-death header; UNKNOWN without both."""
    if f"{_WORKER_PREFIX}routing-key" in headers:
        code, _, text = (_text(headers.get(f"{_WORKER_PREFIX}reason")) or "").partition(": ")
        return _Cause(
            code=code or UNKNOWN,
            text=text,
            time=_time(headers.get(f"{_WORKER_PREFIX}time")),
            exchange=_text(headers.get(f"{_WORKER_PREFIX}exchange")) or "",
            routing_key=_text(headers.get(f"{_WORKER_PREFIX}routing-key")) or "",
        )
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths:
        return _death(_mapping(deaths[-1]))  # the latest death is the first; the earliest one names the origin
    return _Cause(code=UNKNOWN, text="the headers do not say why it is here", time=None, exchange="", routing_key="")


def _death(death: Mapping[str, Any]) -> _Cause:
    """Read an entry of RabbitMQ's x-death header (described in RabbitMQ's documentation of dead-letter exchanges)."""
    routing_keys = death.get("routing-keys")
    expiration = _text(death.get("original-expiration"))
    code = _text(death.get("reason")) or UNKNOWN
    text = f"dead-lettered by RabbitMQ in queue {_text(death.get('queue'))}"
    return _Cause(
        code=code,
        text=text if expiration is None else f"{text}, after {expiration} ms",
        time=_time(death.get("time")),
        exchange=_text(death.get("exchange")) or "",
        routing_key=(_text(routing_keys[0]) if isinstance(routing_keys, list) and routing_keys else None) or "",
    )


def _id(body: bytes, cause: _Cause) -> str:
    """An id of 48 bits, from time, routing key and body. Copies of one message that were parked within one second share it."""
    parked = "" if cause.time is None else cause.time.isoformat()
    digest = hashlib.sha256(b"\0".join([parked.encode(), cause.routing_key.encode("utf-8", "replace"), body]))
    return "".join(chr(ord("a") + int(digit, 16)) for digit in digest.hexdigest()[:_ID_CHARACTERS])


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):  # from py-amqp: in UTC, without a time zone
        return value.replace(tzinfo=UTC)
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _text(value: Any) -> str | None:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return value if isinstance(value, str) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
