# SPDX-License-Identifier: Apache-2.0
"""Ledger objects <-> rows (mappings by column name). Only this module knows how a value is packed into a column. Any thread may
call its functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any

import msgpack
import msgspec

from tracker_worker.domain.allocation import INSTANCE, Allocation
from tracker_worker.domain.classes import ClassInventory
from tracker_worker.domain.instance import Instance
from tracker_worker.domain.inventory import Inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import Life
from tracker_worker.domain.move import Move
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import CLASSES, STANDARD, Resources, shared
from tracker_worker.domain.segments import Segment
from tracker_worker.notifications.notification import Notification
from tracker_worker.store.base import InboxRow

periods_from: Callable[[bytes], Periods] = msgspec.json.Decoder(Periods).decode
"""How far the periods of a node are closed, as its column ``periods`` has it."""
_pack = msgspec.msgpack.Encoder().encode
_to_json = msgspec.json.Encoder().encode
life_from: Callable[[bytes], Life] = msgspec.msgpack.Decoder(Life).decode
"""What is known of a node, as its column ``life`` has it."""


class _Inventory(msgspec.Struct, frozen=True):
    """An inventory as its column has it. Keys that this release does not know, of a newer release, are ignored."""

    classes: dict[str, ClassInventory]
    facts: dict[str, Any]


class _Shown(msgspec.Struct, frozen=True):
    """A custom class as the column for readers with SQL has it."""

    total: int
    used: int


_inventory_from: Callable[[bytes], _Inventory] = msgspec.msgpack.Decoder(_Inventory).decode
_shown_from: Callable[[str], dict[str, _Shown]] = msgspec.json.Decoder(dict[str, _Shown]).decode

# The fields of an instance that have a column of their own. The other fields are packed into ``facts``, except a field that has
# its default, which is the value in _FACTS.
_COLUMNS = ("project_id", "user_id", "vm_state", "task_state")
_FACTS = {
    field.name: field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    for field in msgspec.structs.fields(Instance)
    if field.name not in (*_COLUMNS, "uuid")
}


_facts: Callable[[Instance], tuple[Any, ...]] = attrgetter(*_FACTS)
_MOST_SHARED_BYTES = 1024
# Of the fields of an instance that are texts, those that no other instance has.
_OF_ITS_OWN = ("uuid", "display_name", "launched_at")
_MOVE_COLUMNS = ("id", "instance_uuid", "kind", "state", "open", "from_host")
# The other fields of a move, with their defaults.
_MOVE = {field.name: field.default for field in msgspec.structs.fields(Move) if field.name not in _MOVE_COLUMNS}


def allocation_row(host_id: int, node_id: int, allocation: Allocation) -> dict[str, Any]:
    """Return the row of an allocation: every column of ``allocations``."""
    instance = allocation.instance
    facts = {
        name: value for (name, default), value in zip(_FACTS.items(), _facts(instance), strict=True) if value != default
    }
    return {
        "id": allocation.id,
        "host_id": host_id,
        "node_id": node_id,
        "instance_uuid": instance.uuid,
        "role": allocation.role,
        "claim_id": allocation.claim_id,
        "resources": _pack(allocation.resources.to_dict()),
        "project_id": instance.project_id,
        "user_id": instance.user_id,
        "vm_state": instance.vm_state,
        "task_state": instance.task_state,
        "facts": _pack(facts),
        "claim_state": allocation.claim_state,
        "limit_source": allocation.limit_source,
        "begun_at": allocation.begun_at,
        "expires_at": allocation.expires_at,
        "on_expiry": allocation.on_expiry,
        "built": allocation.built,
        "since": allocation.since,
    }


def segment_row(host_id: int, node_id: int, segment: Segment) -> dict[str, Any]:
    """Return the row of a segment: every column of ``usage_segments`` but its number, and more."""
    return {
        **allocation_row(host_id, node_id, segment.allocation),
        "since": segment.since,
        "until": segment.until,
        "holds_until": segment.holds_until,
        "adjusts": segment.adjusts,
        "due_at": segment.noted_at if segment.adjusts else segment.until,
    }


def segment_from(row: Any) -> Segment:
    """Return the segment of a row."""
    allocation = allocation_from({**row, "role": INSTANCE, "on_expiry": None, "built": False})
    return Segment(
        allocation=allocation,
        since=row["since"],
        until=row["until"],
        holds_until=row["holds_until"],
        adjusts=row["adjusts"],
        noted_at=row["due_at"] if row["adjusts"] else 0,
    )


def allocation_from(row: Any) -> Allocation:
    """Return the allocation of a row. Facts that this release does not know, of a newer release, are ignored."""
    fields = {name: value for name, value in msgpack.unpackb(row["facts"]).items() if name in _FACTS}
    if "custom" in fields:
        fields["custom"] = tuple(map(tuple, fields["custom"]))
    for name in _COLUMNS:
        fields[name] = row[name]
    for name, value in fields.items():
        # Equal values share one object, because they recur in many rows. Nothing changes them.
        if type(value) is str:
            if name not in _OF_ITS_OWN:
                fields[name] = sys.intern(value)
        elif type(value) is dict:
            packed = _pack(value)
            fields[name] = _one_of_equal(packed) if len(packed) <= _MOST_SHARED_BYTES else value
    allocation_id, claim_id, on_expiry = row["id"], row["claim_id"], row["on_expiry"]
    begun_at, expires_at, since = row["begun_at"], row["expires_at"], row["since"]
    return Allocation(
        id=allocation_id,
        claim_id=allocation_id if claim_id == allocation_id else claim_id,
        instance=Instance(uuid=row["instance_uuid"], **fields),
        resources=_vector(msgpack.unpackb(row["resources"])),
        begun_at=begun_at,
        expires_at=begun_at if expires_at == begun_at else expires_at,
        limit_source=sys.intern(row["limit_source"]),
        claim_state=sys.intern(row["claim_state"]),
        role=sys.intern(row["role"]),
        on_expiry=None if on_expiry is None else sys.intern(on_expiry),
        built=bool(row["built"]),
        since=begun_at if since == begun_at else since,
    )


@lru_cache(maxsize=1024)
def _one_of_equal(packed: bytes) -> Any:
    return msgpack.unpackb(packed)


def move_row(host_id: int, node_id: int, move: Move) -> dict[str, Any]:
    """Return the row of a move: every column of ``moves``."""
    record = {name: value for name in _MOVE if (value := getattr(move, name)) != _MOVE[name]}
    record["resources"] = move.resources.to_dict()
    if move.old_resources is not None:
        record["old_resources"] = move.old_resources.to_dict()
    return {
        "id": move.id,
        "host_id": host_id,
        "node_id": node_id,
        "instance_uuid": move.instance_uuid,
        "kind": move.kind,
        "state": move.state,
        "open": move.open,
        "from_host": move.from_host,
        "record": _pack(record),
    }


def move_from(row: Any) -> Move:
    """Return the move of a row. What this release does not know, of a newer release, is ignored."""
    fields = {name: value for name, value in msgpack.unpackb(row["record"]).items() if name in _MOVE}
    for name in ("resources", "old_resources"):
        if fields.get(name) is not None:
            fields[name] = _vector(fields[name])
    if fields.get("instance") is not None:
        fields["instance"] = msgspec.convert(fields["instance"], Instance)
    for name in _MOVE_COLUMNS:
        fields[name] = row[name]
    return Move(**{**fields, "open": bool(row["open"])})


def _vector(amounts: Mapping[str, int]) -> Resources:
    vector = Resources.of(amounts)
    return shared(vector.amounts, vector.custom) if vector.custom else shared(vector.amounts)


# The columns of ``nodes`` that the ledger decides.
NODE_COLUMNS = (
    "generation",
    "life",
    "inventory",
    "state",
    "running_vms",
    "current_workload",
    "io_workload",
    *(klass.total for klass in CLASSES),
    *(klass.used for klass in CLASSES),
    "custom_resources",
    "periods",
)


def node_values(ledger: NodeLedger) -> dict[str, Any]:
    """Return the values of NODE_COLUMNS, by name."""
    inventory, usage, stats = ledger.inventory, ledger.usage, ledger.stats
    values: dict[str, Any] = {
        "generation": ledger.generation,
        "life": _pack(ledger.life),
        "periods": msgspec.json.encode(ledger.periods),  # unlike msgpack, of sums of any size
        "inventory": None if inventory is None else _pack_inventory(inventory),
        "state": ledger.life.state,
        "running_vms": stats.num_instances,
        "current_workload": stats.current_workload,
        "io_workload": stats.io_workload,
    }
    for klass in CLASSES:
        values[klass.total] = None if inventory is None else inventory.total[klass.name]
        values[klass.used] = usage[klass.name]
    values["custom_resources"] = _custom_resources(inventory, usage)
    return values


def _custom_resources(inventory: Inventory | None, usage: Resources) -> str | None:
    """The totals and the usage of custom classes as a JSON object; None where there is none."""
    declared = {} if inventory is None else inventory.classes
    if len(declared) <= len(STANDARD) and not usage.custom:
        return None
    used = dict(usage.custom)
    names = sorted(used.keys() | declared.keys() - set(STANDARD))
    totals = {name: declared[name].total if name in declared else 0 for name in names}
    return _to_json({name: _Shown(total=totals[name], used=used.get(name, 0)) for name in names}).decode()


def ledger_from(host: str, ledger_id: str, row: Any) -> NodeLedger:
    """Return the ledger of a node without its allocations, from its row with ``sequence`` and ``occurred_at`` of its stream.
    ``host`` is the host's name."""
    ledger = NodeLedger(
        id=row["id"],
        host_id=row["host_id"],
        host=host,
        name=row["name"],
        stream_id=row["stream_id"],
        ledger_id=ledger_id,
        generation=row["generation"],
        sequence=row["sequence"],
        last_at=row["occurred_at"],
    )
    ledger.life = life_from(row["life"])
    if row["periods"] is not None:
        ledger.periods = periods_from(row["periods"])
    if row["inventory"] is not None:
        ledger.inventory = _unpack_inventory(row["inventory"])
    return ledger


