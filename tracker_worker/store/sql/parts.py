# SPDX-License-Identifier: Apache-2.0
"""Much that is written or read in parts. Any thread may call the function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_Item = TypeVar("_Item")


def parts(
    items: Iterable[_Item], size_of: Callable[[_Item], int], *, most_items: int, most_size: int
) -> Iterator[list[_Item]]:
    """The items in order, in parts of at most ``most_items`` whose sizes add up to at most ``most_size``; an item that is
    larger is a part by itself."""
    part: list[_Item] = []
    size = 0
    for item in items:
        more = size_of(item)
        if part and (len(part) == most_items or size + more > most_size):
            yield part
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield part
