# SPDX-License-Identifier: Apache-2.0
"""The golden files: raw messages and declarations of stock programs, as recorded by ``tests.wire.record``.

``golden/`` has one JSON file per shape. A file holds a message's body as text if it is UTF-8, else as base64. ``load``
returns the bytes of the wire, still compressed if the client compressed them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOLDEN_DIR = Path(__file__).with_name("golden")
_DECLARES = "declares_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """One message as a broker delivered it.

    ``properties`` holds every AMQP property except content type, content encoding and headers, which have their own fields.
    ``mandatory`` is the flag of the publish, which a consumer cannot see. ``shows`` states the purpose of the recording.
    """

    name: str
    shows: str
    exchange: str
    routing_key: str
    mandatory: bool
    content_type: str
    content_encoding: str
    properties: Mapping[str, Any]
    headers: Mapping[str, Any]
    body: bytes


def names() -> list[str]:
    """The names of all recorded messages, sorted."""
    return sorted(path.stem for path in GOLDEN_DIR.glob("*.json") if not path.stem.startswith(_DECLARES))


def declare_names() -> list[str]:
    """The names of all recorded sets of declarations, sorted: 'default', 'durable', ..."""
    return sorted(path.stem.removeprefix(_DECLARES) for path in GOLDEN_DIR.glob(f"{_DECLARES}*.json"))


def load(name: str) -> Golden:
    """The recorded message ``name``. Raises: FileNotFoundError for a name that was never recorded."""
    fields = _read(name)
    del fields["made_with"]
    encoded = fields.pop("body_base64", None)
    body = fields.pop("body").encode() if encoded is None else base64.b64decode(encoded)
    return Golden(name=name, body=body, **fields)


def load_declares(name: str) -> dict[str, Any]:
    """The declarations of each stock program: ``{"options": {...}, "programs": {program: [declaration, ...]}}``.

    A declaration is a dict with ``op`` (exchange_declare, queue_declare, queue_bind) and its arguments.
    Raises: FileNotFoundError for a name that was never recorded.
    """
    fields = _read(_DECLARES + name)
    del fields["made_with"]
    return fields


def save(golden: Golden, made_with: Mapping[str, str]) -> None:
    """Write ``golden`` over the earlier recording of its name."""
    try:
        body = {"body": golden.body.decode()}
    except UnicodeDecodeError:
        body = {"body_base64": base64.b64encode(golden.body).decode()}
    fields = {
        "shows": golden.shows,
        "made_with": dict(made_with),
        "exchange": golden.exchange,
        "routing_key": golden.routing_key,
        "mandatory": golden.mandatory,
        "content_type": golden.content_type,
        "content_encoding": golden.content_encoding,
        "properties": dict(golden.properties),
        "headers": dict(golden.headers),
    }
    _write(golden.name, fields | body)


def save_declares(
    name: str, options: Mapping[str, Any], programs: Mapping[str, list[dict[str, Any]]], made_with: Mapping[str, str]
) -> None:
    """Write the declarations over the earlier recording of ``name``."""
    _write(_DECLARES + name, {"made_with": dict(made_with), "options": dict(options), "programs": dict(programs)})


def _read(stem: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((GOLDEN_DIR / f"{stem}.json").read_text("utf-8"))
    return fields


def _write(stem: str, fields: Mapping[str, Any]) -> None:
    GOLDEN_DIR.mkdir(exist_ok=True)
    text = json.dumps(fields, indent=2, ensure_ascii=False)
    (GOLDEN_DIR / f"{stem}.json").write_text(text + "\n", "utf-8")
