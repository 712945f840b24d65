# SPDX-License-Identifier: Apache-2.0
"""What a node has of each resource class and how it hands it out, and the names of custom classes.

The keys and their meaning are those of an inventory record of a placement service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tracker_worker.domain.resources import CLASSES, MAX_AMOUNT, STANDARD, Custom, Resources, custom_of
from tracker_worker.domain.values import MAX_FIELD_BYTES, MAX_TEXT, floored, read_amount, read_mapping, read_number
from tracker_worker.errors import InvalidInput

MOST_CLASSES = 256
"""The most custom classes of one node. Its view has them all."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_TOTALS = {klass.name: klass.total for klass in CLASSES}


class ClassInventory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a node has of one resource class, in its unit.

    ``reserved`` of the ``total`` is kept for the host. An instance may ask for ``min_unit`` to ``max_unit`` (None: no maximum)
    in multiples of ``step_size``, or for nothing.
    """

    total: int
    reserved: int = 0
    allocation_ratio: float = 1.0
    min_unit: int = 1
    max_unit: int | None = None
    step_size: int = 1

    @property
    def capacity(self) -> int:
        """What may be charged to instances. Negative where more is reserved than there is."""
        free, ratio = self.total - self.reserved, self.allocation_ratio
        # A product with a float has 15 digits that are right, one of integers has all.
        return free * int(ratio) if ratio.is_integer() else floored(free * ratio)

    @property
    def ceiling(self) -> int:
        """The capacity as a limit on the total usage, which includes the reserve."""
        return self.capacity + self.reserved

    @property
    def takes_any(self) -> bool:
        """Whether an instance may ask for any amount."""
        return self.min_unit == 1 and self.max_unit is None and self.step_size == 1

    def refusal(self, amount: int) -> str:
        """Why an instance must not ask for ``amount`` (more than 0) whatever is free; '' if it may."""
        if amount < self.min_unit:
            return f"must be at least {self.min_unit} (min_unit)"
        if self.max_unit is not None and amount > self.max_unit:
            return f"must be at most {self.max_unit} (max_unit)"
        if amount % self.step_size:
            return f"must be a multiple of {self.step_size} (step_size)"
        return ""


_KEYS = ClassInventory.__struct_fields__
_UNITS = ("min_unit", "max_unit", "step_size")


def is_class_name(name: object) -> bool:
    """Whether ``name`` can be that of a resource class."""
    return isinstance(name, str) and len(name) <= MAX_TEXT and _NAME.fullmatch(name) is not None


def read_custom(field: str, value: Any, max_bytes: int = MAX_FIELD_BYTES) -> Custom:
    """The amounts of custom classes that an instance asks for, by class name. None gives none; an amount of 0 is left out."""
    amounts = read_mapping(field, value, max_bytes)
    for name, amount in amounts.items():
        if name in STANDARD:
            raise InvalidInput(field=f"{field}.{name}", reason="is asked for by the sizes of the instance")
        _check_name(field, name)
        read_amount(f"{field}.{name}", amount)
    return custom_of(amounts)


def read_classes(field: str, value: Any, *, totals: Resources, reserved: Resources) -> dict[str, ClassInventory]:
    """What a node has of each class: of the standard ones, with these ``totals``, and of the custom ones that ``value``
    declares. ``value`` is an object: class -> total, or an object with keys of ClassInventory; None declares nothing.
    ``reserved`` is what counts where ``value`` does not say it.

    Raises InvalidInput, which names the class: ``<field>.VGPU.max_unit``.
    """
    declared = {} if value is None else value
    if not isinstance(declared, Mapping):
        raise InvalidInput(field=field, reason="must be an object of resource classes")
    for name in declared:
        _check_name(field, name)
    custom = sorted(str.__str__(name) for name in declared if name not in STANDARD)
    if len(custom) > MOST_CLASSES:
        raise InvalidInput(field=field, reason=f"must not have more than {MOST_CLASSES} custom classes")
    classes: dict[str, ClassInventory] = {}
    for name in (*STANDARD, *custom):
        path = f"{field}.{name}"
        given = _given(path, declared.get(name, {}), name)
        if name in STANDARD:
            classes[name] = _read_class(path, given, total=totals[name], reserved=reserved[name], max_unit=None)
        elif "total" not in given:
            raise InvalidInput(field=path, reason="has no total")
        else:
            total = read_amount(f"{path}.total", given["total"])
            classes[name] = _read_class(path, given, total=total, reserved=0, max_unit=total)
    return classes


def _check_name(field: str, name: object) -> None:
    if not is_class_name(name):
        reason = "is no name of a resource class, which has capital letters, digits and underscores, and begins with a letter"
        raise InvalidInput(field=f"{field}.{str(name)[:MAX_TEXT]}", reason=reason)


def _given(path: str, value: Any, name: str) -> dict[str, Any]:
    """The keys that are said of a class."""
    if not isinstance(value, Mapping):
        value = {"total": value}
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        raise InvalidInput(field=path, reason=f"has unknown keys: {', '.join(unknown)}; known are {', '.join(_KEYS)}")
    given = {key: each for key, each in value.items() if each is not None}
    if name in STANDARD and "total" in given:
        raise InvalidInput(field=path, reason=f"must not have a total, which is {_TOTALS[name]}")
    return given


def _read_class(
    path: str, given: Mapping[str, Any], *, total: int, reserved: int, max_unit: int | None
) -> ClassInventory:
    """The inventory of one class; the keyword arguments are what counts where ``given`` does not say it."""
    if "reserved" in given:
        reserved = read_amount(f"{path}.reserved", given["reserved"])
        if reserved > total:
            raise InvalidInput(field=f"{path}.reserved", reason=f"must not be more than the total, {total}")
    ratio = float(read_number(f"{path}.allocation_ratio", given.get("allocation_ratio", 1.0), MAX_AMOUNT))
    if not ratio:
        raise InvalidInput(field=f"{path}.allocation_ratio", reason="must be more than 0")
    units = {key: read_amount(f"{path}.{key}", given[key]) for key in _UNITS if key in given}
    for key, unit in units.items():
        if unit < 1:
            raise InvalidInput(field=f"{path}.{key}", reason="must be at least 1")
    if "max_unit" in units and units["max_unit"] < units.get("min_unit", 1):
        raise InvalidInput(field=f"{path}.max_unit", reason="must not be less than min_unit")
    read = ClassInventory(
        total=total,
        reserved=reserved,
        allocation_ratio=ratio,
        min_unit=units.get("min_unit", 1),
        max_unit=units.get("max_unit", max_unit),
        step_size=units.get("step_size", 1),
    )
    if abs(read.capacity) > MAX_AMOUNT:
        reason = f"must not make a capacity of more than {MAX_AMOUNT}, or of less than its negative"
        raise InvalidInput(field=f"{path}.allocation_ratio", reason=reason)
    return read
