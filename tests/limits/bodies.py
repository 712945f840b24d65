# SPDX-License-Identifier: Apache-2.0
"""Requests of 28 MiB that are small as text and large as Python objects, made without building those objects."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import msgpack

from tests.support.raw import MSGPACK, RawConnection

BYTES = 28 << 20

_MARK = "MARK"
_GZIP = {"headers": {"compression": "application/x-gzip"}}  # the name that kombu gives to zlib

Body = tuple[bytes, Mapping[str, Any]]
"""The bytes, and the properties that say how to read them."""


def packed_as_msgpack(connection: RawConnection, instance: Mapping[str, Any]) -> bytes:
    """A cast that begins a claim for ``instance``."""
    return bytes(msgpack.packb(connection.request("begin_resource_claim", {"instance": instance})))


def _lists(request: Mapping[str, Any]) -> Body:
    """JSON: millions of empty lists."""
    return _json(request, "[" + ",".join(["[]"] * (BYTES // 3)) + "]"), {}


def _text(request: Mapping[str, Any]) -> Body:
    """JSON: one string of escapes, which is longer in memory than on the wire."""
    return _json(request, '"' + "\U0001f600" * (BYTES // 4) + '"'), {}


def _maps(request: Mapping[str, Any]) -> Body:
    """MessagePack: tens of millions of empty maps of one byte each."""
    maps = b"\xdd" + BYTES.to_bytes(4, "big") + b"\x80" * BYTES
    return msgpack.packb(_marked(request)).replace(msgpack.packb(_MARK), maps), MSGPACK


def _compressed(request: Mapping[str, Any]) -> Body:
    """Lists that are a few kilobytes on the wire. The address of the sender is behind them, as with stock clients."""
    body, _ = _lists(request)
    return zlib.compress(body), _GZIP


def _json(request: Mapping[str, Any], value: str) -> bytes:
    inner = json.dumps(_marked(request)).replace(json.dumps(_MARK), value)
    return json.dumps({"oslo.version": "2.0", "oslo.message": inner}, ensure_ascii=False).encode()


def _marked(request: Mapping[str, Any]) -> dict[str, Any]:
    return {**request, "args": {"instance": {"metadata": _MARK}}}


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Body]] = {
    "json-lists": _lists,
    "json-text": _text,
    "msgpack-maps": _maps,
    "compressed-lists": _compressed,
}
UNANSWERABLE = {"compressed-lists"}
"""The kinds whose calls are parked like casts, because so much is not decompressed."""
