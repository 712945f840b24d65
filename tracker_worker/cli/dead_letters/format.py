# SPDX-License-Identifier: Apache-2.0
"""How a dead letter looks on paper. Everything in it comes from outside and may be anything."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from tracker_worker.cli.dead_letters.message import Letter, decode
from tracker_worker.cli.output import plain, show_fields

_MOST_LEVELS = 100
_MOST_DUMPED = 4096
_BYTES_PER_LINE = 16


def summary(letter: Letter) -> dict[str, Any]:
    """For a program."""
    return {
        "number": letter.number,
        "id": letter.id,
        "time": None if letter.time is None else letter.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "code": letter.code,
        "reason": letter.text,
        "exchange": letter.exchange,
        "routing_key": letter.routing_key,
        "method": letter.method,
        "host": letter.host,
        "node": letter.node,
        "instance": letter.instance,
        "unique_id": letter.unique_id,
        "call": letter.call,
        "problem": letter.problem,
        "bytes": letter.size,
    }


def describe(letter: Letter, max_bytes: int) -> dict[str, Any]:
    """All of one that has its body: ``message`` is None where there is none, and the body is then ``text`` or
    ``base64``."""
    assert letter.body is not None
    message, _ = decode(letter.body, letter.headers, letter.properties, max_bytes)
    described = {
        **summary(letter),
        "properties": _json(letter.properties),
        "headers": _json(letter.headers),
        "message": None if message is None else _json(message),
    }
    if message is None:
        text = _text(letter.body)
        described["text"] = text
        described["base64"] = base64.b64encode(letter.body).decode() if text is None else None
    return described


def show_described(described: Mapping[str, Any]) -> None:
    """For eyes: as fields, and then the message, the text, or the bytes in hexadecimal."""
    show_fields(_fields(described))
    click.echo()
    if described["message"] is not None:
        click.echo(json.dumps(described["message"], indent=2))
        return
    if described["text"] is not None:
        lines = [plain(line) for line in described["text"][:_MOST_DUMPED].splitlines()]
    else:
        lines = list(_hexadecimal(base64.b64decode(described["base64"])[:_MOST_DUMPED]))
    click.echo("\n".join(lines))
    if described["bytes"] > _MOST_DUMPED:
        click.echo("... the rest is in --format json")


def _fields(described: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in described.items():
        if name in ("properties", "headers"):
            yield from ((f"{name}.{key}", inner) for key, inner in sorted(value.items()))
        elif name not in ("message", "text", "base64"):
            yield name, value


def _text(body: bytes) -> str | None:
    """What can be read as such."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return text if all(character.isprintable() or character in "\r\n\t" for character in text) else None


def _hexadecimal(body: bytes) -> Iterator[str]:
    for start in range(0, len(body), _BYTES_PER_LINE):
        line = body[start : start + _BYTES_PER_LINE]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield f"{start:08x}  {line.hex(' '):<{_BYTES_PER_LINE * 3}} {shown}"


def _json(value: Any, level: int = 0) -> Any:
    """As JSON knows it; msgpack and AMQP know more."""
    if level > _MOST_LEVELS:
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
