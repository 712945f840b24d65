# SPDX-License-Identifier: Apache-2.0
"""The published JSON Schemas (draft 7), one per event type, and the check of a payload against its schema."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import fastjsonschema

ValidationError = fastjsonschema.JsonSchemaValueException

_FOLDER = resources.files(__package__).joinpath("schemas")


class InvalidPayload(Exception):
    """A payload of this worker does not match its schema. This is a defect of the worker; the payload must not be published."""


def load(name: str) -> dict[str, Any]:
    """The content of the schema file with that name, as published."""
    schema: dict[str, Any] = json.loads(_FOLDER.joinpath(name).read_text("utf-8"))
    return schema


def event_types() -> frozenset[str]:
    """Every event type that has a schema, and so every one that is published."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return frozenset(name.removesuffix(".json") for name in names if name.startswith("tracker."))


_MOST_SHAPES = 1024
_seen: set[tuple[object, ...]] = set()


def check(event_type: str, payload: dict[str, Any]) -> None:
    """Check a payload against the schema of its event type, unless there has been one with the same keys and types of values: a
    check takes longer than everything else that makes a payload, and the values are those that the readers of requests let
    through. Any thread.

    Raises InvalidPayload.
    """
    shape = (event_type, *payload, *map(type, payload.values()))
    if shape in _seen:
        return
    try:
        validator(event_type)(payload)
    except ValidationError as error:
        raise InvalidPayload(f"{event_type}: {error.message}") from error
    if len(_seen) < _MOST_SHAPES:
        _seen.add(shape)


@functools.cache
def validator(event_type: str) -> Callable[[dict[str, Any]], Any]:
    """The check of a payload of that event type. It raises ValidationError."""
    check: Callable[[dict[str, Any]], Any] = fastjsonschema.compile(
        load(f"{event_type}.json"), handlers={"": load}, use_default=False
    )
    return check
