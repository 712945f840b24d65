# SPDX-License-Identifier: Apache-2.0
"""Forms in which a dead-lettered message is shown. Everything in a message comes from outside and may be anything."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from tracker_worker.cli.dead_letters.message import DeadMessage, decode
from tracker_worker.cli.output import plain, show_fields, terminal_width

_MAX_LEVELS = 100
_MAX_SHOWN = 4096
_BYTES_PER_LINE = 16
# A line of so many bytes needs so many columns.
_COLUMNS_OF_16 = 76


def summary(message: DeadMessage) -> dict[str, Any]:
    """The JSON object of a message in a listing."""
    return {
        "number": message.number,
        "id": message.id,
        "time": None if message.time is None else message.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "kept_in": message.kept_in,
        "code": message.code,
        "reason": message.text,
        "exchange": message.exchange,
        "routing_key": message.routing_key,
        "method": message.method,
        "host": message.host,
        "node": message.node,
        "instance": message.instance,
        "unique_id": message.unique_id,
        "call": message.call,
        "problem": message.problem,
        "bytes": message.size,
    }


def describe(message: DeadMessage, max_bytes: int) -> dict[str, Any]:
    """The JSON object with everything about a message that has its body.

    The key ``message`` is the decoded message; it is None when the body cannot be decoded, and the body is then in ``text``
    or, when it is not text, in ``base64``. ``max_bytes`` is the largest body that the worker serves.
    """
    assert message.body is not None
    decoded, _ = decode(message.body, message.headers, message.properties, max_bytes)
    described = {
        **summary(message),
        "properties": _json(message.properties),
        "headers": _json(message.headers),
        "message": None if decoded is None else _json(decoded),
    }
    if decoded is None:
        text = _text(message.body)
        described["text"] = text
        described["base64"] = base64.b64encode(message.body).decode() if text is None else None
    return described


def show_described(described: Mapping[str, Any]) -> None:
    """Print the fields, and then the decoded message, the text, or the bytes in hexadecimal."""
    show_fields(_fields(described))
    click.echo()
    if described["message"] is not None:
        click.echo(json.dumps(described["message"], indent=2))
        return
    if described["text"] is not None:
        lines = [plain(line) for line in described["text"][:_MAX_SHOWN].splitlines()]
    else:
        lines = list(_hexadecimal(base64.b64decode(described["base64"])[:_MAX_SHOWN]))
    click.echo("\n".join(lines))
    if described["bytes"] > _MAX_SHOWN:
        click.echo("... the rest is in --format json")


def _fields(described: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in described.items():
        if name in ("properties", "headers"):
            yield from ((f"{name}.{key}", inner) for key, inner in sorted(value.items()))
        elif name not in ("message", "text", "base64"):
            yield name, value


def _text(body: bytes) -> str | None:
    """The body as text; None when it is not UTF-8 or has characters that cannot be printed."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\r\n\t" for character in text) else None


def _hexadecimal(body: bytes) -> Iterator[str]:
    width = terminal_width()
    count = _BYTES_PER_LINE if width is None or width >= _COLUMNS_OF_16 else _BYTES_PER_LINE // 2
    for start in range(0, len(body), count):
        line = body[start : start + count]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{start:08x}  {line.hex(' '):<{count * 3}} {shown}"


def _json(value: Any, level: int = 0) -> Any:
    """A value that JSON can express; msgpack and AMQP have more types, as bytes and times."""
    if level > _MAX_LEVELS:
        return "..."
    if isinstance(value, Mapping):
        return {_key(key): _json(inner, level + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json(inner, level + 1) for inner in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return _key(value)


def _key(value: Any) -> str:
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else str(value)
