# SPDX-License-Identifier: Apache-2.0
"""What a node has, as its driver reported it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.resources import DISK_GB, MEMORY_MB, Resources
from tracker_worker.domain.values import plain, read_amount
from tracker_worker.errors import InvalidInput

# What a driver must return, by presence; its own *_used figures are not used (an instance that the hypervisor has
# already realised would be counted twice).
REQUIRED = ("vcpus", "memory_mb", "local_gb", "cpu_info", "vcpus_used", "memory_mb_used", "local_gb_used")
OPTIONAL = ("hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least")
FACTS = ("cpu_info", *OPTIONAL)


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Totals and the host's reserve per resource class, and what else the driver says of the node (``FACTS``)."""

    total: Resources
    reserved: Resources
    facts: Mapping[str, Any] = msgspec.field(default_factory=dict)


def reserve(*, memory_mb: int, disk_mb: int) -> Resources:
    """The host's reserve; disk is given in MB and rounded up to GB."""
    return Resources.of({MEMORY_MB.name: memory_mb, DISK_GB.name: -(-disk_mb // 1024)})


def read_inventory(resource: Mapping[str, Any] | None, reserved: Resources) -> Inventory | None:
    """From what a driver returned; a falsy answer means "not supported" and is None.

    Raises InvalidInput: keys that are missing, all of them named in ``field``; a total that is no size.
    """
    if not resource:
        return None
    missing = [key for key in REQUIRED if key not in resource]
    if missing:
        raise InvalidInput(field=", ".join(missing), reason="missing in what the inventory driver returned")
    total = Resources.collect(lambda klass: read_amount(klass.total, resource[klass.total]))
    facts = {key: plain(key, resource[key]) for key in FACTS if key in resource}
    return Inventory(total=total, reserved=reserved, facts=facts)
