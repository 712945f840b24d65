# SPDX-License-Identifier: Apache-2.0
"""Readers of single values that come from outside. Each reader returns the value to keep, or raises InvalidInput with the
path of the field. No reader changes or keeps the object that it was given."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tracker_worker.domain.resources import MAX_AMOUNT
from tracker_worker.errors import InvalidInput

SECOND = 1_000_000
"""One second in microseconds, the unit of all times in the ledger."""
MAX_TEXT = 255
MAX_DEPTH = 100
# A timeout of more than 68 years is a mistake. This maximum also keeps the expiry date inside the calendar.
MAX_TIMEOUT_SECONDS = 2**31
_INT64 = 2**63


def read_amount(field: str, value: Any) -> int:
    """A size: an integer from 0 to 2**53. A bool or a float is refused."""
    if type(value) is not int:
        raise InvalidInput(field=field, reason=f"must be an integer, not {_kind(value)}")
    if not 0 <= value <= MAX_AMOUNT:
        raise InvalidInput(field=field, reason=f"must be between 0 and {MAX_AMOUNT}, not {_short(value)}")
    return value


def read_limit(field: str, value: Any) -> int | None:
    """A ceiling: a number from 0 to 2**53, rounded down. None means no ceiling."""
    if value is None:
        return None
    return math.floor(_read_number(field, value, MAX_AMOUNT))


def read_timeout(field: str, value: Any) -> int | None:
    """Seconds, with fractions, as microseconds. None and 0 give None, which stands for the default."""
    if value is None:
        return None
    seconds = _read_number(field, value, MAX_TIMEOUT_SECONDS)
    # Only 0 itself stands for the default, not a fraction that rounds to 0.
    return max(1, round(seconds * SECOND)) if seconds else None


def _read_number(field: str, value: Any, most: int) -> int | float:
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


def read_mapping(field: str, value: Any) -> dict[str, Any]:
    """A copy of a mapping that holds only JSON values. None gives {}."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(field=field, reason=f"must be an object, not {_kind(value)}")
    copied = plain(field, value)
    assert isinstance(copied, dict)
    return copied


def plain(field: str, value: Any, depth: int = 0) -> Any:
    """A deep copy made of JSON types and not of their subclasses, which stores and encoders do not know.

    Raises InvalidInput: the value has another type, a key that is not a string, a number that is not finite or does not
    fit 64 bits, or more than 100 levels of nesting.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        if not _storable(value):
            raise InvalidInput(field=field, reason="must be text without NUL characters and lone surrogates")
        return str.__str__(value)
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise InvalidInput(field=field, reason="must be a number of at most 64 bits")
        return int.__int__(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise InvalidInput(field=field, reason=f"must be a finite number, not {value}")
        return float.__float__(value)
    if depth >= MAX_DEPTH:
        raise InvalidInput(field=field, reason=f"must not be nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        copied = {}
        for key, item in value.items():
            if not isinstance(key, str) or not _storable(key):
                raise InvalidInput(field=field, reason="must have keys that are text")
            copied[str.__str__(key)] = plain(f"{field}.{key}", item, depth + 1)
        return copied
    if isinstance(value, list | tuple):
        return [plain(f"{field}[{index}]", item, depth + 1) for index, item in enumerate(value)]
    raise InvalidInput(field=field, reason=f"must be a JSON value, not {_kind(value)}")


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
