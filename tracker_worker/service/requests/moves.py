# SPDX-License-Identifier: Apache-2.0
"""The arguments of the steps of a move -> commands. Every function raises InvalidInput, which names the argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tracker_worker.domain import commands
from tracker_worker.domain.classes import MOST_CLASSES, is_class_name
from tracker_worker.domain.move import EXPIRED, KINDS, STATES, Move
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.resources import STANDARD, Resources
from tracker_worker.domain.values import read_amount, read_choice, read_id, read_name, read_time
from tracker_worker.errors import InvalidInput
from tracker_worker.service.requests import arguments

Arguments = Mapping[str, Any]
Context = Mapping[str, Any]

_BEGINNING = ("id", "kind", "from_host", "from_node")
# More than a node can have, and an instance of it.
_MOST_CLASSES = MOST_CLASSES + len(STANDARD)


def begin(args: Arguments, context: Context, policy: Policy) -> commands.BeginMove:
    """The arguments of the charge at the destination."""
    move = _object(args["move"])
    for name in move:
        if name not in _BEGINNING:
            raise InvalidInput(field=f"move.{name}", reason=f"is no key of a move that begins: {', '.join(_BEGINNING)}")
    return commands.BeginMove(
        begin=arguments.begin({name: value for name, value in args.items() if name != "move"}, context, policy),
        id=read_id("move.id", _present(move, "id")),
        kind=_kind(move),
        from_host=_name(move, "from_host"),
        from_node=_name(move, "from_node"),
    )


def step(name: str) -> Callable[[Arguments, Context, Policy], commands.StepMove]:
    """What reads the arguments of the step of this name."""

    def read(args: Arguments, _context: Context, policy: Policy) -> commands.StepMove:
        move_id = read_id("move_id", args["move_id"])
        told = None if args.get("move") is None else _told(_object(args["move"]))
        if told is not None and told.id != move_id:
            raise InvalidInput(field="move.id", reason="is not the move_id")
        return commands.StepMove(
            id=move_id,
            step=name,
            effective_at=read_time("effective_at", args.get("effective_at")),
            told=told,
            remembers=policy.move_memory,
        )

    return read


def _told(move: Mapping[str, Any]) -> Move:
    """A move as its destination has answered it."""
    state = read_choice("move.state", move.get("state"), STATES) or EXPIRED
    begun_at = _time(move, "begun_at")
    finished_at = read_time("move.finished_at", move.get("finished_at")) or 0
    ended_at = read_time("move.ended_at", move.get("ended_at")) or 0
    if finished_at and finished_at < begun_at:
        raise InvalidInput(field="move.finished_at", reason="is before begun_at")
    if ended_at and ended_at < max(begun_at, finished_at):
        raise InvalidInput(field="move.ended_at", reason="is before begun_at or finished_at")
    return Move(
        id=read_id("move.id", _present(move, "id")),
        kind=_kind(move),
        instance_uuid=read_id("move.instance_uuid", _present(move, "instance_uuid")),
        from_host=_name(move, "from_host"),
        from_node=_name(move, "from_node"),
        to_host=read_name("move.to_host", _present(move, "to_host")),
        to_node=read_name("move.to_node", _present(move, "to_node")),
        resources=_vector(move, "resources"),
        old_resources=_vector(move, "old_resources") if move.get("old_resources") else None,
        state=state,
        begun_at=begun_at,
        expires_at=_time(move, "expires_at"),
        limit_source=str(read_choice("move.limit_source", _present(move, "limit_source"), _LIMIT_SOURCES)),
        finished_at=finished_at,
        ended_at=ended_at,
    )


_LIMIT_SOURCES = ("caller", "capacity", "unlimited")


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidInput(field="move", reason="must be an object")
    return value


def _present(move: Mapping[str, Any], name: str) -> Any:
    if move.get(name) is None:
        raise InvalidInput(field=f"move.{name}", reason="is missing")
    return move[name]


def _kind(move: Mapping[str, Any]) -> str:
    kind = read_choice("move.kind", _present(move, "kind"), KINDS)
    assert kind is not None
    return kind


def _name(move: Mapping[str, Any], name: str) -> str | None:
    return None if move.get(name) is None else read_name(f"move.{name}", move[name])


def _time(move: Mapping[str, Any], name: str) -> int:
    at = read_time(f"move.{name}", _present(move, name))
    if at is None:
        raise InvalidInput(field=f"move.{name}", reason="is missing")
    return at


def _vector(move: Mapping[str, Any], name: str) -> Resources:
    amounts = _present(move, name)
    if not isinstance(amounts, Mapping) or len(amounts) > _MOST_CLASSES:
        raise InvalidInput(field=f"move.{name}", reason="must be an object with an amount for each resource class")
    for key in amounts:
        if key not in STANDARD and not is_class_name(key):
            raise InvalidInput(field=f"move.{name}", reason="has a name that no resource class has")
    return Resources.of({str(key): read_amount(f"move.{name}.{key}", amount) for key, amount in amounts.items()})
