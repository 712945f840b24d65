# SPDX-License-Identifier: Apache-2.0
"""Reading a driver's answer, and the host's reserve."""

from __future__ import annotations

import pytest

from tests.support.builders import driver_resource_dict, inventory, resources
from tracker_worker.domain.inventory import OPTIONAL, REQUIRED, read_inventory, reserve
from tracker_worker.errors import InvalidInput

NO_RESERVE = resources()


@pytest.mark.behaviour("driver-answer")
def test_seven_keys_of_a_driver_answer_are_required_and_four_are_optional():
    assert " ".join(REQUIRED) == "vcpus memory_mb local_gb cpu_info vcpus_used memory_mb_used local_gb_used"
    assert " ".join(OPTIONAL) == "hypervisor_type hypervisor_version hypervisor_hostname disk_available_least"


@pytest.mark.behaviour("driver-answer")
def test_totals_and_facts_of_a_driver_answer_become_inventory():
    read = read_inventory(driver_resource_dict(vcpus=8, memory_mb=16, local_gb=32), resources(memory_mb=4))
    assert read.total == resources(8, 16, 32)
    assert read.reserved == resources(memory_mb=4)
    assert set(read.facts) == {"cpu_info", *OPTIONAL}


@pytest.mark.behaviour("driver-answer")
@pytest.mark.parametrize("answer", [None, {}])
def test_a_falsy_driver_answer_means_that_the_node_is_not_supported(answer):
    assert read_inventory(answer, NO_RESERVE) is None


@pytest.mark.behaviour("driver-answer")
@pytest.mark.parametrize("missing", [{key} for key in REQUIRED] + [{"vcpus", "local_gb"}, set(REQUIRED)])
def test_every_missing_key_of_a_driver_answer_is_named(missing):
    answer = {key: value for key, value in driver_resource_dict().items() if key not in missing}
    with pytest.raises(InvalidInput) as caught:
        read_inventory(answer, NO_RESERVE)
    assert set(caught.value.kwargs["field"].split(", ")) == missing
    assert all(key in str(caught.value) for key in missing)


@pytest.mark.behaviour("driver-answer")
@pytest.mark.parametrize("key", ["cpu_info", "vcpus_used", "memory_mb_used", "local_gb_used"])
def test_a_required_key_that_is_not_a_total_may_be_null(key):
    assert read_inventory(driver_resource_dict(**{key: None}), NO_RESERVE) is not None


@pytest.mark.behaviour("driver-answer")
@pytest.mark.parametrize("key", OPTIONAL)
def test_an_optional_key_of_a_driver_answer_may_be_absent(key):
    answer = driver_resource_dict()
    del answer[key]
    assert key not in read_inventory(answer, NO_RESERVE).facts


@pytest.mark.behaviour("size-values")
@pytest.mark.parametrize("key", ["vcpus", "memory_mb", "local_gb"])
@pytest.mark.parametrize("value", [-1, None, 15.5, 16.0, True, "16", float("nan"), 2**53 + 1])
def test_an_invalid_total_is_named(key, value):
    with pytest.raises(InvalidInput) as caught:
        read_inventory(driver_resource_dict(**{key: value}), NO_RESERVE)
    assert caught.value.kwargs["field"] == key


@pytest.mark.behaviour("audit")
def test_the_used_figures_of_the_driver_are_not_part_of_the_inventory():
    assert inventory(vcpus_used=0, memory_mb_used=0, local_gb_used=0) == inventory(
        vcpus_used=31, memory_mb_used=99999, local_gb_used=1999
    )


@pytest.mark.behaviour("driver-answer")
def test_unknown_keys_of_a_driver_answer_are_ignored():
    assert inventory(numa=[object()]) == inventory()


@pytest.mark.behaviour("option-defaults")
@pytest.mark.parametrize(
    ("disk_mb", "disk_gb"), [(0, 0), (1, 1), (1023, 1), (1024, 1), (1025, 2), (10240, 10), (10241, 11)]
)
def test_the_disk_reserve_is_rounded_up_to_gb_as_an_integer(disk_mb, disk_gb):
    reserved = reserve(memory_mb=512, disk_mb=disk_mb)
    assert reserved == resources(vcpu=0, memory_mb=512, disk_gb=disk_gb)
    assert all(type(amount) is int for amount in reserved.amounts)


@pytest.mark.behaviour("copies-only")
def test_an_inventory_keeps_no_reference_to_the_driver_answer():
    answer = driver_resource_dict(cpu_info={"topology": {"cores": 8}})
    read = read_inventory(answer, NO_RESERVE)
    answer["cpu_info"]["topology"]["cores"] = 0
    answer["memory_mb"] = 0
    assert read.facts["cpu_info"] == {"topology": {"cores": 8}}
    assert read.total["MEMORY_MB"] == 131072
