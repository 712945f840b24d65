# SPDX-License-Identifier: Apache-2.0
"""Single values from outside: the accepted values, and the values that are InvalidInput, with their field."""

from __future__ import annotations

import json
from collections import OrderedDict
from decimal import Decimal
from enum import IntEnum
from types import MappingProxyType

import pytest

from tracker_worker.domain import values
from tracker_worker.errors import InvalidInput

NAN, INFINITY = float("nan"), float("inf")


def refused(reader, value, field="instance.memory_mb"):
    """Return the facts of the InvalidInput that ``reader`` raises for ``value``; assert that they name the field and are
    JSON.
    """
    with pytest.raises(InvalidInput) as caught:
        reader(field, value)
    facts = caught.value.kwargs
    assert facts["field"].startswith(field)
    assert facts["reason"]
    assert len(json.dumps(facts)) < 1000
    return facts


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("amount", [0, 1, 2**31, 2**53])
def test_a_size_is_an_integer_from_0_to_2_53(amount):
    assert values.read_amount("instance.vcpus", amount) == amount


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize(
    "amount",
    [-1, None, 1.0, 0.5, -0.0, NAN, INFINITY, -INFINITY, True, False, "4096", "", b"1", [], {}, Decimal(1), 1 + 0j,
     2**53 + 1, -(2**70), 10**5000],
    ids=lambda value: str(type(value)) if isinstance(value, int) and abs(value) > 2**60 else repr(value),
)  # fmt: skip
def test_a_value_other_than_an_integer_from_0_to_2_53_is_an_invalid_size(amount):
    assert refused(values.read_amount, amount)["field"] == "instance.memory_mb"


@pytest.mark.behaviour("limit-values")
@pytest.mark.parametrize(
    ("limit", "ceiling"),
    [(None, None), (0, 0), (0.0, 0), (-0.0, 0), (0.99, 0), (1.5 * 2047, 3070), (2049.0, 2049), (2**53, 2**53)],
)
def test_a_limit_may_be_a_float_and_is_rounded_down_to_an_integer(limit, ceiling):
    read = values.read_limit("limits.memory_mb", limit)
    assert read == ceiling
    assert type(read) is type(ceiling)


@pytest.mark.behaviour("limit-values")
@pytest.mark.parametrize("limit", [NAN, INFINITY, -INFINITY, -1, -0.5, True, "100", [], Decimal(5), 1e300, 10**400])
def test_nan_infinity_negative_numbers_and_other_types_are_invalid_limits(limit):
    assert refused(values.read_limit, limit, "limits.memory_mb")["field"] == "limits.memory_mb"


@pytest.mark.behaviour("option-defaults")
@pytest.mark.parametrize("timeout", [None, 0, 0.0, -0.0])
def test_a_timeout_of_none_or_0_means_the_default(timeout):
    assert values.read_timeout("timeout", timeout) is None


@pytest.mark.behaviour("claim-snapshot")
@pytest.mark.parametrize(
    ("timeout", "microseconds"),
    [(1, 1_000_000), (0.5, 500_000), (1.000001, 1_000_001), (600, 600_000_000), (2**31, 2**31 * 1_000_000)],
)
def test_a_timeout_is_in_seconds_and_may_have_a_fraction(timeout, microseconds):
    read = values.read_timeout("timeout", timeout)
    assert read == microseconds
    assert type(read) is int


@pytest.mark.behaviour("option-defaults")
def test_a_timeout_just_above_0_does_not_mean_the_default():
    assert values.read_timeout("timeout", 1e-9) == 1


@pytest.mark.behaviour("claim-snapshot")
@pytest.mark.parametrize("timeout", [-1, -1e-9, NAN, INFINITY, True, "600", 2**31 + 1, 1e300, 10**400])
def test_a_timeout_that_is_negative_or_not_a_number_is_invalid(timeout):
    assert refused(values.read_timeout, timeout, "timeout")["field"] == "timeout"


@pytest.mark.parametrize("name", ["a", "x" * 255, "näme", "名", "😀"])
def test_a_name_is_text_of_at_most_255_characters(name):
    assert values.read_name("instance.uuid", name) == name


@pytest.mark.parametrize("name", ["", "x" * 256, None, 1, b"a", ["a"], {}, True, "a\0b", "\ud800", "a\udfffb"])
def test_an_empty_name_a_long_name_and_a_name_that_is_not_text_are_invalid(name):
    refused(values.read_name, name, "instance.uuid")


