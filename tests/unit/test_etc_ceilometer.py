# SPDX-License-Identifier: Apache-2.0
"""The files of etc/ceilometer fit the event types and the schemas. ``tox -e billing`` shows that Ceilometer takes them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.support.doc_pages import DOC, ROOT, blocks, section
from tracker_worker.notifications import schema

ETC = ROOT / "etc" / "ceilometer"
PAGE = DOC / "user" / "billing-with.md"
EVENTS: list[dict[str, Any]] = yaml.safe_load((ETC / "event_definitions.yaml").read_text(encoding="utf-8"))
METERS: list[dict[str, Any]] = yaml.safe_load((ETC / "meters.yaml").read_text(encoding="utf-8"))["metric"]
# What Ceilometer packages, in its version 27, has these names, and takes one definition for each.
PACKAGED = {"memory", "vcpus", "disk.root.size", "disk.ephemeral.size", "compute.instance.booting.time"}
# A caller's image_meta and metadata have any keys; the other names are keys of Ceilometer's form of a notification.
_ANYTHING = ("payload.image_meta.", "event_type", "publisher_id", "metadata.message_id")
TYPES = {"int": "integer", "datetime": "string", "text": "string"}


def properties(event_type: str) -> dict[str, Any]:
    """The keys of a payload, with their schemas."""
    published = schema.load(f"{event_type}.json")
    bases = [schema.load(base["$ref"]) for base in published.get("allOf", [])]
    return {key: rules for one in (*bases, published) for key, rules in one.get("properties", {}).items()}


def definition(event_type: str) -> dict[str, Any]:
    """The definition that Ceilometer uses: the last one that matches."""

    def patterns(one: dict[str, Any]) -> list[str]:
        named = one["event_type"]
        return [named] if isinstance(named, str) else named

    return [one for one in EVENTS if any(fnmatch.fnmatch(event_type, each) for each in patterns(one))][-1]


def meters(event_type: str) -> list[dict[str, Any]]:
    return [meter for meter in METERS if re.match(meter["event_type"], event_type)]


def paths(value: Any) -> Iterator[str]:
    """The paths in the values of a meter, without their root."""
    if isinstance(value, dict):
        for item in value.values():
            yield from paths(item)
    elif isinstance(value, str):
        yield from re.findall(r"\$\.([\w.\[\]]+)", value)


def check_path(event_type: str, path: str) -> Any:
    """The schema of what a path leads to; None for what a caller has chosen. Raises AssertionError: there is no such key."""
    if path.startswith(_ANYTHING):
        return None
    root, *keys = re.findall(r"\w+", path)
    assert root == "payload"
    rules: Any = {"properties": properties(event_type)}
    for key in keys:
        rules = _below(rules, key)
        assert rules is not None, f"{event_type} has no {path}"
    return rules


def _below(rules: dict[str, Any], key: str) -> Any:
    if key.isdecimal():
        return rules["items"]
    if key in rules.get("properties", ()):
        return rules["properties"][key]
    return rules["additionalProperties"] if key in rules.get("required", ()) else None


@pytest.mark.parametrize("event_type", sorted(schema.event_types()))
def test_every_event_type_has_a_definition_of_its_own_whose_fields_exist(event_type: str) -> None:
    used = definition(event_type)
    assert used is not EVENTS[0], "only what matches everything matches it"
    for name, trait in used["traits"].items():
        rules = check_path(event_type, trait["fields"])
        if rules is not None and "type" in rules:
            kinds = rules["type"] if isinstance(rules["type"], list) else [rules["type"]]
            assert TYPES[trait.get("type", "text")] in kinds, name


@pytest.mark.parametrize("event_type", sorted(schema.event_types()))
def test_a_meter_reads_what_its_notification_has(event_type: str) -> None:
    for meter in meters(event_type):
        for path in paths({key: value for key, value in meter.items() if key != "event_type"}):
            check_path(event_type, path)


def test_a_charge_is_read_where_one_is_told_and_never_from_a_move() -> None:
    by_name = {
        meter["name"]: {event_type for event_type in schema.event_types() if meter in meters(event_type)}
        for meter in METERS
    }
    charges = {
        *(f"tracker.claim.{name}" for name in ("begun", "renewed", "finished", "aborted", "expired")),
        *(f"tracker.usage.{name}" for name in ("updated", "adopted", "released")),
    }
    sizes = ("vcpu", "memory_mb", "disk_gb")
    assert by_name == {
        **{f"tracker.{size}": charges for size in sizes},
        **{f"tracker.{what}_seconds": {"tracker.usage.exists"} for what in ("instance", *sizes)},
        "tracker.period.exists": {"tracker.period.closed"},
    }


def test_every_meter_has_one_definition_and_a_name_of_its_own() -> None:
    names = [meter["name"] for meter in METERS]
    assert len(names) == len(set(names))
    assert not PACKAGED & set(names)


def test_every_sample_of_an_instance_has_an_owner() -> None:
    for meter in METERS:
        if meter["name"] != "tracker.period.exists":
            assert (meter["project_id"], meter["user_id"]) == ("$.payload.tenant_id", "$.payload.user_id")
            assert meter["resource_id"] == "$.payload.instance_id"


@pytest.mark.parametrize(("name", "key"), [("pipeline.yaml", "meters"), ("event_pipeline.yaml", "events")])
def test_the_pipelines_take_everything_of_the_tracker(name: str, key: str) -> None:
    pipeline = yaml.safe_load((ETC / name).read_text(encoding="utf-8"))
    [source], [sink] = pipeline["sources"], pipeline["sinks"]
    assert source["sinks"] == [sink["name"]]
    for taken in schema.event_types() if key == "events" else (meter["name"] for meter in METERS):
        assert any(fnmatch.fnmatch(taken, pattern) for pattern in source[key])


def test_the_page_names_every_meter_and_every_file() -> None:
    text = section(PAGE, "Ceilometer")
    assert set(re.findall(r"`(tracker\.(?!claim|usage|move|period\.closed)[\w.]+)`", text)) == {
        meter["name"] for meter in METERS
    }
    for path in ETC.iterdir():
        assert f"(../../etc/ceilometer/{path.name})" in text


def test_the_configuration_on_the_page_is_yaml() -> None:
    found = blocks(PAGE, "yaml")
    assert len(found) == 4
    for block in found:
        assert isinstance(yaml.safe_load(block.text), dict)
