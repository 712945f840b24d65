# SPDX-License-Identifier: Apache-2.0
"""Vectors of resources."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import resources
from tracker_worker.domain.resources import CLASSES, SIZES, ZERO, Resources


@pytest.mark.behaviour("instance-fields")
def test_memory_disk_and_cpu_are_the_sums_of_their_instance_fields():
    assert {klass.name: klass.sizes for klass in CLASSES} == {
        "VCPU": ("vcpus",),
        "MEMORY_MB": ("memory_mb",),
        "DISK_GB": ("root_gb", "ephemeral_gb", "swap_gb"),
    }
    assert set(SIZES) == {"vcpus", "memory_mb", "root_gb", "ephemeral_gb"}


@pytest.mark.behaviour("limit-keys")
def test_the_limit_keys_are_memory_mb_disk_gb_and_vcpu_in_the_singular():
    assert {klass.limit for klass in CLASSES} == {"memory_mb", "disk_gb", "vcpu"}


def test_vectors_add_and_subtract_by_class_and_may_go_below_zero():
    assert resources(1, 20, 300) + resources(2, 5, 7) == resources(3, 25, 307)
    assert resources(1, 20, 300) - resources(2, 5, 7) == resources(-1, 15, 293)


def test_resources_that_are_not_named_are_0():
    assert Resources.of({}) == ZERO
    assert Resources.of({"DISK_GB": 4})["DISK_GB"] == 4


def test_to_dict_names_every_class_in_order():
    assert list(resources(1, 2, 3).to_dict().items()) == [("VCPU", 1), ("MEMORY_MB", 2), ("DISK_GB", 3)]


def test_custom_classes_add_and_subtract_like_the_standard_ones_and_vanish_at_0():
    one, two = Resources.of({"VCPU": 1, "VGPU": 2}), Resources.of({"VGPU": 2, "FPGA": 5})
    assert (one + two).to_dict() == {"VCPU": 1, "MEMORY_MB": 0, "DISK_GB": 0, "FPGA": 5, "VGPU": 4}
    assert (one + two) - two == one
    assert (one - two).to_dict() == {"VCPU": 1, "MEMORY_MB": 0, "DISK_GB": 0, "FPGA": -5}
    assert (one + two)["FPGA"] == 5
    assert one["FPGA"] == 0
    assert Resources.of({"VGPU": 0}) == ZERO


@settings(derandomize=True, database=None, max_examples=200)
@given(st.lists(st.dictionaries(st.sampled_from(["VCPU", "DISK_GB", "VGPU", "FPGA", "CUSTOM_A"]), st.integers(-9, 9))))
def test_a_sum_of_vectors_is_the_sum_of_each_class(amounts):
    total = sum(map(Resources.of, amounts), ZERO)
    for name in ("VCPU", "MEMORY_MB", "DISK_GB", "VGPU", "FPGA", "CUSTOM_A"):
        assert total[name] == sum(each.get(name, 0) for each in amounts)
    assert total == Resources.of(total.to_dict())
    assert hash(total) == hash(Resources.of(dict(reversed(total.to_dict().items()))))


@pytest.mark.behaviour("copies-only")
def test_a_vector_cannot_be_changed():
    vector = resources(1, 2, 3)
    vector.to_dict()["VCPU"] = 99
    with pytest.raises(AttributeError):
        vector.amounts = (9, 9, 9)
    assert vector == resources(1, 2, 3)
