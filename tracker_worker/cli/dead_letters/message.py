# SPDX-License-Identifier: Apache-2.0
"""One dead letter: what is known of a message in the dead-letter queue, and what it is when it is sent again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tracker_worker.wire.message import JSON, Malformed, decode_message
from tracker_worker.wire.request import Request, decode_request

UNKNOWN = "unknown"
_ID_LETTERS = 12
_OURS = "x-tracker-"
# What RabbitMQ adds on the way: where a message died, and how often it was delivered. CC and BCC name further queues; these
# had their copies when the message was sent first.
_BROKERS = frozenset({"x-delivery-count", "x-acquired-count", "x-death", "CC", "BCC"})
_DEATHS = ("x-first-death-", "x-last-death-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """``number`` is its place in the listing, from 1. ``id`` stays the same however often it is looked at, and is letters
    only, so that it is never taken for a number. ``code`` and ``text`` say why it is here, ``exchange`` and ``routing_key``
    where it had been sent. ``problem`` is why the worker takes it for no request, None: it is one. ``body`` is None
    when it was not kept; ``size`` is its bytes. ``tag`` is the channel's.
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
    number: int = 0

    @property
    def target(self) -> str:
        return f"{self.exchange}/{self.routing_key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cause:
    code: str
    text: str
    time: datetime | None
    exchange: str
    routing_key: str


def read_letter(
    body: bytes, headers: Mapping[str, Any], properties: Mapping[str, Any], *, tag: int, topic: str, max_bytes: int
) -> Letter:
    """``properties`` without the headers. ``topic`` and ``max_bytes`` are the worker's. Of what the sender wrote nothing is
    taken for granted."""
    cause = _cause(headers)
    message, problem = decode(body, headers, properties, max_bytes)
    message = message or {}
    args = _mapping(message.get("args"))
    instance = _mapping(args.get("instance"))
    prefix = f"{topic}."
    served = cause.routing_key.removeprefix(prefix) if cause.routing_key.startswith(prefix) else None
    return Letter(
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
    """The message as far as it can be read, and why it is no request. None for what there is not."""
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
        return decode_message(body, content_type or JSON), problem
    return None, problem


def _message(request: Request) -> dict[str, Any]:
    """As it stood in the envelope."""
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


def sendable_properties(letter: Letter) -> dict[str, Any]:
    """What the message was first sent with. Without user_id, for which RabbitMQ would refuse any sender but that user."""
    properties = {name: value for name, value in letter.properties.items() if name != "user_id"}
    headers = {name: value for name, value in letter.headers.items() if not _added(str(name))}
    return {**properties, "application_headers": headers}


def _added(header: str) -> bool:
    return header.startswith((_OURS, *_DEATHS)) or header in _BROKERS


def _cause(headers: Mapping[str, Any]) -> _Cause:
    """As the worker has written it, or else RabbitMQ, or nobody."""
    if f"{_OURS}routing-key" in headers:
        code, _, text = (_text(headers.get(f"{_OURS}reason")) or "").partition(": ")
        return _Cause(
            code=code or UNKNOWN,
            text=text,
            time=_time(headers.get(f"{_OURS}time")),
            exchange=_text(headers.get(f"{_OURS}exchange")) or "",
            routing_key=_text(headers.get(f"{_OURS}routing-key")) or "",
        )
    deaths = headers.get("x-death")
    if isinstance(deaths, list) and deaths:
        return _death(_mapping(deaths[-1]))  # the latest is the first
    return _Cause(code=UNKNOWN, text="nothing says why it is here", time=None, exchange="", routing_key="")


def _death(death: Mapping[str, Any]) -> _Cause:
    """An entry of RabbitMQ's x-death header (its documentation of dead-letter exchanges)."""
    keys = death.get("routing-keys")
    ttl = _text(death.get("original-expiration"))
    code = _text(death.get("reason")) or UNKNOWN
    text = f"dead-lettered by RabbitMQ in queue {_text(death.get('queue'))}"
    return _Cause(
        code=code,
        text=text if ttl is None else f"{text}, after {ttl} ms",
        time=_time(death.get("time")),
        exchange=_text(death.get("exchange")) or "",
        routing_key=(_text(keys[0]) if isinstance(keys, list) and keys else None) or "",
    )


def _id(body: bytes, cause: _Cause) -> str:
    """Of 48 bits. Copies of one message that were parked within one second share it."""
    moment = "" if cause.time is None else cause.time.isoformat()
    seen = hashlib.sha256(b"\0".join([moment.encode(), cause.routing_key.encode("utf-8", "replace"), body]))
    return "".join(chr(ord("a") + int(digit, 16)) for digit in seen.hexdigest()[:_ID_LETTERS])


def _time(value: Any) -> datetime | None:
    if isinstance(value, datetime):  # py-amqp's, in UTC without saying so
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
