# SPDX-License-Identifier: Apache-2.0
"""A notification as it was decoded -> what the books keep of it, as JSON values.

Every record has ``id`` (the message_id), ``at`` (seconds), ``generation`` and ``kind``:

- ``charge``: ``uuid``, ``charge`` (project, resources, state, claim_state; null: nothing) and ``effective`` (seconds, or null);
- ``node``: ``state`` (null: no node has the name), and where the message has such keys ``to`` or ``from`` (host and node) and
  ``history`` (the ledger_id before, and its last number that counts);
- ``exists``: ``uuid``, ``project``, ``period``, ``seconds``, ``sums``, ``segments`` ([from, to, resources, state, claim_state])
  and ``adjustments`` ([[from, to], seconds, sums]);
- ``closed``: ``period``, ``exists`` (how many), ``seconds``, ``sums``;
- ``other``: what says nothing of a charge, also event types that are not known yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from tracker_worker.billing import times
from tracker_worker.billing.timeline import Place

Record = dict[str, Any]

_NO_CHARGE = ("tracker.claim.rejected", "tracker.claim.untracked", "tracker.move.rejected")
_MOST_CHARACTERS = 1000
_MOST = 2**63
"""Integers of messages are below it."""


class Unreadable(ValueError):
    """A message is no notification of a tracker-worker. The text names the field."""


class Heard(NamedTuple):
    """A message that can be read: whose number it has, and what is kept of it."""

    ledger: str
    place: Place
    sequence: int
    record: Record


def read(message: Any) -> Heard:
    """Read a decoded message: ``message_id``, ``event_type`` and ``payload`` count. Raises Unreadable."""
    event_type = _text(message, "event_type")
    if not event_type.startswith("tracker."):
        raise Unreadable(f"event_type {event_type!r} is not one of a tracker-worker")
    payload = _mapping(message, "payload")
    record: Record = {
        "id": _text(message, "message_id"),
        "at": _time(payload, "occurred_at"),
        "generation": _integer(payload, "generation"),
        "kind": "other",
    }
    record.update(_content(event_type, payload))
    ledger, sequence = _text(payload, "ledger_id"), _integer(payload, "sequence")
    if sequence < 1:
        raise Unreadable("sequence is below 1")
    if "history" in record and (record["history"][0] == ledger or record["history"][1] >= sequence):
        raise Unreadable("previous_ledger_id and previous_sequence are no earlier history")
    return Heard(ledger, (_text(payload, "host"), _text(payload, "node")), sequence, record)


def read_instance(entry: Any) -> tuple[str, int, list[Any]]:
    """An entry of an answer of get_instances: uuid, since when it is charged as it is (seconds), and the charge. Raises
    Unreadable."""
    return _text(entry, "instance_id"), _time(entry, "since"), _charge(entry)


def _content(event_type: str, payload: Mapping[str, Any]) -> Record:
    match event_type:
        case "tracker.node.updated":
            return _node(payload)
        case "tracker.usage.exists":
            return _exists(payload)
        case "tracker.period.closed":
            return {
                "kind": "closed",
                "period": _period(payload),
                "exists": _integer(payload, "exists"),
                "seconds": _integer(payload, "seconds", signed=True),
                "sums": _amounts(payload, "resource_seconds", signed=True),
            }
        case _:
            return _of_instance(event_type, payload)


def _of_instance(event_type: str, payload: Mapping[str, Any]) -> Record:
    if "instance_id" not in payload or event_type in _NO_CHARGE:
        return {}
    effective = payload.get("effective_at") or None
    if event_type.startswith("tracker.move.") and effective is None:
        return {}  # what is incoming or on hold is no sale
    return {
        "kind": "charge",
        "uuid": _text(payload, "instance_id"),
        "charge": _charge(payload) if _text(payload, "role", empty=True) == "instance" else None,
        "effective": None if effective is None else _time(payload, "effective_at"),
    }


def _charge(payload: Any) -> list[Any]:
    return [
        _text(payload, "tenant_id", empty=True),
        _amounts(payload, "charged"),
        _text(payload, "state", empty=True),
        _text(payload, "claim_state", empty=True),
    ]


def _node(payload: Mapping[str, Any]) -> Record:
    record: Record = {"kind": "node", "state": _text(payload, "state") if _integer(payload, "id") else None}
    if "next_host" in payload:
        record["to"] = [_text(payload, "next_host"), _text(payload, "next_node")]
    if "previous_host" in payload:
        record["from"] = [_text(payload, "previous_host"), _text(payload, "previous_node")]
    if "previous_ledger_id" in payload:
        record["history"] = [_text(payload, "previous_ledger_id"), _integer(payload, "previous_sequence")]
    return record


def _exists(payload: Mapping[str, Any]) -> Record:
    seconds = _integer(payload, "seconds", signed=True)
    sums = _amounts(payload, "resource_seconds", signed=True)
    segments = [_segment(each) for each in _list(payload, "segments")]
    adjustments = [_adjustment(each) for each in _list(payload, "adjustments")]
    added: Counter[str] = Counter()
    whole = 0
    for begin, end, resources, _, _ in segments:
        whole += end - begin
        added.update({name: amount * (end - begin) for name, amount in resources.items()})
    for _, more, amounts in adjustments:
        whole += more
        added.update(amounts)
    if whole != seconds or any(added[name] != sums.get(name, 0) for name in {*added, *sums}):
        raise Unreadable("resource_seconds is not the sum over the segments and the adjustments")
    return {
        "kind": "exists",
        "uuid": _text(payload, "instance_id"),
        "project": _text(payload, "tenant_id", empty=True),
        "period": _period(payload),
        "seconds": seconds,
        "sums": sums,
        "segments": segments,
        "adjustments": adjustments,
    }


def _segment(given: Any) -> list[Any]:
    begin, end = _time(given, "from"), _time(given, "to")
    if begin >= end:
        raise Unreadable("a segment ends before it begins")
    states = [_text(given, name, empty=True) for name in ("state", "claim_state")]
    return [begin, end, _amounts(given, "resources"), *states]


def _adjustment(given: Any) -> list[Any]:
    amounts = _amounts(given, "resource_seconds", signed=True)
    return [_period(given), _integer(given, "seconds", signed=True), amounts]


def _period(payload: Any) -> list[int]:
    begin, end = _time(payload, "audit_period_beginning"), _time(payload, "audit_period_ending")
    if begin >= end:
        raise Unreadable("audit_period_ending is not after audit_period_beginning")
    return [begin, end]


def _given(values: Any, name: str) -> Any:
    if not isinstance(values, Mapping):
        raise Unreadable(f"what should have {name} is no object")
    if name not in values:
        raise Unreadable(f"{name} is missing")
    return values[name]


def _mapping(values: Any, name: str) -> Mapping[str, Any]:
    value = _given(values, name)
    if not isinstance(value, Mapping):
        raise Unreadable(f"{name} is no object")
    return value


def _list(values: Any, name: str) -> list[Any]:
    value = _given(values, name)
    if not isinstance(value, list):
        raise Unreadable(f"{name} is no list")
    return value


def _text(values: Any, name: str, *, empty: bool = False) -> str:
    value = _given(values, name)
    if not isinstance(value, str):
        raise Unreadable(f"{name} is no text")
    if not (value or empty) or len(value) > _MOST_CHARACTERS:
        raise Unreadable(f"{name} has {len(value)} characters")
    return value


def _integer(values: Any, name: str, *, signed: bool = False) -> int:
    return _checked(_given(values, name), name, signed)


def _checked(value: Any, name: str, signed: bool) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unreadable(f"{name} is no integer")
    if not (-_MOST if signed else 0) <= value < _MOST:
        raise Unreadable(f"{name} is out of range")
    return value


def _amounts(values: Any, name: str, *, signed: bool = False) -> dict[str, int]:
    amounts: dict[str, int] = {}
    for key, amount in _mapping(values, name).items():
        if not isinstance(key, str) or len(key) > _MOST_CHARACTERS:
            raise Unreadable(f"{name} has a key that is no name")
        amounts[key] = _checked(amount, name, signed)
    return amounts


def _time(values: Any, name: str) -> int:
    try:
        return times.seconds(_text(values, name))
    except ValueError as error:
        raise Unreadable(f"{name}: {error}") from error
