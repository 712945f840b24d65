# SPDX-License-Identifier: Apache-2.0
"""Resource classes, and vectors with an amount of each class.

There are three standard classes, which every node and every instance has, and custom classes, which the inventory of a node
declares. doc/contributor/howto.md lists what a new standard class needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from operator import add, sub

import msgspec

# The largest integer that every JSON reader keeps exact (RFC 8259, section 6: IEEE 754 doubles).
MAX_AMOUNT = 2**53
# The largest sum of such amounts that is granted; databases keep signed integers of 64 bits.
MAX_USAGE = 2**62


class ResourceClass(msgspec.Struct, frozen=True, kw_only=True):
    """A standard class: one kind of resource, and its names in requests and answers.

    ``sizes`` are the attributes of an instance whose sum is requested; ``limit`` is the key in a caller's limits; ``total``,
    ``used`` and ``free`` are the keys of a node view (``free`` is empty if the view has no such key).
    """

    name: str
    unit: str
    sizes: tuple[str, ...]
    limit: str
    total: str
    used: str
    free: str = ""


VCPU = ResourceClass(name="VCPU", unit="", sizes=("vcpus",), limit="vcpu", total="vcpus", used="vcpus_used")
MEMORY_MB = ResourceClass(
    name="MEMORY_MB",
    unit="MB",
    sizes=("memory_mb",),
    limit="memory_mb",
    total="memory_mb",
    used="memory_mb_used",
    free="free_ram_mb",
)
DISK_GB = ResourceClass(
    name="DISK_GB",
    unit="GB",
    sizes=("root_gb", "ephemeral_gb", "swap_gb"),
    limit="disk_gb",
    total="local_gb",
    used="local_gb_used",
    free="free_disk_gb",
)

CLASSES: tuple[ResourceClass, ...] = (VCPU, MEMORY_MB, DISK_GB)
SIZES = ("vcpus", "memory_mb", "root_gb", "ephemeral_gb")
"""The fields of an instance that give its sizes, all of which a claim must have."""
STANDARD = tuple(cls.name for cls in CLASSES)
"""The names of the standard classes."""
_INDEX = {name: index for index, name in enumerate(STANDARD)}

Custom = tuple[tuple[str, int], ...]
"""The amounts of custom classes: pairs of name and amount in the order of the names, without those whose amount is 0."""


def custom_of(amounts: Mapping[str, int]) -> Custom:
    """The custom classes among ``amounts`` by class name."""
    return tuple(sorted((name, amount) for name, amount in amounts.items() if amount and name not in _INDEX))


class Resources(msgspec.Struct, frozen=True):
    """An immutable vector of integers: one amount per standard class in the order of ``CLASSES``, and the amounts of custom
    classes. Most vectors have none of the latter, and cost nothing for them."""

    amounts: tuple[int, ...]
    custom: Custom = ()

    @classmethod
    def of(cls, amounts: Mapping[str, int]) -> Resources:
        """A vector from amounts by class name. A class that ``amounts`` does not name has the amount 0."""
        return cls(tuple([amounts.get(name, 0) for name in STANDARD]), custom_of(amounts))

    @classmethod
    def collect(cls, amount_of: Callable[[ResourceClass], int]) -> Resources:
        """A vector with ``amount_of(klass)`` for each standard class."""
        return cls(tuple(amount_of(klass) for klass in CLASSES))

    def __add__(self, other: Resources) -> Resources:
        amounts = tuple(map(add, self.amounts, other.amounts))
        return Resources(amounts, self._combined(add, other)) if self.custom or other.custom else Resources(amounts)

    def __sub__(self, other: Resources) -> Resources:
        amounts = tuple(map(sub, self.amounts, other.amounts))
        return Resources(amounts, self._combined(sub, other)) if self.custom or other.custom else Resources(amounts)

    def times(self, factor: int) -> Resources:
        """The vector with each amount multiplied."""
        custom = tuple([(name, amount * factor) for name, amount in self.custom]) if factor else ()
        return Resources(tuple([amount * factor for amount in self.amounts]), custom)

    def _combined(self, combine: Callable[[int, int], int], other: Resources) -> Custom:
        amounts = dict(self.custom)
        for name, amount in other.custom:
            amounts[name] = combine(amounts.get(name, 0), amount)
        return custom_of(amounts)

    def __getitem__(self, name: str) -> int:
        index = _INDEX.get(name)
        return dict(self.custom).get(name, 0) if index is None else self.amounts[index]

    def items(self) -> Iterator[tuple[str, int]]:
        """The name and the amount of each standard class, and of each custom class whose amount is not 0."""
        yield from zip(STANDARD, self.amounts, strict=True)
        yield from self.custom

    def to_dict(self) -> dict[str, int]:
        """The amounts by class name; custom classes whose amount is 0 are left out."""
        amounts = dict(zip(STANDARD, self.amounts, strict=True))
        if self.custom:
            amounts.update(self.custom)
        return amounts


@lru_cache(maxsize=4096)
def shared(amounts: tuple[int, ...], custom: Custom = ()) -> Resources:
    """A vector of these amounts. Equal amounts share one object, because instances come in few sizes."""
    return Resources(amounts, custom)


ZERO = Resources((0,) * len(CLASSES))
