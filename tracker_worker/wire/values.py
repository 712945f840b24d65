# SPDX-License-Identifier: Apache-2.0
"""How many values a message has, counted in its bytes before it is built.

A message of one megabyte can become a hundred: an empty object is one byte in msgpack and three in JSON, and ninety in memory.
Only messages that could have too many values are looked through, and no further than until they have too many.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# A JSON text has at most one value or key for each of these outside of its strings, and one more.
_MARKS = (b",", b":", b"[", b"{")
_TEXT_MARKS = tuple(mark.decode() for mark in _MARKS)
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|([,:\[{])', re.DOTALL)
_TEXT_TOKEN = re.compile(_TOKEN.pattern.decode(), re.DOTALL)

# msgpack specification, "Formats": how many bytes follow the first byte of a value that has no further length.
_FIXED = {0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2, 0xD2: 4, 0xD3: 8}
_FIXED |= {0xD4: 2, 0xD5: 3, 0xD6: 5, 0xD7: 9, 0xD8: 17, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_FIXED |= {0xA0 + size: size for size in range(32)}
_SKIPPED = tuple(1 + _FIXED.get(first, 0) for first in range(256))
# The bytes of the length that follows the first byte, and how many bytes follow the length beside those that it counts.
_COUNTED = {0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0), 0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)}
_COUNTED |= {0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)}


def json_values_exceed(text: bytes | str, most: int) -> bool:
    """Whether a JSON text has more than ``most`` values and keys."""
    if len(text) <= most:
        return False
    tokens: Iterator[re.Match[Any]]
    if isinstance(text, str):
        marks = sum(map(text.count, _TEXT_MARKS))
        tokens = _TEXT_TOKEN.finditer(text)
    else:
        marks = sum(map(text.count, _MARKS))
        tokens = _TOKEN.finditer(text)
    if marks < most:
        return False
    count = 1
    for token in tokens:
        count += token.lastindex is not None  # it is no string
        if count > most:
            return True
    return False


def packed_values_exceed(body: bytes, most: int) -> bool:
    """Whether a msgpack message has more than ``most`` values and keys."""
    if len(body) <= most:
        return False
    position, count = 0, 0
    while position < len(body):
        count += 1
        if count > most:
            return True
        first = body[position]
        if first in _COUNTED:
            width, more = _COUNTED[first]
            position += 1 + width + more + int.from_bytes(body[position + 1 : position + 1 + width], "big")
        else:
            position += _SKIPPED[first]
    return False