def test_optional_text_may_be_none_and_empty():
    assert values.read_optional_text("instance.os_type", None) is None
    assert values.read_optional_text("instance.os_type", "") == ""


@pytest.mark.parametrize("text", [1, b"x", ["x"], True, "a\0", "\udc00", "x" * 256])
def test_optional_text_that_is_not_valid_text_is_invalid(text):
    refused(values.read_optional_text, text, "instance.os_type")


@pytest.mark.parametrize(
    ("date", "kept"),
    [(None, ""), ("", ""), ("2026-01-15T12:00:00Z", "2026-01-15T12:00:00Z"), ("2026-01-15T12:00:00.000000",) * 2],
)
def test_a_date_is_kept_as_given_and_none_is_empty(date, kept):
    assert values.read_date("instance.launched_at", date) == kept


@pytest.mark.parametrize("date", ["yesterday", "2026-13-01", 0, 1768478400, False, [], {}])
def test_a_value_that_is_not_a_date_is_invalid(date):
    refused(values.read_date, date, "instance.launched_at")


@pytest.mark.behaviour("copies-only")
def test_a_mapping_is_copied_to_every_depth():
    given = {"a": {"b": [1, {"c": "d"}]}}
    read = values.read_mapping("instance.metadata", given)
    given["a"]["b"][1]["c"] = "changed"
    given["a"]["b"].append(2)
    assert read == {"a": {"b": [1, {"c": "d"}]}}


def test_a_mapping_becomes_plain_json_types():
    read = values.read_mapping("instance.metadata", MappingProxyType(OrderedDict(a=(1, 2.5, None, True))))
    assert read == {"a": [1, 2.5, None, True]}
    assert type(read) is dict
    assert type(read["a"]) is list


def test_a_mapping_that_is_none_is_empty():
    assert values.read_mapping("instance.metadata", None) == {}


@pytest.mark.parametrize("value", [[], [{"key": "a", "value": "b"}], "a", 1, True, set()])
def test_a_value_that_is_not_a_mapping_is_invalid(value):
    refused(values.read_mapping, value, "instance.metadata")


@pytest.mark.parametrize(
    ("item", "where"),
    [
        (NAN, ".a"),
        (INFINITY, ".a"),
        (2**63, ".a"),
        (-(2**63) - 1, ".a"),
        (b"x", ".a"),
        (object(), ".a"),
        ("\0", ".a"),
        ({1: 2}, ".a"),
        ({"\ud800": 2}, ".a"),
        ([0, {"b": NAN}], ".a[1].b"),
    ],
)
def test_a_value_that_json_or_a_store_cannot_hold_is_invalid_and_named_by_its_path(item, where):
    assert refused(values.read_mapping, {"a": item}, "instance.metadata")["field"] == "instance.metadata" + where


@pytest.mark.parametrize("make", [lambda inner: {"k": inner}, lambda inner: [inner]])
def test_nesting_is_accepted_up_to_100_levels(make):
    nested = make(1)
    for _ in range(99):
        nested = make(nested)
    assert values.plain("f", nested) == nested
    with pytest.raises(InvalidInput):
        values.plain("f", make(nested))


def test_a_structure_that_contains_itself_is_invalid():
    ring: dict = {}
    ring["ring"] = ring
    refused(values.read_mapping, ring, "instance.metadata")


class Text(str):
    """A str as template engines or translations derive it."""

    def __str__(self) -> str:
        return "something else"


class Level(IntEnum):
    HIGH = 3


class Share(float):
    """A float as numeric libraries derive their scalars."""


def test_a_value_of_a_derived_type_becomes_the_json_type():
    given = {Text("k"): [Text("v"), Level.HIGH, Share(0.5), OrderedDict(a=(True, None))]}
    copied = values.read_mapping("f", given)
    assert copied == {"k": ["v", 3, 0.5, {"a": [True, None]}]}
    (key,) = copied
    assert [type(item) for item in (key, *copied["k"])] == [str, str, int, float, dict]


@pytest.mark.parametrize("reader", [values.read_text, values.read_optional_text, values.read_name, values.read_date])
def test_derived_text_keeps_its_characters_and_not_the_result_of_str(reader):
    read = reader("f", Text("2026-01-01"))
    assert (read, type(read)) == ("2026-01-01", str)
