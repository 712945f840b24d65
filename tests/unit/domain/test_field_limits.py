# SPDX-License-Identifier: Apache-2.0
"""The size of a pass-through field is bounded, measured as UTF-8 JSON, and a value over the limit is not even copied."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.support.builders import driver_resource_dict, instance_dict, resources
from tests.support.memory import measure
from tracker_worker.domain import values
from tracker_worker.domain.instance import read_changes, read_instance
from tracker_worker.domain.inventory import read_inventory
from tracker_worker.domain.values import MAX_FIELD_BYTES, plain, read_mapping
from tracker_worker.errors import InvalidInput

WORST = ["x", '"', "\\", "\x01", "é", "\u2028", "\U0001f600", "\x7f"]


def size(value: Any) -> int:
    return len(msgspec.json.encode(value))


def refusal(read: Callable[..., Any], *args: Any) -> dict[str, Any]:
    with pytest.raises(InvalidInput) as caught:
        read(*args)
    return caught.value.kwargs


@pytest.mark.parametrize("char", WORST)
@pytest.mark.parametrize("name", ["metadata", "image_meta"])
@pytest.mark.parametrize("read", [read_instance, read_changes])
def test_a_field_of_the_largest_size_is_kept_and_one_byte_more_is_refused(
    read: Callable[..., Any], name: str, char: str
) -> None:
    each = size(char) - 2
    fitting = {"k": char * ((MAX_FIELD_BYTES - size({"k": ""})) // each)}
    fitting["k"] += "x" * (MAX_FIELD_BYTES - size(fitting))
    assert size(fitting) == MAX_FIELD_BYTES

    kept = read(instance_dict(**{name: fitting}))
    refused = refusal(read, instance_dict(**{name: {"k": fitting["k"] + "x"}}))

    assert fitting in (getattr(kept, name, None), isinstance(kept, dict) and kept[name])
    assert refused == {
        "field": f"instance.{name}",
        "reason": f"must not have more than {MAX_FIELD_BYTES} bytes as JSON",
    }


def test_the_limit_is_the_callers() -> None:
    field = {"k": "x" * 3000}

    assert read_instance(instance_dict(metadata=field), size(field)).metadata == field
    assert refusal(read_instance, instance_dict(metadata=field), size(field) - 1)["field"] == "instance.metadata"


def test_no_text_of_an_instance_exceeds_the_least_limit() -> None:
    """The option has a minimum of 2048 bytes."""
    assert size("\x01" * values.MAX_TEXT) < 2048


def test_a_fact_of_a_node_is_limited_too() -> None:
    answer = driver_resource_dict(cpu_info=["x" * MAX_FIELD_BYTES])

    assert refusal(read_inventory, answer, resources())["field"] == "cpu_info"


def random_value(draw: random.Random, depth: int) -> Any:
    kind = draw.randrange(8 if depth else 6)
    if kind == 0:
        return draw.choice([None, True, False])
    if kind == 1:
        return draw.choice([0, 7, -1, 2**63 - 1, -(2**63)])
    if kind == 2:
        return draw.choice([0.0, 1e300, -2.2250738585072014e-308, 0.1, 1e16, 123456789.123])
    if kind in (3, 4, 5):
        return "".join(draw.choices(WORST, k=draw.randrange(6)))
    if kind == 6:
        return [random_value(draw, depth - 1) for _ in range(draw.randrange(5))]
    return {"".join(draw.choices(WORST, k=3)): random_value(draw, depth - 1) for _ in range(draw.randrange(5))}


def test_the_limit_is_exact_for_any_value() -> None:
    draw = random.Random(9)
    for _ in range(3000):
        value = {"k": random_value(draw, 4)}
        exact = size(value)
        assert read_mapping("f", value, exact) == value
        assert refusal(read_mapping, "f", value, exact - 1)["field"] == "f"


def test_small_values_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(_value: Any) -> bytes:
        raise AssertionError("encoded")

    monkeypatch.setattr(values.msgspec.json, "encode", encode)
    assert plain("f", {f"key{number}": "value" * 10 for number in range(50)})
    with pytest.raises(InvalidInput):
        plain("f", ["x" * 100] * 1000)  # it is clear without encoding that this is too much


def too_large() -> dict[str, Callable[[], Any]]:
    fields = {
        "empty lists": {"k": [[] for _ in range(1_000_000)]},
        "empty objects": {"k": [{} for _ in range(1_000_000)]},
        "numbers": {"k": list(range(1_000_000))},
        "keys": {f"{number}": None for number in range(1_000_000)},
        "one text": {"k": "\U0001f600" * 5_000_000},
        "one key": {"k" * 20_000_000: 1},
    }
    return {name: lambda value=value: refusal(read_mapping, "f", value)["field"] for name, value in fields.items()}


def test_a_value_over_the_limit_is_refused_before_it_is_copied() -> None:
    for name, found in measure(too_large).items():
        assert found.result == "f", name
        assert found.megabytes < 12, (name, found)
        assert found.seconds < 1, (name, found)
