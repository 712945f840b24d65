# SPDX-License-Identifier: Apache-2.0
"""What each notification says: who is charged what after the event, in which state, and in which stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import LEDGER_ID, NOW, TIMEOUT, begin, host_ledger, inventory, planned, sized, update, uuid
from tracker_worker.domain.commands import (
    AbortClaim,
    BeginMove,
    Command,
    CompareInstances,
    DrainNode,
    ExpireClaims,
    FinishClaim,
    ReleaseAllocation,
    RenewClaim,
    ReportNode,
    StepMove,
)
from tracker_worker.domain.events import UNPUBLISHED
from tracker_worker.domain.host import HostLedger
from tracker_worker.notifications import schema
from tracker_worker.notifications.notification import INFO, WARN, Notification
from tracker_worker.notifications.render import Style, render

ZERO = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}
SIZE = {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50}
FINISH, ABORT = FinishClaim(claim_id=uuid(1)), AbortClaim(claim_id=uuid(1))
ACTIVE, DELETED = update(1, vm_state="active"), update(1, vm_state="deleted", project_id="q", user_id="v")
OFFLOADED = update(1, vm_state="shelved_offloaded", project_id="q", user_id="v")
KEEP, RELEASE = ExpireClaims(node="node-1"), ExpireClaims(node="node-1", release=True)
RELEASED = ReleaseAllocation(uuid=uuid(1), reason="x", released_by="ann")
LATE = NOW + TIMEOUT + 1


def told(host: HostLedger, command: Command, now: int = NOW, style: Style | None = None) -> list[Notification]:
    """Decide and apply ``command``, and return its notifications."""
    rows = []
    for ledger, event in planned(host, command, now).events:
        ledger.apply(event)
        if not isinstance(event, UNPUBLISHED):
            row = render(event, ledger, message_id=f"m-{ledger.sequence}", style=style or Style())
            schema.validator(row.event_type)(json.loads(row.payload))
            rows.append(row)
    for ledger in host:
        ledger.committed()
    return rows


def last(*commands: Command, style: Style | None = None) -> tuple[str, dict[str, Any]]:
    """The event type and the payload of the only notification of the last command, after the others."""
    host = host_ledger()
    for command in commands[:-1]:
        told(host, command)
    now = LATE if isinstance(commands[-1], ExpireClaims) else NOW
    [row] = told(host, commands[-1], now, style)
    return row.event_type, json.loads(row.payload)


CLAIM = begin(1, project_id="p", user_id="u")
WITH_GPUS = ReportNode(node="node-1", inventory=inventory(resources={"VGPU": {"total": 4, "step_size": 2}}))


@pytest.mark.behaviour("resource-classes")
def test_custom_classes_are_in_resources_and_in_what_is_charged() -> None:
    charged = {**SIZE, "VGPU": 2}
    _, begun = last(WITH_GPUS, begin(1, resources={"VGPU": 2}))
    assert (begun["resources"], begun["charged"]) == (charged, charged)
    _, updated = last(WITH_GPUS, begin(1, resources={"VGPU": 2}), update(1, resources={"VGPU": 6}))
    assert (updated["old_resources"], updated["charged"]) == (charged, {**SIZE, "VGPU": 6})
    assert updated["over_capacity"] == [{"resource": "VGPU", "used": 6, "capacity": 4}]
    _, released = last(WITH_GPUS, begin(1, resources={"VGPU": 2}), DELETED)
    assert (released["resources"], released["charged"]) == (charged, {**ZERO, "VGPU": 0})
    _, rejected = last(WITH_GPUS, begin(1, resources={"VGPU": 1, "FPGA": 1}))
    assert rejected["shortfalls"] == [
        {"resource": "FPGA", "requested": 1, "used": 0, "limit": 0},
        {
            "resource": "VGPU",
            "requested": 1,
            "used": 0,
            "limit": 2**62,
            "reason": "must be a multiple of 2 (step_size)",
        },
    ]
    assert rejected["charged"] == {**ZERO, "FPGA": 0, "VGPU": 0}
    resize = BeginMove(begin=begin(1, resources={"VGPU": 2}), id="m1", kind="resize")
    _, moved = last(WITH_GPUS, begin(1), resize)
    assert (moved["resources"], moved["charged"]) == (charged, {**SIZE, "VGPU": 0})
    _, moved = last(WITH_GPUS, begin(1), resize, step("abort"))
    assert (moved["resources"], moved["charged"]) == (charged, {**SIZE, "VGPU": 0})
    _, told_of_node = last(WITH_GPUS)
    assert told_of_node["resources"]["VGPU"]["capacity"] == 4


@pytest.mark.parametrize(
    ("commands", "event_type", "state", "charged"),
    [
        ((CLAIM,), "claim.begun", "begun", SIZE),
        ((CLAIM, RenewClaim(claim_id=uuid(1), timeout=2 * TIMEOUT)), "claim.renewed", "begun", SIZE),
        ((CLAIM, FINISH), "claim.finished", "finished", SIZE),
        ((CLAIM, ABORT), "claim.aborted", "aborted", ZERO),
        ((CLAIM, KEEP), "claim.expired", "expired", SIZE),
        ((CLAIM, RELEASE), "claim.expired", "expired", ZERO),
        ((CLAIM, ACTIVE), "usage.updated", "begun", SIZE),
        ((CLAIM, FINISH, ACTIVE), "usage.updated", "finished", SIZE),
        ((CLAIM, FINISH, update(1, **sized(9, 9, 9))), "usage.updated", "finished", {"VCPU": 9, "MEMORY_MB": 9, "DISK_GB": 9}),
        ((CLAIM, FINISH, DELETED), "usage.released", "finished", ZERO),
        ((CLAIM, FINISH, OFFLOADED), "usage.released", "finished", ZERO),
        ((CLAIM, DELETED), "usage.released", "aborted", ZERO),
        ((CLAIM, RELEASED), "usage.released", "aborted", ZERO),
        ((begin(1, project_id="p", user_id="u", limits={"vcpu": 0}),), "claim.rejected", "", ZERO),
        ((ReportNode(node="node-1", inventory=None, keeps_inventory=False), CLAIM), "claim.untracked", "", ZERO),
    ],
)  # fmt: skip
def test_every_event_of_an_instance_says_who_is_charged_what_after_it(
    commands: tuple[Command, ...], event_type: str, state: str, charged: dict[str, int]
) -> None:
    kind, payload = last(*commands)
    assert (kind, payload["claim_state"], payload["charged"]) == (f"tracker.{event_type}", state, charged)
    assert payload["role"] == ("instance" if charged != ZERO else "")
    assert payload["charged"].keys() == payload["resources"].keys()
    assert payload["resources"] == (SIZE if charged == ZERO else charged)
    assert (payload["tenant_id"], payload["user_id"]) == ("p", "u")  # who was charged, whatever a deletion says
    assert (payload["ledger_id"], payload["region"]) == (LEDGER_ID, "")
    assert payload["claim_id"] != uuid(1)
    assert (payload["claim_id"] == "") is (state == "")


RESIZE = BeginMove(begin=begin(1, vcpus=4, project_id="other", user_id="other"), id="m1", kind="resize")
TO_Q = update(1, project_id="q", user_id="v")
TO_R = update(1, vm_state="deleted", project_id="r", user_id="w")


def step(name: str) -> StepMove:
    return StepMove(id="m1", step=name, remembers=100 * TIMEOUT)


@pytest.mark.parametrize(
    ("commands", "charged"),
    [
        ((CLAIM, RESIZE, TO_Q, step("abort")), {"move.aborted": 2}),
        ((CLAIM, RESIZE, TO_Q, step("fail")), {"move.failed": 2}),
        ((CLAIM, RESIZE, TO_Q, ExpireClaims(node="node-1")), {"move.expired": 2, "claim.expired": 2}),
        ((CLAIM, RESIZE, TO_Q, step("finish")), {"move.finished": 4}),
        ((CLAIM, RESIZE, step("finish"), TO_Q, step("revert")), {"move.reverted": 2}),
        ((CLAIM, RESIZE, step("finish"), TO_Q, step("confirm")), {"move.confirmed": 4}),
        ((CLAIM, RESIZE, TO_Q, TO_R), {"move.aborted": 2, "usage.released": 0}),
        ((CLAIM, RESIZE, step("finish"), TO_Q, TO_R), {"move.confirmed": 4, "usage.released": 0}),
        ((CLAIM, RESIZE, TO_Q, RELEASED), {"move.aborted": 2, "usage.released": 0}),
    ],
)
def test_what_is_charged_after_a_step_of_a_move_is_charged_to_the_present_owner(
    commands: tuple[Command, ...], charged: dict[str, int]
) -> None:
    host = host_ledger()
    for command in commands[:-1]:
        told(host, command)
    rows = told(host, commands[-1], LATE if isinstance(commands[-1], ExpireClaims) else NOW)
    payloads = {row.event_type.removeprefix("tracker."): json.loads(row.payload) for row in rows}
    assert {name: payload["charged"]["VCPU"] for name, payload in payloads.items()} == charged
    assert {(payload["tenant_id"], payload["user_id"]) for payload in payloads.values()} == {("q", "v")}


def test_an_aborted_claim_says_whether_it_had_expired() -> None:
    _, payload = last(CLAIM, ABORT)
    assert (payload["old_claim_state"], payload["claim_state"]) == ("begun", "aborted")
    host = host_ledger()
    told(host, CLAIM)
    told(host, KEEP, LATE)
    [row] = told(host, ABORT, LATE)
    payload = json.loads(row.payload)
    assert (payload["old_claim_state"], payload["claim_state"]) == ("expired", "aborted")


def test_a_change_of_the_owner_names_both_and_null_changes_nothing() -> None:
    kind, payload = last(CLAIM, update(1, project_id="q", user_id="v"))
    assert (kind, payload["tenant_id"], payload["user_id"]) == ("tracker.usage.updated", "q", "v")
    assert (payload["old_tenant_id"], payload["old_user_id"]) == ("p", "u")
    _, payload = last(CLAIM, update(1, project_id=None, user_id=None, vm_state="active"))
    assert (payload["tenant_id"], payload["old_tenant_id"], payload["user_id"]) == ("p", "p", "u")
    host = host_ledger()
    told(host, CLAIM)
    assert told(host, update(1, project_id=None)) == []


@pytest.mark.parametrize(
    ("before", "after", "over"),
    [
        (2, 32, []),
        (2, 33, [{"resource": "VCPU", "used": 33, "capacity": 32}]),
        (40, 41, [{"resource": "VCPU", "used": 41, "capacity": 32}]),
        (40, 39, []),
        (40, 40, []),
    ],
)
def test_growth_is_accepted_and_says_what_it_made_larger_than_the_node(
    before: int, after: int, over: list[dict[str, Any]]
) -> None:
    _, payload = last(begin(1, vcpus=before), update(1, vcpus=after, vm_state="active"))
    assert payload["over_capacity"] == over


def test_growth_counts_the_reserve_and_all_instances() -> None:
    _, payload = last(begin(2, **sized(1, 100_000, 0)), begin(1), update(1, memory_mb=30_561, root_gb=2000))
    assert payload["over_capacity"] == [
        {"resource": "MEMORY_MB", "used": 131_073, "capacity": 131_072},
        {"resource": "DISK_GB", "used": 2010, "capacity": 2000},
    ]


def test_a_release_by_an_operator_says_who_and_why() -> None:
    _, payload = last(CLAIM, ReleaseAllocation(uuid=uuid(1), reason="burnt", released_by="ann"))
    assert (payload["released_by"], payload["reason"]) == ("ann", "burnt")
    _, payload = last(CLAIM, DELETED)
    assert (payload["released_by"], payload["reason"]) == ("", "")


def test_a_difference_of_what_runs_has_keys_of_its_own() -> None:
    kind, payload = last(CLAIM, CompareInstances(node=None, uuids=frozenset({uuid(9)})))
    assert (kind, payload["kind"]) == ("tracker.node.drift", "instances")
    assert (payload["charged_not_running"], payload["running_not_charged"], payload["building"]) == (
        [],
        [uuid(9)],
        [uuid(1)],
    )
    assert "stored_usage" not in payload


def test_a_change_of_state_is_told_with_the_reason() -> None:
    kind, payload = last(DrainNode(node="node-1", reason="disk"))
    assert kind == "tracker.node.updated"
    assert (payload["state"], payload["state_reason"]) == ("draining", "disk")
    assert "previous_ledger_id" not in payload


def test_everything_is_information_unless_its_type_is_named_and_the_region_is_in_every_payload() -> None:
    style = Style(region="north", warn_events=frozenset({"tracker.claim.rejected"}))
    host = host_ledger()
    commands = (
        begin(1, limits={"vcpu": 0}),
        CLAIM,
        FINISH,
        DELETED,
        ReportNode(node="node-1", inventory=inventory(vcpus=1)),
    )
    rows = [row for command in commands for row in told(host, command, style=style)]
    assert [row.priority for row in rows] == [WARN, INFO, INFO, INFO, INFO]
    assert {json.loads(row.payload)["region"] for row in rows} == {"north"}
    host = host_ledger()
    assert {row.priority for command in commands for row in told(host, command)} == {INFO}


@pytest.mark.parametrize("name", sorted(["instance", "node", *schema.event_types()]))
def test_every_key_of_a_schema_is_described(name: str) -> None:
    published = schema.load(f"{name}.json")
    described = {key for key, value in published.get("properties", {}).items() if value.get("description")}
    assert set(published.get("properties", {})) - described == set()


class TestTheCheck:
    def test_a_value_of_another_type_is_found_though_an_equal_payload_was_good(self) -> None:
        event_type, payload = last(CLAIM)
        schema.check(event_type, payload)
        for name in payload:
            with pytest.raises(schema.InvalidPayload, match=name):
                schema.check(event_type, {**payload, name: None})

    def test_a_key_that_is_missing_is_found(self) -> None:
        event_type, payload = last(CLAIM)
        schema.check(event_type, payload)
        del payload["ledger_id"]
        with pytest.raises(schema.InvalidPayload, match="ledger_id"):
            schema.check(event_type, payload)
