# SPDX-License-Identifier: Apache-2.0
"""Instance states as data: which states exist, which states only a built instance has, which states mean heavy I/O.

The names are those of the compute service of 2012 (``compute.vm_states``, ``compute.task_states``), and the newer names
``shelved`` and ``shelved_offloaded``.
"""

from __future__ import annotations

VM_STATES = frozenset(
    {
        "active",
        "building",
        "paused",
        "suspended",
        "stopped",
        "rescued",
        "resized",
        "soft-delete",
        "deleted",
        "error",
        "shelved",
        "shelved_offloaded",
    }
)

TASK_STATES = frozenset(
    {
        "scheduling",
        "block_device_mapping",
        "networking",
        "spawning",
        "image_snapshot",
        "image_backup",
        "updating_password",
        "resize_prep",
        "resize_migrating",
        "resize_migrated",
        "resize_finish",
        "resize_reverting",
        "resize_confirming",
        "rebooting",
        "rebooting_hard",
        "pausing",
        "unpausing",
        "suspending",
        "resuming",
        "stopping",
        "starting",
        "powering-off",
        "powering-on",
        "rescuing",
        "unrescuing",
        "rebuilding",
        "rebuild_block_device_mapping",
        "rebuild_spawning",
        "migrating",
        "deleting",
    }
)

DELETED = "deleted"
SHELVED_OFFLOADED = "shelved_offloaded"

RELEASING = {DELETED: True, SHELVED_OFFLOADED: False}
"""The vm states whose report releases what an instance is charged, and whether this holds also for an instance that is in the
state already: a claim of an offloaded instance is an unshelve, and a repeated report says nothing new."""

UNBUILT = frozenset({None, "building", "error", "shelved", SHELVED_OFFLOADED})
"""An instance that is reported in another vm state than these has been built."""

IO_VM_STATES = frozenset({"building"})
IO_TASK_STATES = frozenset({"resize_migrating", "rebuilding", "resize_prep", "image_snapshot", "image_backup"})
