# SPDX-License-Identifier: Apache-2.0
"""Readers of single values that come from outside. Each reader returns the value to keep, or raises InvalidInput with the
path of the field. No reader changes or keeps the object that it was given."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from tracker_worker.domain.resources import MAX_AMOUNT
from tracker_worker.errors import InvalidInput
from tracker_worker.ids import canonical

SECOND = 1_000_000
"""One second in microseconds, the unit of all times in the ledger."""
MAX_TEXT = 255
MAX_DEPTH = 100
MAX_FIELD_BYTES = 65536
"""The most bytes that one field of an instance or one fact of a node has as UTF-8 JSON, unless an option says otherwise."""
# A timeout of more than 68 years is a mistake. This maximum also keeps the expiry date inside the calendar.
MAX_TIMEOUT_SECONDS = 2**31
_INT64 = 2**63
# A day inside of what a calendar has, whatever the offset.
_FIRST_YEAR, _LAST_YEAR = 1971, 9998
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# JSON: the shortest value is one digit and a comma; a text has two quotes, and a comma or a colon behind it.
_SHORTEST_BYTES = 2
_QUOTES_AND_MARK_BYTES = 3
# At most: a number of 24 characters and a comma (-2.2250738585072014e-308), or six bytes for each character of a text.
_MOST_TO_LEAST = 13


def read_amount(field: str, value: Any) -> int:
    """A size: an integer from 0 to 2**53. A bool or a float is refused."""
    if type(value) is not int:
        raise InvalidInput(field=field, reason=f"must be an integer, not {_kind(value)}")
    if not 0 <= value <= MAX_AMOUNT:
        raise InvalidInput(field=field, reason=f"must be between 0 and {MAX_AMOUNT}, not {_short(value)}")
    return value


def read_limit(field: str, value: Any) -> int | None:
    """A ceiling: a number from 0 to 2**53, rounded down. None means no ceiling.

    A float counts with the 15 digits that every float keeps (IEEE 754 double precision), so that 100 * 1.15 is 115.
    """
    if value is None:
        return None
    return floored(read_number(field, value, MAX_AMOUNT))


def floored(number: int | float) -> int:
    """A number rounded down. A float counts with the 15 digits that every float keeps."""
    return math.floor(float(f"{number:.15g}") if isinstance(number, float) else number)


def read_timeout(field: str, value: Any) -> int | None:
    """Seconds, with fractions, as microseconds. None and 0 give None, which stands for the default."""
    if value is None:
        return None
    seconds = read_number(field, value, MAX_TIMEOUT_SECONDS)
    # Only 0 itself stands for the default, not a fraction that rounds to 0.
    return max(1, round(seconds * SECOND)) if seconds else None


def read_number(field: str, value: Any, most: int) -> int | float:
    """A finite number from 0 to ``most``. A bool is refused."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInput(field=field, reason=f"must be a number, not {_kind(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidInput(field=field, reason=f"must be a finite number, not {value}")
    if not 0 <= value <= most:
        raise InvalidInput(field=field, reason=f"must be between 0 and {most}, not {_short(value)}")
    return value


def read_text(field: str, value: Any) -> str:
    """A text of at most 255 characters that every store and every JSON reader can keep, as a plain ``str``."""
    if not isinstance(value, str):
        raise InvalidInput(field=field, reason=f"must be a string, not {_kind(value)}")
    if len(value) > MAX_TEXT:
        raise InvalidInput(field=field, reason=f"must not be longer than {MAX_TEXT} characters")
    if not _storable(value):
        raise InvalidInput(field=field, reason="must be text without NUL characters and lone surrogates")
    return str.__str__(value)


def read_optional_text(field: str, value: Any) -> str | None:
    """A text as ``read_text`` returns it, or None. Equal texts share one object: a ledger repeats few projects and states."""
    return None if value is None else sys.intern(read_text(field, value))


def read_name(field: str, value: Any) -> str:
    """A text as ``read_text`` returns it. An empty text is refused."""
    text = read_text(field, value)
    if not text:
        raise InvalidInput(field=field, reason="must not be empty")
    return text


def read_id(field: str, value: Any) -> str:
    """The id of an instance or a claim: a text as ``read_name`` returns it, in the canonical spelling if it is a UUID.
    White space at its ends is refused."""
    text = read_name(field, value)
    if text != text.strip():
        raise InvalidInput(field=field, reason="must not begin or end with white space")
    return canonical(text)


def read_choice(field: str, value: Any, choices: Sequence[str]) -> str | None:
    """One of ``choices``, or None."""
    if value is not None and (not isinstance(value, str) or value not in choices):
        raise InvalidInput(field=field, reason=f"must be one of {', '.join(choices)}, or null")
    return None if value is None else str.__str__(value)


def read_date(field: str, value: Any) -> str:
    """An ISO 8601 date as the caller gave it. None and '' give ''."""
    if value is None or value == "":
        return ""
    text = read_text(field, value)
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(field=field, reason="must be an ISO 8601 date") from None
    return text


def read_time(field: str, value: Any) -> int | None:
    """An ISO 8601 time as microseconds since the epoch; without an offset it is in UTC. None and '' give None."""
    text = read_date(field, value)
    if not text:
        return None
    at = datetime.fromisoformat(text)
    if not _FIRST_YEAR <= at.year <= _LAST_YEAR:
        raise InvalidInput(field=field, reason=f"must be in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return (at - _EPOCH) // timedelta(microseconds=1)


def read_mapping(field: str, value: Any, max_bytes: int = MAX_FIELD_BYTES) -> dict[str, Any]:
    """A copy of a mapping that holds only JSON values, at most ``max_bytes`` as UTF-8 JSON. None gives {}."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(field=field, reason=f"must be an object, not {_kind(value)}")
    copied = plain(field, value, max_bytes)
    assert isinstance(copied, dict)
    return copied


def plain(field: str, value: Any, max_bytes: int = MAX_FIELD_BYTES) -> Any:
    """A deep copy made of JSON types and not of their subclasses, which stores and encoders do not know.

    Raises InvalidInput: the value has another type, a key that is not a string, a number that is not finite or does not
    fit 64 bits, more than 100 levels of nesting, or more than ``max_bytes`` as UTF-8 JSON.
    """
    copying = _Copying(max_bytes)
    copied = None
    try:
        copied = copying.copy(value, 0)
    except _NotPlain as refused:
        raise InvalidInput(field=f"{field}{refused.path}", reason=refused.reason) from None
    except _TooLarge:
        copying.least = max_bytes + 1
    # Most values are so small that they need not be encoded.
    least = copying.least
    if least > max_bytes or (least * _MOST_TO_LEAST > max_bytes and len(msgspec.json.encode(copied)) > max_bytes):
        raise InvalidInput(field=field, reason=f"must not have more than {max_bytes} bytes as JSON")
    return copied


class _NotPlain(Exception):
    """A value that ``plain`` refuses, and its path within the whole."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = ""


class _TooLarge(Exception):
    """The part of a value that was copied has too many bytes already."""


class _Copying:
    """One deep copy. ``least``: the copied part has at least so many bytes as JSON, and at most ``_MOST_TO_LEAST`` times as
    many. The copy ends as soon as there are too many."""

    __slots__ = ("_max_bytes", "least")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.least = -1  # no comma follows the whole

    def copy(self, value: Any, depth: int) -> Any:
        if isinstance(value, str):
            return self._text(value, "must be text without NUL characters and lone surrogates")
        if value is None or isinstance(value, bool):
            self.least += _SHORTEST_BYTES
            return value
        if isinstance(value, int):
            if not -_INT64 <= value < _INT64:
                raise _NotPlain("must be a number of at most 64 bits")
            self.least += _SHORTEST_BYTES
            return int.__int__(value)
        if isinstance(value, float):
            if not math.isfinite(value):
                raise _NotPlain(f"must be a finite number, not {value}")
            self.least += _SHORTEST_BYTES
            return float.__float__(value)
        if depth >= MAX_DEPTH:
            raise _NotPlain(f"must not be nested deeper than {MAX_DEPTH} levels")
        self.least += _SHORTEST_BYTES
        if self.least > self._max_bytes:
            raise _TooLarge
        if isinstance(value, Mapping):
            return self._mapping(value, depth + 1)
        if isinstance(value, list | tuple):
            return self._sequence(value, depth + 1)
        raise _NotPlain(f"must be a JSON value, not {_kind(value)}")

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        copied = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise _NotPlain("must have keys that are text")
            name = self._text(key, "must have keys that are text")
            try:
                copied[name] = self.copy(item, depth)
            except _NotPlain as refused:
                refused.path = f".{name}{refused.path}"
                raise
        return copied

    def _sequence(self, value: Iterable[Any], depth: int) -> list[Any]:
        copied: list[Any] = []
        try:
            for item in value:
                copied.append(self.copy(item, depth))
                if self.least > self._max_bytes:
                    raise _TooLarge
        except _NotPlain as refused:
            refused.path = f"[{len(copied)}]{refused.path}"
            raise
        return copied

    def _text(self, value: str, otherwise: str) -> str:
        if not _storable(value):
            raise _NotPlain(otherwise)
        self.least += len(value) + _QUOTES_AND_MARK_BYTES
        if self.least > self._max_bytes:
            raise _TooLarge
        return str.__str__(value)


def same(one: Any, other: Any) -> bool:
    """Whether two results of ``plain`` are the same JSON. Unlike ``==``, true differs from 1 at any depth."""
    if one != other or isinstance(one, bool) is not isinstance(other, bool):
        return False
    if isinstance(one, dict):
        return all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return all(map(same, one, other))
    return True


def _storable(text: str) -> bool:
    # PostgreSQL text cannot hold NUL; UTF-8 cannot hold a lone surrogate.
    if "\0" in text:
        return False
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def _short(value: int | float) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    return str(value)
