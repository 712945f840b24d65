# SPDX-License-Identifier: Apache-2.0
"""The arguments of moves."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import NOW, instance_dict, uuid
from tests.support.engine import POLICY
from tests.support.methods import ask, refused
from tracker_worker.domain.commands import BeginMove, StepMove

TOLD = {
    "id": "m1",
    "kind": "migration",
    "instance_uuid": uuid(1),
    "from_host": "host-1",
    "from_node": None,
    "to_host": "host-2",
    "to_node": "node-2",
    "resources": {"VCPU": 2, "MEMORY_MB": 1024, "DISK_GB": 3},
    "old_resources": {},
    "state": "finished",
    "begun_at": "2026-01-15T12:00:00.000000Z",
    "expires_at": "2026-01-15T12:10:00.000000Z",
    "finished_at": "2026-01-15T13:00:00.000001+01:00",
    "ended_at": "",
    "generation": 7,
    "limit_source": "caller",
}


def test_a_begin_has_the_claim_and_the_move() -> None:
    move = {"id": uuid(7).upper(), "kind": "evacuation", "from_host": "host-9", "from_node": "n"}
    asked = ask("begin_move_claim", {"instance": instance_dict(1, node="node-2"), "move": move, "on_expiry": "release"})
    command = asked.action
    assert isinstance(command, BeginMove)
    assert (command.id, command.kind, command.from_host, command.from_node) == (uuid(7), "evacuation", "host-9", "n")
    assert (command.begin.node, command.begin.on_expiry, command.begin.claim_id) == ("node-2", "release", None)


@pytest.mark.parametrize(
    ("move", "field"),
    [
        ("m1", "move"),
        ({"kind": "resize"}, "move.id"),
        ({"id": "", "kind": "resize"}, "move.id"),
        ({"id": " m", "kind": "resize"}, "move.id"),
        ({"id": "m"}, "move.kind"),
        ({"id": "m", "kind": "copy"}, "move.kind"),
        ({"id": "m", "kind": "resize", "from_host": 3}, "move.from_host"),
        ({"id": "m", "kind": "resize", "to_host": "h"}, "move.to_host"),
    ],
)
def test_what_is_wrong_with_the_move_is_named(move: Any, field: str) -> None:
    assert refused("begin_move_claim", {"instance": instance_dict(1), "move": move}) == field


def test_a_step_has_what_the_destination_has_answered() -> None:
    args = {"move_id": "m1", "move": TOLD, "effective_at": "2026-01-15T12:00:00.000002"}
    command = ask("finish_move", args).action
    assert isinstance(command, StepMove)
    assert (command.step, command.effective_at, command.remembers) == ("finish", NOW + 2, POLICY.move_memory)
    told = command.told
    assert told is not None
    assert (told.finished_at, told.ended_at, told.begun_at, told.old_resources) == (NOW + 1, 0, NOW, None)
    assert told.resources.to_dict()["VCPU"] == 2


@pytest.mark.parametrize("method", ["finish_move", "confirm_move", "revert_move", "abort_move", "fail_move"])
def test_each_method_is_the_step_of_its_name(method: str) -> None:
    command = ask(method, {"move_id": uuid(3).upper()}).action
    assert isinstance(command, StepMove)
    assert (f"{command.step}_move", command.id, command.told) == (method, uuid(3), None)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "m2"}, "move.id"),
        ({"begun_at": "yesterday"}, "move.begun_at"),
        ({"begun_at": ""}, "move.begun_at"),
        ({"state": "lost"}, "move.state"),
        ({"instance_uuid": None}, "move.instance_uuid"),
        ({"to_node": None}, "move.to_node"),
        ({"resources": [1]}, "move.resources"),
        ({"resources": {"VCPU": -1}}, "move.resources.VCPU"),
        ({"limit_source": "nobody"}, "move.limit_source"),
        ({"finished_at": 3}, "move.finished_at"),
        ({"finished_at": "2026-01-15T11:00:00"}, "move.finished_at"),
        ({"ended_at": "2026-01-15T11:59:59"}, "move.ended_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:59"}, "move.expires_at"),
        ({"begun_at": "0001-01-01T00:00:00+23:59"}, "move.begun_at"),
    ],
)
def test_what_is_wrong_with_what_was_answered_is_named(change: dict[str, Any], field: str) -> None:
    assert refused("finish_move", {"move_id": "m1", "move": {**TOLD, **change}}) == field


def test_a_time_that_is_none_is_named() -> None:
    assert refused("finish_move", {"move_id": "m1", "effective_at": "soon"}) == "effective_at"
