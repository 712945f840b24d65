# SPDX-License-Identifier: Apache-2.0
"""Results and errors <-> replies.

An answer is a reply without the ids of one message: the inbox keeps an answer, and each copy of the request gets a reply that
is made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tracker_worker.domain.views import Entries
from tracker_worker.errors import AnswerTooLarge, ComputeResourcesUnavailable, InvalidInput, TrackerError
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion
from tracker_worker.text import printable
from tracker_worker.wire.measured import Fitting, Overflow, encode_within
from tracker_worker.wire.message import (
    JSON,
    MSGPACK,
    Malformed,
    ReplyTo,
    fresh_id,
    in_envelope,
    sendable,
    to_json,
    to_msgpack,
)

MAX_ANSWER_BYTES = 4_194_304
"""The most bytes of a reply, unless an option says otherwise."""

_ERRORS_MODULE = "tracker_worker.errors"
_MAY_BE_LARGE = (list, Iterator, Entries, Fitting)
# The envelope, and the ids: 255 characters of _msg_id, each of which may be escaped twice.
_MOST_ENVELOPE_BYTES = 1400
_NULL = {False: b"null", True: b"\xc0"}
_SMALLER_NODE = "ask for one node at a time (node)"
_SMALLER_PAGE = "ask for fewer at a time (limit) and then for those behind them (after), or for one node (node)"
_SMALLER = {
    "list_allocations": _SMALLER_PAGE,
    "list_claims": _SMALLER_PAGE,
    "report_instances": "compare with list_allocations, which answers fewer at a time (limit, after)",
    "get_usage": "ask for one project at a time (project_id), or for one host; no answer is per node",
    "list_nodes": "ask for one node at a time (get_node with node)",
    "get_instances": "ask for fewer at a time (limit) and then for those behind them (after)",
    "get_notifications": "ask for fewer at a time (limit)",
}
_TOO_LARGE_ALONE = (
    "the first notification has that many bytes alone: raise [bus] max_answer_bytes of the worker, or publish it again with "
    "tracker-worker outbox replay"
)


def answer(
    reply_to: ReplyTo | None,
    value: Any = None,
    error: Exception | None = None,
    *,
    limit: int = MAX_ANSWER_BYTES,
    method: str = "",
) -> bytes:
    """The answer to a call of ``method``. For a cast it is empty, unless ``error`` parks the cast: then it holds the error.

    The reply that is made from the answer has at most ``limit`` bytes; the answer to a call with a larger value is the error
    AnswerTooLarge. The value is encoded only so far; it may be an iterator, which stands for a list, Entries, or Fitting, of
    which so much is answered as there is room for.
    """
    if reply_to is None and not parks(error):
        return b""
    content_type = JSON if reply_to is None else reply_to.content_type
    if reply_to is None or error is not None:
        # An error is small: its texts are cut.
        return encode_answer(content_type, failed=None if error is None else failure_of(error))
    if not isinstance(value, _MAY_BE_LARGE):
        encoded = encode_answer(content_type, result=value)
        if len(encoded) * 2 + _MOST_ENVELOPE_BYTES <= limit:  # the envelope escapes a character with one more at most
            return encoded
    packed = content_type == MSGPACK
    empty = encode_answer(content_type)
    room = limit - len(_with_ids(empty, reply_to, ending=True)) + len(_NULL[packed])
    try:
        return empty.replace(_NULL[packed], encode_within(value, room, packed=packed), 1)
    except Overflow as overflow:
        how = _TOO_LARGE_ALONE if isinstance(value, Fitting) else smaller(method)
        too_large = AnswerTooLarge(method=method, bytes=overflow.size + limit - room, limit=limit, how=how)
        return encode_answer(content_type, failed=failure_of(too_large))


def smaller(method: str) -> str:
    """What to ask for instead when the answer to ``method`` is too large."""
    return _SMALLER.get(method, _SMALLER_NODE)


def parks(error: Exception | None) -> bool:
    """Whether a cast that ends with ``error`` goes to the dead-letter queue. A refusal for resources has a notification
    instead."""
    return error is not None and not isinstance(error, ComputeResourcesUnavailable)


def parking_reason(error: Exception) -> str:
    """The reason that a dead letter carries: the error's code and its text, printable and at most 1000 characters."""
    code = "invalid_input" if isinstance(error, Malformed) else getattr(error, "code", None) or type(error).__name__
    return printable(f"{code}: {error}")


