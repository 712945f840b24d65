# SPDX-License-Identifier: Apache-2.0
"""Whoever has only the published schemas knows what each key means, and in which unit each number is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tracker_worker.notifications import schema

NAMES = sorted(entry.name for entry in schema._FOLDER.iterdir() if entry.name.endswith(".json"))
NUMERIC = {"integer", "number"}
# What a description says of a number: its unit, that it counts something, or that it has no unit.
UNIT = re.compile(
    r"\bIn (MB|GB|whole seconds)\b"
    r"|\bin the unit of the class\b"
    r"|\(units as in (\w+)\)"
    r"|\(VCPU-seconds, MB-seconds, GB-seconds\)"
    r"|\ba count\b|\b[Aa] count from 1\b|\b([Aa]|[Tt]he) number of\b"
    r"|\bwithout a unit\b"
)


def properties_of(name: str) -> dict[str, Any]:
    found: dict[str, Any] = schema.load(name).get("properties", {})
    return found


def described(properties: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """The path, the description and the schema of each property at any depth. What has no name of its own, the items of a list
    and the values of an object, is described with it."""
    for name, each in properties.items():
        yield from _each(f"{path}{name}", each.get("description", ""), each)


def _each(path: str, description: str, each: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    yield path, description, each
    yield from described(each.get("properties", {}), f"{path}.")
    for inner in (each.get("items"), each.get("additionalProperties")):
        if isinstance(inner, Mapping):
            yield from _each(f"{path}[]", inner.get("description", description), inner)


def types(each: Mapping[str, Any]) -> set[str]:
    said = each.get("type", [])
    return {said} if isinstance(said, str) else set(said)


@pytest.mark.parametrize("name", NAMES)
def test_each_property_is_described(name: str) -> None:
    assert [path for path, description, _ in described(properties_of(name)) if not description.endswith(".")] == []


@pytest.mark.parametrize("name", NAMES)
def test_each_number_has_a_unit_or_is_a_count(name: str) -> None:
    numbers = [found for found in described(properties_of(name)) if types(found[2]) & NUMERIC]
    assert [path for path, description, _ in numbers if UNIT.search(description) is None] == []


@pytest.mark.parametrize("name", NAMES)
def test_units_that_are_those_of_another_key_are_found_there(name: str) -> None:
    published = properties_of(name)
    known = {**schema.load("instance.json")["properties"], **published}
    for path, description, _ in described(published):
        for other in re.findall(r"units as in (\w+)", description):
            assert UNIT.search(known[other]["description"]), path
            assert "units as in" not in known[other]["description"], path


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_in_the_name_of_a_key_is_that_of_its_description(name: str) -> None:
    for key, each in properties_of(name).items():
        for unit in re.findall(r"_(mb|gb)(?:_|$)", key):
            assert f"In {unit.upper()}" in each["description"], key
