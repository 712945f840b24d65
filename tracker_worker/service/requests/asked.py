# SPDX-License-Identifier: Apache-2.0
"""Who asked for a change, as the outbox keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec

from tracker_worker.domain.instance import owner_of
from tracker_worker.errors import InvalidInput
from tracker_worker.text import printable

_encode = msgspec.json.Encoder().encode
_MOST_ROLES = 32
_MOST_CHARACTERS = 255


def asked_by(worker: str, *, method: str = "", context: Mapping[str, Any] | None = None) -> bytes:
    """A JSON object: the worker that decides, and what the request says: ``method``, ``request_id``, ``project_id``,
    ``user_id``, ``roles``. What is missing or is no text is left out, and long texts are cut: a context may be as large as its
    message."""
    said: dict[str, Any] = {"method": method, "worker": worker}
    if context:
        with suppress(InvalidInput):  # the request is refused for it, unless its own instance says who it is for
            said.update(owner_of(None, None, context))
        said["request_id"] = context.get("request_id")
        roles = context.get("roles")
        if isinstance(roles, list):
            said["roles"] = [_cut(role) for role in roles[:_MOST_ROLES] if isinstance(role, str)]
    kept = {name: _cut(value) if isinstance(value, str) else value for name, value in said.items() if value}
    return _encode({name: value for name, value in kept.items() if isinstance(value, str | list)})


def _cut(text: str) -> str:
    return printable(text, _MOST_CHARACTERS)
