# SPDX-License-Identifier: Apache-2.0
"""The properties and headers of a dead letter: those of the sender, as they came, and the worker's own."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from tracker_worker.bus.amqp import tables
from tracker_worker.bus.amqp.internals import encode_properties
from tracker_worker.bus.base import DeadLetter

LOG = logging.getLogger(__name__)

_PERSISTENT = 2
# Properties that would make the broker expire a dead letter, or refuse it as another user's (validated user-id).
_PROPERTIES_NOT_KEPT = {"expiration", "user_id"}
# Headers that would make the broker, or one of its plugins, act on a dead letter: send copies of it to the queue that it came
# from (sender-selected distribution), delay it, or drop it as a duplicate.
_HEADERS_NOT_KEPT = {b"CC", b"BCC", b"x-delay", b"x-deduplication-header", b"x-cache-ttl"}
_OWN_PREFIX = b"x-tracker-"
_LEFT_OUT = "x-tracker-headers-left-out"
# Where frames are so small that not even our own headers fit.
_MOST_REASON_CHARACTERS = 200


class Encoded(NamedTuple):
    """``properties`` without headers; ``headers`` as an encoded table without its length."""

    properties: bytes
    headers: bytes

    def together(self) -> bytes:
        return tables.in_properties(self.properties, self.headers)


def encode(item: DeadLetter, parked_at: float) -> Encoded:
    """What a dead letter has beside its body. ``parked_at`` is the time of day, in seconds since 1970-01-01T00:00:00Z. Never
    raises: what cannot be encoded is left out."""
    delivery = item.delivery
    try:
        kept = tables.without(delivery.header_table, _is_not_kept)
    except tables.UnreadableTable as error:
        LOG.warning("the headers of a dead letter are left out: %s", error)
        return Encoded(
            _properties(delivery.properties), _own_headers(item, parked_at, left_out=len(delivery.header_table))
        )
    return Encoded(_properties(delivery.properties), kept + _own_headers(item, parked_at))


def fitted(item: DeadLetter, parked_at: float, most_bytes: int) -> bytes:
    """The same in at most ``most_bytes``, properties and headers together: without the sender's headers, and where that is not
    enough, without the sender's other properties and the end of the reason."""
    properties, left_out = _properties(item.delivery.properties), len(item.delivery.header_table)
    found = tables.in_properties(properties, _own_headers(item, parked_at, left_out=left_out))
    if len(found) > most_bytes:
        found = tables.in_properties(_properties({}), _own_headers(item, parked_at, left_out=left_out, short=True))
    return found


def _is_not_kept(name: bytes) -> bool:
    return name in _HEADERS_NOT_KEPT or name.startswith(_OWN_PREFIX)


def _own_headers(item: DeadLetter, parked_at: float, *, left_out: int = 0, short: bool = False) -> bytes:
    headers = {
        "x-tracker-reason": item.reason[:_MOST_REASON_CHARACTERS] if short else item.reason,
        "x-tracker-exchange": item.delivery.exchange,
        "x-tracker-routing-key": item.delivery.routing_key,
        "x-tracker-time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(parked_at)),
    }
    if left_out:
        headers[_LEFT_OUT] = f"{left_out} bytes"
    return tables.encode_texts(headers)


def _properties(sent: Mapping[str, Any]) -> bytes:
    kept = {name: value for name, value in sent.items() if name not in _PROPERTIES_NOT_KEPT}
    try:
        return encode_properties({**kept, "delivery_mode": _PERSISTENT})
    except Exception:  # of one message: a value that was read and cannot be written
        LOG.warning("the properties of a dead letter are left out", exc_info=True)
        return encode_properties({"delivery_mode": _PERSISTENT})
