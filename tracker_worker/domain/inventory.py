# SPDX-License-Identifier: Apache-2.0
"""The inventory of a node, as its driver reports it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.classes import ClassInventory, read_classes
from tracker_worker.domain.resources import DISK_GB, MEMORY_MB, STANDARD, VCPU, Resources
from tracker_worker.domain.values import plain, read_amount, read_name
from tracker_worker.errors import InvalidInput

# The keys that a driver's answer must contain. The ledger does not use the driver's *_used figures, because it would
# count twice an instance that the hypervisor has already built.
REQUIRED = ("vcpus", "memory_mb", "local_gb", "cpu_info", "vcpus_used", "memory_mb_used", "local_gb_used")
OPTIONAL = ("hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least")
FACTS = ("cpu_info", *OPTIONAL)
CLASSES_KEY = "resources"
"""The optional key under which a driver declares resource classes."""


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """What a node has, by resource class: each standard one and each custom one that the driver declares; and the other facts
    that the driver reports (``FACTS``). ``Inventory.of`` makes one.

    The rest follows from ``classes`` and is kept because claims ask for it: ``total`` and ``reserved`` as vectors;
    ``ceilings``: class -> its capacity as a limit; ``restricts``: whether there is a standard class of which not every amount
    may be asked.
    """

    classes: Mapping[str, ClassInventory]
    facts: Mapping[str, Any]
    total: Resources
    reserved: Resources
    ceilings: Mapping[str, int]
    restricts: bool

    @classmethod
    def of(cls, classes: Mapping[str, ClassInventory], facts: Mapping[str, Any]) -> Inventory:
        """The inventory of these classes, the standard ones among them, and these facts."""
        return cls(
            classes=classes,
            facts=facts,
            total=Resources.of({name: each.total for name, each in classes.items()}),
            reserved=Resources.of({name: each.reserved for name, each in classes.items()}),
            ceilings={name: each.ceiling for name, each in classes.items()},
            restricts=not all(classes[name].takes_any for name in STANDARD),
        )


def reserve(*, vcpus: int = 0, memory_mb: int, disk_mb: int) -> Resources:
    """The host's reserve as a vector. ``disk_mb`` is rounded up to GB."""
    return Resources.of({VCPU.name: vcpus, MEMORY_MB.name: memory_mb, DISK_GB.name: -(-disk_mb // 1024)})


def read_inventory(resource: Mapping[str, Any] | None, reserved: Resources) -> Inventory | None:
    """The inventory in a driver's answer, with this reserve of the classes for which the answer says none. A falsy answer means
    "not supported" and gives None.

    Raises InvalidInput: keys are missing (``field`` names all of them), a total is not a size, a class is wrong (``field`` is
    its path, ``resources.VGPU``), a fact is not JSON.
    """
    if not resource:
        return None
    missing = [key for key in REQUIRED if key not in resource]
    if missing:
        raise InvalidInput(field=", ".join(missing), reason="missing in what the inventory driver returned")
    total = Resources.collect(lambda klass: read_amount(klass.total, resource[klass.total]))
    facts = {key: plain(key, resource[key]) for key in FACTS if key in resource}
    classes = read_classes(CLASSES_KEY, resource.get(CLASSES_KEY), totals=total, reserved=reserved)
    return Inventory.of(classes, facts)


def read_node_name(name: object) -> str:
    """The name of a node as a driver or an operator gives it. Raises InvalidInput: it is not a text of 1 to 255 characters, or
    has control characters."""
    text = read_name("node", name)
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise InvalidInput(field="node", reason="must not have control characters")
    return text
