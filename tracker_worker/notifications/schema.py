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


@functools.cache
def validator(event_type: str) -> Callable[[dict[str, Any]], Any]:
    """The check of a payload of that event type. It raises ValidationError."""
    check: Callable[[dict[str, Any]], Any] = fastjsonschema.compile(
        load(f"{event_type}.json"), handlers={"": load}, use_default=False
    )
    return check
