# SPDX-License-Identifier: Apache-2.0
"""An instance as callers describe it. Fields that neither this package nor billing reads are not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec
from msgspec.structs import replace

from tracker_worker.domain.classes import read_custom
from tracker_worker.domain.resources import CLASSES, SIZES, Custom, Resources, shared
from tracker_worker.domain.states import DELETED, VM_STATES
from tracker_worker.domain.values import (
    MAX_FIELD_BYTES,
    read_amount,
    read_date,
    read_id,
    read_mapping,
    read_name,
    read_optional_text,
    same,
)
from tracker_worker.errors import InvalidInput

OWNER = ("project_id", "user_id")
"""The fields that say who is charged."""
# What looks like a resource and is none here: a caller who asks for it would get less than it believes.
_UNSUPPORTED = ("pci_requests", "numa_topology")
_CUSTOM = "resources"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of an instance. Memory and swap are in MB, disk in GB; ``custom`` is what it asks for of custom classes; a
    date is ISO 8601 text, or '' if it is not known."""

    uuid: str
    memory_mb: int
    root_gb: int
    ephemeral_gb: int
    vcpus: int
    swap: int = 0
    custom: Custom = ()
    vm_state: str | None = None
    task_state: str | None = None
    os_type: str | None = None
    project_id: str | None = None
    user_id: str | None = None
    display_name: str | None = None
    instance_type: str | None = None
    instance_flavor_id: str | None = None
    availability_zone: str | None = None
    created_at: str = ""
    launched_at: str = ""
    deleted_at: str = ""
    terminated_at: str = ""
    image_meta: Mapping[str, Any] = msgspec.field(default_factory=dict)
    metadata: Mapping[str, Any] = msgspec.field(default_factory=dict)

    @property
    def resources(self) -> Resources:
        """The vector that a claim charges for this instance."""
        return _vector(_sizes(self), self.custom)

    @property
    def swap_gb(self) -> int:
        """The swap in GB, rounded up. It is on the disk."""
        return -(-self.swap // 1024)

    @property
    def is_deleted(self) -> bool:
        """Whether the instance is gone."""
        return self.vm_state == DELETED

    def changed(self, changes: Mapping[str, Any]) -> Instance:
        """This instance with ``changes`` (a result of ``read_changes``); the same object if the changes change nothing."""
        if all(same(getattr(self, name), value) for name, value in changes.items()):
            return self
        return replace(self, **changes)


_sizes: Callable[[Instance], tuple[int, ...]] = attrgetter(*(size for klass in CLASSES for size in klass.sizes))


@lru_cache(maxsize=4096)  # instances come in few sizes
def _vector(sizes: tuple[int, ...], custom: Custom) -> Resources:
    """The vector of an instance with these ``_sizes``."""
    left = iter(sizes)
    amounts = tuple([sum(islice(left, len(klass.sizes))) for klass in CLASSES])
    return shared(amounts, custom) if custom else shared(amounts)


def _read_vm_state(path: str, value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or value not in VM_STATES):
        known = ", ".join(sorted(VM_STATES))
        raise InvalidInput(field=path, reason=f"must be one of {known}")
    return None if value is None else str.__str__(value)


# Every field that is read, with its reader. The reader gets the path 'instance.<field>'.
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "uuid": read_id,
    **dict.fromkeys(SIZES, read_amount),
    "swap": lambda path, value: 0 if value is None else read_amount(path, value),
    "vm_state": _read_vm_state,
    "task_state": read_optional_text,
    "os_type": read_optional_text,
    "project_id": read_optional_text,
    "user_id": read_optional_text,
    "display_name": read_optional_text,
    "instance_type": read_optional_text,
    "instance_flavor_id": read_optional_text,
    "availability_zone": read_optional_text,
    "created_at": read_date,
    "launched_at": read_date,
    "deleted_at": read_date,
    "terminated_at": read_date,
    "image_meta": read_mapping,
    "metadata": read_mapping,
}
_READ = tuple((name, f"instance.{name}", reader) for name, reader in _READERS.items() if reader is not read_mapping)
_MAPPINGS = tuple((name, f"instance.{name}") for name, reader in _READERS.items() if reader is read_mapping)


def read_changes(fields: Any, max_field_bytes: int = MAX_FIELD_BYTES) -> dict[str, Any]:
    """The known fields among ``fields``, checked and copied. The result always holds ``uuid``.

    Raises InvalidInput: ``fields`` is not a mapping, has no uuid, asks for a resource that is not tracked, or has a field
    with a wrong type or value, or with more than ``max_field_bytes`` as UTF-8 JSON. (A text is never that long, because it
    has at most 255 characters.)"""
    if not isinstance(fields, Mapping):
        raise InvalidInput(field="instance", reason="must be an object")
    if "uuid" not in fields:
        raise InvalidInput(field="instance.uuid", reason="is missing")
    for name in _UNSUPPORTED:
        if fields.get(name):
            raise InvalidInput(field=f"instance.{name}", reason="is not tracked: nothing would be claimed for it")
    changes = {name: reader(path, fields[name]) for name, path, reader in _READ if name in fields}
    for name, path in _MAPPINGS:
        if name in fields:
            changes[name] = read_mapping(path, fields[name], max_field_bytes)
    if _CUSTOM in fields:
        changes["custom"] = read_custom(f"instance.{_CUSTOM}", fields[_CUSTOM], max_field_bytes)
    return changes


def read_instance(fields: Any, max_field_bytes: int = MAX_FIELD_BYTES) -> Instance:
    """A complete instance. Raises InvalidInput: the situations of ``read_changes``, and a size is missing."""
    changes = read_changes(fields, max_field_bytes)
    for size in SIZES:
        if size not in changes:
            raise InvalidInput(field=f"instance.{size}", reason="is missing")
    return Instance(**changes)


def read_node(fields: Any) -> str | None:
    """The node that the ``fields`` of an instance name, or None. Raises InvalidInput: the name is not text, or is empty."""
    node = fields.get("node")
    return None if node is None else read_name("instance.node", node)


def owned(instance: Instance, context: Mapping[str, Any], *, required: bool) -> Instance:
    """The instance with the owner that it says itself, else that of the request's ``context``.

    Raises InvalidInput: a project is ``required``, and neither says one; the context says something that is no text."""
    owner = owner_of(instance.project_id, instance.user_id, context)
    if required and not owner["project_id"]:
        raise InvalidInput(
            field="instance.project_id", reason="is missing, in the context too: nobody would be charged"
        )
    return instance.changed(owner)


def owner_of(project_id: str | None, user_id: str | None, context: Mapping[str, Any]) -> dict[str, str | None]:
    """What the instance says itself, else what the context of the request says (oslo.context 6.5 puts the user's id under
    'user'). Raises InvalidInput: the context says something that is no text."""
    project = project_id or context.get("project_id") or context.get("tenant") or context.get("project")
    user = user_id or context.get("user_id") or context.get("user")
    return {
        "project_id": read_optional_text("context.project_id", project),
        "user_id": read_optional_text("context.user_id", user),
    }
