# SPDX-License-Identifier: Apache-2.0
"""Resource classes, and vectors with an amount of each class. doc/contributor/howto.md lists what a new class needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import add, sub

import msgspec

# The largest integer that every JSON reader keeps exact (RFC 8259, section 6: IEEE 754 doubles).
MAX_AMOUNT = 2**53
# The largest sum of such amounts that is granted; databases keep signed integers of 64 bits.
MAX_USAGE = 2**62


class ResourceClass(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of resource, and its names in requests and answers.

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
_NAMES = tuple(cls.name for cls in CLASSES)
_INDEX = {name: index for index, name in enumerate(_NAMES)}


class Resources(msgspec.Struct, frozen=True):
    """An immutable vector of integers, one amount per resource class in the order of ``CLASSES``."""

    amounts: tuple[int, ...]

    @classmethod
    def of(cls, amounts: Mapping[str, int]) -> Resources:
        """A vector from amounts by class name. A class that ``amounts`` does not name has the amount 0."""
        return cls(tuple([amounts.get(name, 0) for name in _NAMES]))

    @classmethod
    def collect(cls, amount_of: Callable[[ResourceClass], int]) -> Resources:
        """A vector with ``amount_of(klass)`` for each class."""
        return cls(tuple(amount_of(klass) for klass in CLASSES))

    def __add__(self, other: Resources) -> Resources:
        return Resources(tuple(map(add, self.amounts, other.amounts)))

    def __sub__(self, other: Resources) -> Resources:
        return Resources(tuple(map(sub, self.amounts, other.amounts)))

    def __getitem__(self, name: str) -> int:
        return self.amounts[_INDEX[name]]

    def to_dict(self) -> dict[str, int]:
        """The amounts by class name."""
        return dict(zip(_NAMES, self.amounts, strict=True))


@lru_cache(maxsize=4096)
def shared(amounts: tuple[int, ...]) -> Resources:
    """A vector of these amounts. Equal amounts share one object, because instances come in few sizes."""
    return Resources(amounts)


ZERO = Resources((0,) * len(CLASSES))