def drift(ledger: NodeLedger, row: Any) -> Resources | None:
    """Return the usage in the columns of a node if it differs from the usage of its ledger, else None."""
    stored = Resources.of(
        {**_custom_usage(row["custom_resources"]), **{klass.name: row[klass.used] for klass in CLASSES}}
    )
    return None if stored == ledger.usage else stored


def _custom_usage(text: str | None) -> dict[str, int]:
    """The usage in the column of custom classes. A text that no release writes says nothing."""
    try:
        return {} if text is None else {name: each.used for name, each in _shown_from(text).items()}
    except msgspec.MsgspecError:
        return {}


def _pack_inventory(inventory: Inventory) -> bytes:
    return _pack({"classes": inventory.classes, "facts": inventory.facts})


def _unpack_inventory(packed: bytes) -> Inventory:
    fields = _inventory_from(packed)
    return Inventory.of(fields.classes, fields.facts)


def inbox_row(message: InboxRow) -> dict[str, Any]:
    """Return the row of an answered message: every column of ``inbox``."""
    return {
        "unique_id": message.unique_id,
        "host_id": message.host_id,
        "reply": message.reply,
        "received_at": message.received_at,
    }


def notification_row(notification: Notification) -> dict[str, Any]:
    """Return the row of a notification: every column of ``outbox``."""
    return {
        "stream_id": notification.stream_id,
        "sequence": notification.sequence,
        "message_id": notification.message_id,
        "event_type": notification.event_type,
        "priority": notification.priority,
        "payload": notification.payload,
        "occurred_at": notification.occurred_at,
        "asked": notification.asked,
    }


def notification_from(row: Any, *, host: str, node: str) -> Notification:
    """Return the notification of a row. ``host`` and ``node`` are the names of the host and the node."""
    return Notification(
        stream_id=row["stream_id"],
        host=host,
        node=node,
        sequence=row["sequence"],
        event_type=row["event_type"],
        priority=row["priority"],
        payload=bytes(row["payload"]),
        occurred_at=row["occurred_at"],
        message_id=row["message_id"],
        asked=bytes(row["asked"]),
    )
