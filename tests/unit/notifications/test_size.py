# SPDX-License-Identifier: Apache-2.0
"""A notification has a limit by construction: no instance and no node makes a larger one than the broker takes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.builders import LEDGER_ID, driver_resource_dict, instance_dict, planned, resources
from tracker_worker.domain import closing, commands
from tracker_worker.domain.allocation import FINISHED, Allocation
from tracker_worker.domain.closing import MOST_SEGMENTS
from tracker_worker.domain.events import UsageExists
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import Instance, owner_of, read_changes, read_instance
from tracker_worker.domain.inventory import FACTS, read_inventory
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import OPEN, Life
from tracker_worker.domain.periods import Periods
from tracker_worker.domain.resources import MAX_AMOUNT, STANDARD, Resources
from tracker_worker.domain.segments import Adjustment, InstanceUsage, Segment, adjustment, segment
from tracker_worker.domain.values import MAX_FIELD_BYTES, MAX_TEXT, SECOND
from tracker_worker.notifications.dialects.table import DIALECTS
from tracker_worker.notifications.render import Style, render
from tracker_worker.wire.notification import renewed

INSTANCE_BYTES = 4 * MAX_FIELD_BYTES + 40_000
"""Two fields whose quotes become four bytes instead of two in the envelope, and the texts."""
PERIOD_BYTES = INSTANCE_BYTES + 120_000
"""An instance with its segments and adjustments."""
NODE_BYTES = 12 * MAX_FIELD_BYTES + 40_000
"""The five facts of a node and its counters, likewise."""
BROKER_BYTES = 16 * 1024 * 1024
"""The least default of max_message_size in RabbitMQ (4.0)."""
NOW = 2**52
STYLE = Style(region="r" * MAX_TEXT)
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
    ledger = NodeLedger(
        id=2**62, host="h" * 240, name=LONG, ledger_id=LEDGER_ID, generation=2**62, sequence=2**62, last_at=1
    )
    ledger.inventory, ledger.life = read_inventory(driver_resource_dict(), resources()), Life(state=OPEN)
    found = HostLedger(id=1, name=ledger.host, ledger_id=LEDGER_ID)
    found.nodes[ledger.name] = ledger
    return found


def sent(ledger: NodeLedger, event: Any) -> dict[str, int]:
    """The bytes of the largest message that any dialect makes of the event."""
    ledger.apply(event)
    notification = render(event, ledger, message_id=LEDGER_ID, style=STYLE)
    body = notification.encode()
    payload = json.loads(json.loads(body)["oslo.message"])["payload"]
    assert payload == json.loads(notification.payload)
    assert len(renewed(body)) == len(body)
    return {notification.event_type: max(len(each) for one in DIALECTS.values() for each in one.bodies(notification))}


def play(hosts: HostLedger, command: commands.Command, now: int = NOW) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for ledger, event in planned(hosts, command, now).events:
        sizes |= sent(ledger, event)
    return sizes


def begin(fields: dict[str, Any], *, claim_id: str | None = None, **limits: int) -> commands.BeginClaim:
    instance = read_instance(fields)
    instance = instance.changed(owner_of(instance.project_id, instance.user_id, {}))
    return commands.BeginClaim(
        instance=instance, limits=read_limits(limits), timeout=2**50, node=LONG, claim_id=claim_id
    )


def charge(instance: Instance) -> Allocation:
    return Allocation(
        id=LEDGER_ID,
        claim_id=LONG,
        claim_state=FINISHED,
        limit_source="unlimited",
        instance=instance,
        resources=instance.resources,
        begun_at=NOW,
        expires_at=NOW,
    )


def test_the_largest_notification_of_an_instance_stays_under_its_limit() -> None:
    hosts = host()
    sizes = play(hosts, begin(largest_instance(), vcpu=1, memory_mb=1, disk_gb=1))
    sizes |= play(hosts, begin(largest_instance(), claim_id=LONG))
    sizes |= play(hosts, commands.RenewClaim(claim_id=LONG, timeout=2**51))
    changes = read_changes({"uuid": LONG, "vm_state": "shelved_offloaded", "metadata": {**filled(), "": '"' * 30_000}})
    sizes |= play(hosts, commands.UpdateUsage(uuid=LONG, changes={"vm_state": "active"}))
    sizes |= play(hosts, commands.ExpireClaims(node=LONG), now=NOW + 2**52)
    sizes |= play(hosts, commands.UpdateUsage(uuid=LONG, changes=changes))
    ends = (commands.FinishClaim(claim_id=LONG), commands.AbortClaim(claim_id=LONG))
    for end in (*ends, commands.ReleaseAllocation(uuid=LONG, reason=LONG, released_by=LONG)):
        hosts = host()
        play(hosts, begin(largest_instance(), claim_id=LONG))
        sizes |= play(hosts, end)
    play(hosts, commands.ReportNode(node=LONG, inventory=None, keeps_inventory=False))
    sizes |= play(hosts, begin(largest_instance()))

    assert set(sizes) == {
        *(
            f"tracker.claim.{name}"
            for name in ("rejected", "begun", "renewed", "finished", "aborted", "expired", "untracked")
        ),
        *("tracker.usage.updated", "tracker.usage.released"),
    }
    assert max(sizes.values()) < INSTANCE_BYTES < BROKER_BYTES / 16
    assert max(sizes.values()) > 4 * MAX_FIELD_BYTES  # it is the largest one: each quote has four bytes


def test_the_largest_notification_of_a_period_stays_under_its_limit() -> None:
    """Of an instance without custom classes."""
    ledger = host().nodes[LONG]
    instance = read_instance(largest_instance())
    held = charge(instance)
    most = Resources.of(dict.fromkeys(STANDARD, MAX_AMOUNT)).to_dict()
    adjustment = Adjustment(beginning=NOW, ending=2 * NOW, seconds=-MAX_AMOUNT, resource_seconds=most)
    segments = [segment(held, NOW + n * SECOND, NOW + (n + 1) * SECOND) for n in range(MOST_SEGMENTS)]
    told = UsageExists(
        at=NOW,
        beginning=NOW,
        ending=2 * NOW,
        shown=held,
        segments=tuple(segments),
        adjustments=(adjustment,) * MOST_SEGMENTS,
        seconds=MAX_AMOUNT,
        resource_seconds=most,
        part=MAX_AMOUNT,
        parts=MAX_AMOUNT,
    )
    [size] = sent(ledger, told).values()
    assert INSTANCE_BYTES < size < PERIOD_BYTES < BROKER_BYTES / 16


def test_a_period_of_many_classes_is_told_in_parts_that_stay_under_their_limit() -> None:
    ledger = host().nodes[LONG]
    ledger.periods = Periods(until=NOW, first=NOW, ending=2 * NOW)
    classes = {f"CUSTOM_{number:03}_{'X' * 60}": MAX_AMOUNT for number in range(255)}
    changes: list[Segment] = []
    for number in range(400):
        instance = read_instance(largest_instance(resources={**classes, "CUSTOM_LAST": number}))
        held = charge(instance)
        since = NOW + number * SECOND
        changes.append(segment(held, since, since + SECOND))
        changes.append(adjustment(held, number * SECOND, (number + 1) * SECOND, sign=1, noted_at=NOW))
    usage = InstanceUsage(uuid=LONG, allocation=None, segments=tuple(changes))
    command = commands.TellUsage(
        node=LONG,
        node_id=ledger.id,
        ending=2 * NOW,
        after="",
        usages=(usage,),
        closed=tuple((number * SECOND, (number + 1) * SECOND) for number in range(400)),
        last=True,
    )

    told = [event for _, event in closing.tell(ledger, command, NOW).events if isinstance(event, UsageExists)]

    assert sum(len(event.segments) for event in told) == sum(len(event.adjustments) for event in told) == 400
    assert [(event.part, event.parts) for event in told] == [(n, len(told)) for n in range(1, len(told) + 1)]
    assert max(max(sent(ledger, event).values()) for event in told) < BROKER_BYTES / 16


def test_the_largest_notification_of_a_node_stays_under_its_limit() -> None:
    hosts = host()
    for number in range(2000):
        play(hosts, begin(instance_dict(number, project_id=f"{number:0255}", os_type=f"{number}{LONG}"[:MAX_TEXT])))
    found = read_inventory(driver_resource_dict(**dict.fromkeys(FACTS, filled())), resources())

    sizes = play(hosts, commands.ReportNode(node=LONG, inventory=found))

    assert 10 * MAX_FIELD_BYTES < sizes["tracker.node.updated"] < NODE_BYTES < BROKER_BYTES / 16
    view = _node_updated(hosts)
    assert view["stats_omitted"] == 4001  # a project and an operating system for each instance, and the task state
    assert view["stats"] == {
        "num_instances": 2000,
        "num_vcpus_used": 4000,
        "io_workload": 2000,
        "num_vm_building": 2000,
    }


def _node_updated(hosts: HostLedger) -> Any:
    """The payload that tells that the driver answers nothing."""
    [(ledger, event)] = planned(hosts, commands.ReportNode(node=LONG, inventory=None), NOW).events
    return json.loads(render(event, ledger, message_id=LEDGER_ID).payload)


@pytest.mark.parametrize("projects", [1, 100])
def test_counters_that_have_room_are_kept(projects: int) -> None:
    hosts = host()
    for number in range(projects):
        play(hosts, begin(instance_dict(number, project_id=f"project-{number}")))

    view = _node_updated(hosts)

    assert len([name for name in view["stats"] if name.startswith("num_proj_")]) == projects
    assert "stats_omitted" not in view


@pytest.mark.parametrize("length", [36, 200])
def test_a_comparison_names_as_many_instances_as_have_room_and_counts_the_others(length: int) -> None:
    hosts = host()
    kept = 262144 // (length + len('"",'))
    play(hosts, begin(instance_dict(1)))
    running = frozenset(f"{number:0{length}}" for number in range(100_000))

    [(ledger, event)] = planned(hosts, commands.CompareInstances(node=None, uuids=running), NOW).events
    body = render(event, ledger, message_id=LEDGER_ID).payload

    assert len(body) < NODE_BYTES
    payload = json.loads(body)
    assert payload["running_not_charged"] == sorted(running)[:kept]
    assert payload["uuids_omitted"] == 100_000 - kept
    assert len(payload["building"]) == 1