def failure_of(error: Exception) -> dict[str, Any]:
    """The failure that a reply carries for ``error``, and the reason for which a cast would be parked."""
    match error:
        case TrackerError():
            failed = failure(error, module=_ERRORS_MODULE)
        case Malformed():
            failed = failure(InvalidInput(field="body", reason=str(error)), module=_ERRORS_MODULE)
        case NoSuchMethod():
            failed = failure(error, args=(error.method,))
        case UnsupportedVersion():
            failed = failure(error, args=(error.version, error.method))
        case _:
            # The error's own text may hold anything; it is in the log only.
            text = "the worker failed unexpectedly on this request; its log says why"
            failed = failure(RuntimeError(text), args=(text,))
    failed["reason"] = parking_reason(error)
    return failed


def failure(error: BaseException, *, module: str | None = None, args: tuple[Any, ...] = ()) -> dict[str, Any]:
    """``error`` as the client rebuilds it: ``class(*args, **kwargs)`` of ``module`` (default: the error's own module)."""
    kind = type(error)
    return {
        "class": kind.__name__,
        "module": module or kind.__module__,
        "message": printable(str(error)),
        "tb": [],
        "args": [_sendable_value(value) for value in args],
        "kwargs": {name: _sendable_value(value) for name, value in getattr(error, "kwargs", {}).items()},
    }


def _sendable_value(value: Any) -> Any:
    """A fact as JSON can hold it. Facts are made of JSON types; whatever else there is becomes its name."""
    if isinstance(value, str):
        return sendable(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple):
        return [_sendable_value(item) for item in value]
    if isinstance(value, dict):
        return {sendable(str(name)): _sendable_value(item) for name, item in value.items()}
    return type(value).__name__


def encode_answer(content_type: str, *, result: Any = None, failed: dict[str, Any] | None = None) -> bytes:
    """The answer as bytes of ``content_type``; ``failed`` as ``failure`` returns it."""
    return _encoded(content_type, {"result": result, "failure": None if failed is None else to_json(failed).decode()})


def _encoded(content_type: str, fields: dict[str, Any]) -> bytes:
    return to_msgpack(fields) if content_type == MSGPACK else to_json(fields)


def recorded_reason(recorded: bytes) -> str:
    """The parking reason in an answer that the inbox kept; '' where the answer is no failure."""
    failed = _decode_answer(recorded)["failure"]
    return "" if failed is None else str(msgspec.json.decode(failed).get("reason", ""))


def encode_reply(recorded: bytes, reply_to: ReplyTo) -> bytes:
    """The body of a reply with the answer ``recorded``, with a fresh ``_unique_id`` for each call of this function.

    A copy of a request may want the other content type than the first one, and a recorded answer is empty where the first one
    was a cast. A client that reuses a ``_unique_id`` in such a way gets an answer that it can read, and null for an empty one.
    """
    packed = recorded[:1] != b"{"
    if not recorded or packed is not (reply_to.content_type == MSGPACK):
        recorded = _encoded(reply_to.content_type, _decode_answer(recorded))
    return _with_ids(recorded, reply_to, ending=True)


def _decode_answer(recorded: bytes) -> dict[str, Any]:
    if not recorded:
        return {"result": None, "failure": None}
    decoded: dict[str, Any] = (msgspec.json if recorded.startswith(b"{") else msgspec.msgpack).decode(recorded)
    return decoded


def encode_heartbeat(reply_to: ReplyTo) -> bytes:
    """The body of a heartbeat, which says to a monitoring caller that its call is still being processed."""
    return _with_ids(encode_answer(reply_to.content_type), reply_to, ending=False)


def _with_ids(recorded: bytes, reply_to: ReplyTo, *, ending: bool) -> bytes:
    ids = {"ending": ending, "_msg_id": reply_to.msg_id, "_unique_id": fresh_id()}
    if reply_to.content_type == MSGPACK:
        # Both are maps of fewer than 16 entries: one header byte, 0x80 + entries, then the entries (msgpack spec, fixmap).
        return bytes([recorded[0] + len(ids)]) + recorded[1:] + to_msgpack(ids)[1:]
    return in_envelope(recorded[:-1] + b"," + to_json(ids)[1:])
