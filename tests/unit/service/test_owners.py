# SPDX-License-Identifier: Apache-2.0
"""The owner of what a host is charged changes only with the methods of the rule ``tracker:report``."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import instance_dict, node_name, uuid
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import MakeHarness

N1, N2 = node_name(1), node_name(2)
EVE = {"project_id": "spies", "user_id": "eve"}


@pytest.fixture
def worker(make_harness: MakeHarness) -> EngineHarness:
    made = make_harness().start()
    made.caller.call("begin_resource_claim", instance=instance_dict(1, node=N1, project_id="physics")).reply()
    return made


def owner(worker: EngineHarness) -> str:
    held = worker.caller.call("get_allocation", instance_uuid=uuid(1)).reply()
    return str(held["project_id"])


@pytest.mark.parametrize(
    ("method", "args"),
    [
        ("begin_resource_claim", {"instance": instance_dict(1, node=N1, **EVE)}),
        ("begin_resource_claims", {"claims": [{"instance": instance_dict(1, node=N1, **EVE)}]}),
        ("renew_resource_claim", {"claim_id": uuid(1)}),
        ("finish_resource_claim", {"claim_id": uuid(1)}),
        ("would_fit", {"instance": instance_dict(1, node=N1, **EVE)}),
    ],
)
def test_a_claim_that_is_repeated_changes_no_owner(worker: EngineHarness, method: str, args: dict[str, Any]) -> None:
    worker.caller.call(method, **args).reply()
    assert owner(worker) == "physics"


def test_a_resize_on_its_host_changes_no_owner(worker: EngineHarness) -> None:
    worker.caller.call("finish_resource_claim", claim_id=uuid(1)).reply()
    move = {"id": "m-1", "kind": "resize"}
    larger = instance_dict(1, node=N2, vcpus=3, **EVE)
    worker.caller.call("begin_move_claim", instance=larger, move=move).reply()
    for step in ("finish_move", "confirm_move"):
        worker.caller.call(step, move_id="m-1").reply()
        assert owner(worker) == "physics"


def test_an_update_changes_the_owner(worker: EngineHarness) -> None:
    worker.caller.call("update_usage", instance={"uuid": uuid(1), **EVE}).reply()
    assert owner(worker) == "spies"
