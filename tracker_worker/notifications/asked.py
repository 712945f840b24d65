# SPDX-License-Identifier: Apache-2.0
"""Who asked for a change, as the log, the history and the outbox show it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import msgspec

from tracker_worker.domain.instance import owner_of
from tracker_worker.errors import InvalidInput
from tracker_worker.text import printable

_MOST_ROLES = 32
_MOST_CHARACTERS = 255
# https://www.w3.org/TR/trace-context/#traceparent-header, version 00.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Asked(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """The request that causes something, each field where it is known: the RPC ``method``, the name of the ``worker`` that
    decides, and what the request's context says. ``traceparent``: the W3C trace context that its
    notification carries. ``duration_ms``: from the receipt of the request to its decision."""

    method: str = ""
    worker: str = ""
    project_id: str = ""
    user_id: str = ""
    request_id: str = ""
    roles: tuple[str, ...] = ()
    traceparent: str = ""
    duration_ms: float | None = None

    def encode(self) -> bytes:
        """A JSON object with the fields that are known."""
        return _encode(self)

    @property
    def who(self) -> dict[str, Any]:
        """Project, user, id of the request, and roles; a text that is not known is ''."""
        return {
            "project_id": self.project_id,
            "user_id": self.user_id,
            "request_id": self.request_id,
            "roles": list(self.roles),
        }


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Asked).decode
NOBODY = Asked()


def read_asked(worker: str, *, method: str = "", context: Mapping[str, Any] | None = None) -> Asked:
    """What ``context`` says. What is missing or is no text is left out, and long texts are cut and made printable: a context
    may be as large as its message."""
    asked = Asked(method=_cut(method), worker=worker)
    if context:
        with suppress(InvalidInput):  # the request is refused for it, unless its own instance says who it is for
            owner = owner_of(None, None, context)
            asked.project_id, asked.user_id = _cut_known(owner["project_id"]), _cut_known(owner["user_id"])
        asked.request_id = _cut(context.get("request_id"))
        traceparent = context.get("traceparent")
        if isinstance(traceparent, str) and _TRACEPARENT.fullmatch(traceparent):
            asked.traceparent = traceparent
        roles = context.get("roles")
        if isinstance(roles, list):
            asked.roles = tuple([_cut_known(role) for role in roles[:_MOST_ROLES] if isinstance(role, str)])
    return asked


def asked_by(worker: str, *, method: str = "", context: Mapping[str, Any] | None = None) -> bytes:
    """The same, encoded."""
    return read_asked(worker, method=method, context=context).encode()


def decode_asked(encoded: bytes) -> Asked:
    """What ``Asked.encode`` returned. What has another form says nothing."""
    try:
        return _decode(encoded)
    except msgspec.DecodeError:
        return NOBODY


def traceparent_of(encoded: bytes) -> str:
    """The trace context in what ``Asked.encode`` returned, or ''; costs little where there is none."""
    return decode_asked(encoded).traceparent if b'"traceparent"' in encoded else ""


def _cut(text: Any) -> str:
    return printable(text, _MOST_CHARACTERS) if isinstance(text, str) else ""


def _cut_known(text: Any) -> str:
    """The same of a text that many requests have in common."""
    return _remembered(text) if isinstance(text, str) and len(text) <= _MOST_CHARACTERS else _cut(text)


@lru_cache(maxsize=1024)
def _remembered(text: str) -> str:
    return printable(text, _MOST_CHARACTERS)
