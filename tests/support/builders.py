# SPDX-License-Identifier: Apache-2.0
"""Builders of test data with realistic defaults. Every default can be overridden; nothing is random and nothing reads a clock.

``*_dict`` functions return data as it comes from outside (a new dict for each call); the other functions return domain
values.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from tracker_worker.domain.claims import NewId
from tracker_worker.domain.commands import BeginClaim, Command, ReportNode, UpdateUsage
from tracker_worker.domain.decide import decide
from tracker_worker.domain.decision import Decision
from tracker_worker.domain.events import Event
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.instance import Instance, read_changes, read_instance, read_node
from tracker_worker.domain.inventory import Inventory, read_inventory, reserve
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.resources import Resources
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import TrackerError
from tracker_worker.ids import uuid7

# 2026-01-15T12:00:00Z, in microseconds.
NOW = 1_768_478_400 * SECOND
TIMEOUT = 600 * SECOND
HOST = "host-1"
NODE = "node-1"
LEDGER_ID = "019bc0de-0000-7000-8000-000000000001"
RESERVED_MEMORY_MB = 512
# The capacity of one node of ``driver_resource_dict``.
TOTAL = {"VCPU": 32, "MEMORY_MB": 131072, "DISK_GB": 2000}


def uuid(number: int = 1) -> str:
    """The uuid of the ``number``-th instance."""
    return f"5c0de000-0000-4000-8000-{number:012x}"


def node_name(number: int = 1) -> str:
    return f"node-{number}"


def instance_dict(number: int = 1, **fields: Any) -> dict[str, Any]:
    """An instance as a scheduler sends it: 2 VCPU, 4096 MB, 40 + 10 GB, building."""
    return {
        "uuid": uuid(number),
        "memory_mb": 4096,
        "root_gb": 40,
        "ephemeral_gb": 10,
        "vcpus": 2,
        "vm_state": "building",
        "task_state": "scheduling",
        "os_type": "linux",
        "project_id": "9e3a6f0b8d5c4f6f9d6a1c2b3e4f5a6b",
        "user_id": "1f2e3d4c5b6a79880716253443526170",
        "display_name": f"web-{number}",
        "instance_type": "m1.medium",
        "instance_flavor_id": "3",
        "availability_zone": "az-1",
        "created_at": "2026-01-15T11:59:58Z",
        "launched_at": None,
        "deleted_at": None,
        "terminated_at": None,
        "image_meta": {"base_image_ref": "b5f7e1c2-7c0e-4c55-9d0c-7a1f3a0e9a11", "min_disk": 10},
        "metadata": {"role": "web"},
        **fields,
    }


def instance(number: int = 1, **fields: Any) -> Instance:
    return read_instance(instance_dict(number, **fields))


def sized(vcpus: int = 0, memory_mb: int = 0, disk_gb: int = 0) -> dict[str, int]:
    """The size fields of an instance."""
    return {"vcpus": vcpus, "memory_mb": memory_mb, "root_gb": disk_gb, "ephemeral_gb": 0}


def resources(vcpu: int = 0, memory_mb: int = 0, disk_gb: int = 0) -> Resources:
    return Resources.of({"VCPU": vcpu, "MEMORY_MB": memory_mb, "DISK_GB": disk_gb})


def driver_resource_dict(**keys: Any) -> dict[str, Any]:
    """An inventory driver's answer for a node: 32 VCPU, 128 GiB, 2000 GB, and the driver's own usage figures."""
    return {
        "vcpus": TOTAL["VCPU"],
        "memory_mb": TOTAL["MEMORY_MB"],
        "local_gb": TOTAL["DISK_GB"],
        "cpu_info": {"arch": "x86_64", "model": "EPYC-Milan", "topology": {"sockets": 2, "cores": 8, "threads": 2}},
        "vcpus_used": 7,
        "memory_mb_used": 3333,
        "local_gb_used": 77,
        "hypervisor_type": "QEMU",
        "hypervisor_version": 7002000,
        "hypervisor_hostname": "host-1.example.org",
        "disk_available_least": 1800,
        **keys,
    }


def inventory(*, reserved_memory_mb: int = RESERVED_MEMORY_MB, reserved_disk_mb: int = 0, **keys: Any) -> Inventory:
    """The inventory that the domain reads from ``driver_resource_dict(**keys)``."""
    read = read_inventory(driver_resource_dict(**keys), reserve(memory_mb=reserved_memory_mb, disk_mb=reserved_disk_mb))
    assert read is not None
    return read


def begin(
    number: int = 1,
    *,
    limits: Mapping[str, Any] | None = None,
    timeout: int = TIMEOUT,
    capacity_limits: bool = False,
    more: Mapping[str, Any] | None = None,
    **fields: Any,
) -> BeginClaim:
    """A command that begins a claim for ``instance_dict(number, **fields)``; the field ``node`` names the node; ``more`` are
    other fields of the command."""
    described = instance_dict(number, **fields)
    return BeginClaim(
        instance=read_instance(described),
        limits=read_limits(limits),
        timeout=timeout,
        node=read_node(described),
        capacity_limits=capacity_limits,
        **(more or {}),
    )


def update(number: int = 1, *, noted: bool = False, **fields: Any) -> UpdateUsage:
    """An update of the ``number``-th instance that carries these fields and no others; ``noted``: its deletion is remembered
    if it is not charged."""
    described = {"uuid": uuid(number), **fields}
    changes = read_changes(described)
    return UpdateUsage(uuid=uuid(number), changes=changes, node=read_node(described), notes_deletions=noted)


def host_ledger(nodes: int = 1, *, disabled: bool = False, reported: Inventory | None = None) -> HostLedger:
    """A host with nodes ``node-1`` ... that have reported and committed their inventory; ``disabled``: that none is
    supported."""
    host = HostLedger(id=1, name=HOST, ledger_id=LEDGER_ID)
    for number in range(1, nodes + 1):
        name = node_name(number)
        host.nodes[name] = NodeLedger(id=number, host=HOST, name=name, stream_id=number, ledger_id=LEDGER_ID)
        play(host, ReportNode(node=name, inventory=None if disabled else reported or inventory()))
    return host


def play(host: HostLedger, command: Command, now: int = NOW) -> Decision:
    """Decide ``command``, apply its events and mark them as committed."""
    decision = put(host, command, now)
    for ledger in host:
        ledger.committed()
    return decision


def put(host: HostLedger, command: Command, now: int = NOW) -> Decision:
    """Decide ``command`` and apply its events without a commit."""
    decision = planned(host, command, now)
    for ledger, event in decision.events:
        ledger.apply(event)
    return decision


def planned(host: HostLedger, command: Command, now: int = NOW) -> Decision:
    """Decide ``command`` and apply nothing."""
    return decide(host, command, now, new_ids(host))


def refused(host: HostLedger, command: Command, error: type[TrackerError], **facts: Any) -> TrackerError:
    """Assert that ``command`` is refused with these facts in its error, without an event and without a change of a ledger."""
    before = [snapshot(ledger) for ledger in host]
    decision = play(host, command)
    assert type(decision.error) is error
    assert decision.events == ()
    assert decision.reply is None
    assert [snapshot(ledger) for ledger in host] == before
    assert {name: decision.error.kwargs[name] for name in facts} == facts
    return decision.error


def happened(decision: Decision) -> list[Event]:
    """The events of a decision, without their ledgers."""
    return [event for _, event in decision.events]


def claim_id(host: HostLedger, number: int = 1) -> str:
    """The id of the claim by which the ``number``-th instance is charged."""
    ledger = host.holding(uuid(number))
    assert ledger is not None
    return ledger.allocations[uuid(number)].claim_id


def new_ids(host: HostLedger) -> NewId:
    """Makes ids for one decision; equal ledgers of one host get equal ones."""
    numbers = itertools.count((host.id - 1 << 40) + 1000 * sum(ledger.generation % 2**20 for ledger in host))
    return lambda at: uuid7(at, next(numbers))


def snapshot(ledger: NodeLedger) -> dict[str, Any]:
    """The whole state of a ledger. The returned dict shares no mutable object with the ledger."""
    state = {name: getattr(ledger, name) for name in NodeLedger.__slots__}
    for name in (
        "allocations",
        "begun",
        "claims",
        "closed",
        "deletions",
        "left",
        "moves",
        "moving",
        "noted",
        "recorded",
        "touched",
    ):
        state[name] = copy.copy(state[name])
    state["segments"] = tuple(ledger.segments.cuts), tuple(ledger.segments.added)
    state["stats"] = ledger.stats.to_dict()
    state["projects"] = {project: (held.instances, held.resources) for project, held in ledger.projects.items()}
    # These parts of frozen values are mutable.
    state["facts"] = copy.deepcopy(ledger.inventory and ledger.inventory.facts)
    state["described"] = copy.deepcopy(
        [(held.uuid, held.instance.image_meta, held.instance.metadata) for held in ledger.allocations.values()]
    )
    state["described"].sort(key=lambda described: described[0])
    return state


def rebuilt(ledger: NodeLedger) -> NodeLedger:
    """The ledger that a store would load after everything in ``ledger`` was committed."""
    again = NodeLedger(
        id=ledger.id,
        host=ledger.host,
        name=ledger.name,
        host_id=ledger.host_id,
        stream_id=ledger.stream_id,
        ledger_id=ledger.ledger_id,
        generation=ledger.generation,
        sequence=ledger.sequence,
        last_at=ledger.last_at,
    )
    again.life, again.inventory, again.periods = ledger.life, ledger.inventory, ledger.periods
    again.deletions.update(ledger.deletions)
    for move in ledger.moves.values():
        again.restore_move(move)
    for allocation in (*ledger.allocations.values(), *ledger.moving.values()):
        again.restore(allocation)
    return again
