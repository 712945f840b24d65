# SPDX-License-Identifier: Apache-2.0
"""The capacity rule and its limits."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import resources
from tracker_worker.domain.fit import UNLIMITED, fits, read_limits
from tracker_worker.errors import InvalidInput

AMOUNT = st.integers(0, 50)
VECTOR = st.builds(resources, AMOUNT, AMOUNT, AMOUNT)


def lacks(requested, used, **limits):
    return [shortfall.to_dict() for shortfall in fits(requested, used, read_limits(limits))]


@pytest.mark.behaviour("limit-rule")
@pytest.mark.parametrize("limit", ["memory_mb", "disk_gb", "vcpu"])
@pytest.mark.parametrize(("ceiling", "fit"), [(29, False), (30, True), (31, True)])
def test_a_request_fits_if_and_only_if_it_is_at_most_limit_minus_used(limit, ceiling, fit):
    assert (lacks(resources(10, 10, 10), resources(20, 20, 20), **{limit: ceiling}) == []) is fit


@pytest.mark.behaviour("limit-rule")
def test_a_limit_of_0_refuses_a_request():
    assert lacks(resources(vcpu=1), resources(), vcpu=0) == [
        {"resource": "VCPU", "requested": 1, "used": 0, "limit": 0}
    ]


@pytest.mark.behaviour("limit-rule")
def test_every_shortfall_is_returned_with_the_true_figures():
    assert lacks(resources(4, 2048, 20), resources(30, 512, 0), memory_mb=2048, disk_gb=10, vcpu=32) == [
        {"resource": "VCPU", "requested": 4, "used": 30, "limit": 32},
        {"resource": "MEMORY_MB", "requested": 2048, "used": 512, "limit": 2048},
        {"resource": "DISK_GB", "requested": 20, "used": 0, "limit": 10},
    ]


@pytest.mark.behaviour("true-figures")
def test_a_resource_that_fits_is_not_a_shortfall():
    assert [lack["resource"] for lack in lacks(resources(1, 1, 9), resources(), memory_mb=5, disk_gb=5, vcpu=5)] == [
        "DISK_GB"
    ]


@pytest.mark.behaviour("limit-rule")
def test_a_request_for_nothing_fits_even_if_usage_is_over_the_limit():
    assert lacks(resources(), resources(99, 99, 99), memory_mb=0, disk_gb=0, vcpu=0) == []
    assert [lack["resource"] for lack in lacks(resources(vcpu=1), resources(99, 99, 99), vcpu=0, memory_mb=0)] == [
        "VCPU"
    ]


@pytest.mark.behaviour("limit-keys")
@pytest.mark.parametrize("limits", [None, {}, {"memory_mb": None}, {"memory_mb": None, "disk_gb": None, "vcpu": None}])
def test_a_missing_or_none_limit_is_unlimited(limits):
    assert read_limits(limits) == UNLIMITED
    assert not read_limits(limits).given
    assert fits(resources(2**53, 2**53, 2**53), resources(2**53, 2**53, 2**53), read_limits(limits)) == ()


@pytest.mark.behaviour("limit-keys")
def test_a_limit_of_one_resource_does_not_limit_another_resource():
    limits = read_limits({"vcpu": 1})
    assert limits.given
    assert [lack.resource for lack in fits(resources(9, 9, 9), resources(), limits)] == ["VCPU"]


@pytest.mark.behaviour("limit-keys")
@pytest.mark.parametrize("key", ["vcpus", "memory", "ram_mb", "disk", "local_gb", "Memory_mb", "Vcpu", "", 1, None])
@pytest.mark.parametrize("value", [5, None])
def test_an_unknown_limit_key_is_invalid_even_when_its_value_is_none(key, value):
    with pytest.raises(InvalidInput) as caught:
        read_limits({"memory_mb": 5, key: value})
    assert caught.value.kwargs["field"] == f"limits.{key}"


@pytest.mark.behaviour("limit-keys")
@pytest.mark.parametrize("limits", [[], "memory_mb", 5, True, [("memory_mb", 5)]])
def test_limits_that_are_not_a_mapping_are_invalid(limits):
    with pytest.raises(InvalidInput) as caught:
        read_limits(limits)
    assert caught.value.kwargs["field"] == "limits"


@pytest.mark.behaviour("limit-values")
def test_a_float_limit_is_rounded_down_for_the_comparison_and_in_the_shortfall():
    limits = {"memory_mb": 1.5 * 2047, "vcpu": 16.0 * 2, "disk_gb": 49.999}
    told = lacks(resources(33, 3071, 50), resources(), **limits)
    assert [lack["limit"] for lack in told] == [32, 3070, 49]
    assert "." not in json.dumps(told)
    assert lacks(resources(32, 3070, 49), resources(), **limits) == []


@pytest.mark.behaviour("limit-values")
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["memory_mb", "disk_gb", "vcpu"])
def test_nan_and_infinity_are_invalid_limits(key, value):
    with pytest.raises(InvalidInput) as caught:
        read_limits({key: value})
    assert caught.value.kwargs["field"] == f"limits.{key}"


@pytest.mark.behaviour("limit-keys")
def test_capacity_completes_only_the_limits_that_the_caller_does_not_give():
    limits = read_limits({"memory_mb": 5, "vcpu": 0}).completed({"VCPU": 1, "MEMORY_MB": 2, "DISK_GB": 3})
    assert limits == read_limits({"memory_mb": 5, "vcpu": 0, "disk_gb": 3})


@pytest.mark.behaviour("limit-rule")
@settings(derandomize=True, database=None, max_examples=100)
@given(VECTOR, VECTOR, st.fixed_dictionaries({}, optional=dict.fromkeys(("memory_mb", "disk_gb", "vcpu"), AMOUNT)))
def test_the_capacity_rule_holds_for_each_resource_alone(requested, used, limits):
    keys = {"VCPU": "vcpu", "MEMORY_MB": "memory_mb", "DISK_GB": "disk_gb"}
    expected = [
        {"resource": name, "requested": requested[name], "used": used[name], "limit": limits[key]}
        for name, key in keys.items()
        if key in limits and requested[name] and used[name] + requested[name] > limits[key]
    ]
    assert lacks(requested, used, **limits) == expected
