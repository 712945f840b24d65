# SPDX-License-Identifier: Apache-2.0
"""What a path of the health listener answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Response:
    """``headers`` are further ones; the listener adds those that every answer has."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


Route = Callable[[], Response]
"""Makes the answer of a path, on a thread of the listener. It must not wait for broker or database."""


def as_json(status: int, document: Mapping[str, Any]) -> Response:
    """``document`` as JSON on one line."""
    return Response(status, "application/json", json.dumps(document, ensure_ascii=False).encode() + b"\n")


def as_text(status: int, text: str) -> Response:
    """One line of plain text."""
    return Response(status, "text/plain; charset=utf-8", text.encode() + b"\n")
