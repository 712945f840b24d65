# SPDX-License-Identifier: Apache-2.0
"""A notification has a limit by construction: no instance and no node makes a larger one than the broker takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import driver_resource_dict, instance_dict, resources
from tracker_worker.domain import commands
from tracker_worker.domain.decide import decide
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import owner_of, read_changes, read_instance
from tracker_worker.domain.inventory import FACTS, read_inventory
from tracker_worker.domain.ledger import HostLedger, NodeLedger
from tracker_worker.domain.resources import MAX_AMOUNT
from tracker_worker.domain.values import MAX_FIELD_BYTES, MAX_TEXT
from tracker_worker.notifications.render import render
from tracker_worker.wire.notification import renewed

INSTANCE_BYTES = 4 * MAX_FIELD_BYTES + 40_000
"""Two fields whose quotes become four bytes instead of two in the envelope, and the texts."""
NODE_BYTES = 12 * MAX_FIELD_BYTES + 40_000
"""The five facts of a node and its counters, likewise."""
BROKER_BYTES = 16 * 1024 * 1024
"""The least default of max_message_size in RabbitMQ (4.0)."""
NOW = 2**52
# A control character has six bytes in JSON, and seven in JSON inside of JSON.
LONG = "\x01" * MAX_TEXT


def filled() -> dict[str, Any]:
    """A field of the largest size; each quote in it has two bytes in JSON and four in JSON inside of JSON."""
    return {"": '"' * ((MAX_FIELD_BYTES - len('{"":""}')) // 2)}


def largest_instance(**changes: Any) -> dict[str, Any]:
    texts = ("task_state", "os_type", "project_id", "user_id", "display_name", "instance_type", "instance_flavor_id")
    dates = ("created_at", "launched_at", "deleted_at", "terminated_at")
    return instance_dict(
        **dict.fromkeys((*texts, "availability_zone"), LONG),
        **dict.fromkeys(dates, "2026-01-15T12:00:00.000000+23:59:59.999999"),
        **dict.fromkeys(("memory_mb", "vcpus", "root_gb"), MAX_AMOUNT),
        **{"uuid": LONG, "image_meta": filled(), "metadata": filled(), **changes},
    )


def host() -> HostLedger:
    ledger = NodeLedger(id=2**62, host="h" * 240, name=LONG, generation=2**62, sequence=2**62)
    ledger.inventory = read_inventory(driver_resource_dict(), resources())
    found = HostLedger(id=1, name=ledger.host)
    found.nodes[ledger.name] = ledger
    return found


def sent(ledger: NodeLedger, event: Any) -> dict[str, int]:
    ledger.apply(event)
    notification = render(event, ledger)
    body = notification.encode()
    payload = json.loads(json.loads(body)["oslo.message"])["payload"]
    assert payload == json.loads(notification.payload)
    assert len(renewed(body)) == len(body)
    return {notification.event_type: len(body)}


def play(hosts: HostLedger, command: commands.Command, now: int = NOW) -> dict[str, int]:
    decision = decide(hosts, command, now)
    sizes: dict[str, int] = {}
    for event in decision.events:
        assert decision.node is not None
        sizes |= sent(decision.node, event)
    return sizes


def begin(fields: dict[str, Any], **limits: int) -> commands.BeginClaim:
    instance = read_instance(fields)
    instance = instance.changed(owner_of(instance.project_id, instance.user_id, {}))
    return commands.BeginClaim(instance=instance, limits=read_limits(limits), timeout=2**50, node=LONG)


def test_the_largest_notification_of_an_instance_stays_under_its_limit() -> None:
    hosts = host()
    sizes = play(hosts, begin(largest_instance(), vcpu=1, memory_mb=1, disk_gb=1))
    sizes |= play(hosts, begin(largest_instance()))
    changes = read_changes({"uuid": LONG, "vm_state": "shelved_offloaded", "metadata": {**filled(), "": '"' * 30_000}})
    sizes |= play(hosts, commands.UpdateUsage(uuid=LONG, changes={"vm_state": "active"}))
    sizes |= play(hosts, commands.ExpireClaims(node=LONG), now=2 * NOW)
    sizes |= play(hosts, commands.UpdateUsage(uuid=LONG, changes=changes))
    for end in (commands.FinishClaim, commands.AbortClaim):
        hosts = host()
        play(hosts, begin(largest_instance()))
        sizes |= play(hosts, end(claim_id=LONG))

    assert set(sizes) == {
        *(f"tracker.claim.{name}" for name in ("rejected", "begun", "finished", "aborted", "expired")),
        *("tracker.usage.updated", "tracker.usage.released"),
    }
    assert max(sizes.values()) < INSTANCE_BYTES < BROKER_BYTES / 16
    assert max(sizes.values()) > 4 * MAX_FIELD_BYTES  # it is the largest one: each quote has four bytes


def test_the_largest_notification_of_a_node_stays_under_its_limit() -> None:
    hosts = host()
    (ledger,) = hosts
    for number in range(2000):
        play(hosts, begin(instance_dict(number, project_id=f"{number:0255}", os_type=f"{number}{LONG}"[:MAX_TEXT])))
    found = read_inventory(driver_resource_dict(**dict.fromkeys(FACTS, filled())), resources())

    sizes = play(hosts, commands.ReportNode(node=LONG, inventory=found))

    assert 10 * MAX_FIELD_BYTES < sizes["tracker.node.updated"] < NODE_BYTES < BROKER_BYTES / 16
    view = json.loads(
        render(decide(hosts, commands.ReportNode(node=LONG, inventory=None), NOW).events[0], ledger).payload
    )
    assert view["stats_omitted"] == 4001  # a project and an operating system for each instance, and the task state
    assert view["stats"] == {
        "num_instances": 2000,
        "num_vcpus_used": 4000,
        "io_workload": 2000,
        "num_vm_building": 2000,
    }


@pytest.mark.parametrize("projects", [1, 100])
def test_counters_that_have_room_are_kept(projects: int) -> None:
    hosts = host()
    (ledger,) = hosts
    for number in range(projects):
        play(hosts, begin(instance_dict(number, project_id=f"project-{number}")))

    event = decide(hosts, commands.ReportNode(node=LONG, inventory=None), NOW).events[0]
    view = json.loads(render(event, ledger).payload)

    assert len([name for name in view["stats"] if name.startswith("num_proj_")]) == projects
    assert "stats_omitted" not in view
