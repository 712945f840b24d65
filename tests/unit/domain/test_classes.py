# SPDX-License-Identifier: Apache-2.0
"""Resource classes: what a node has of each, what an instance asks for, and the limits.

The file is long because every rule is tried on each kind of class.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import (
    NODE,
    begin,
    driver_resource_dict,
    happened,
    host_ledger,
    instance,
    inventory,
    planned,
    play,
    resources,
    sized,
    update,
    uuid,
)
from tracker_worker.domain.classes import MOST_CLASSES, ClassInventory
from tracker_worker.domain.commands import ReportNode
from tracker_worker.domain.events import NodeUpdated
from tracker_worker.domain.fit import read_limits
from tracker_worker.domain.instance import read_changes
from tracker_worker.domain.inventory import read_inventory, reserve
from tracker_worker.domain.queries import GetUsage, WouldFit, merged, read
from tracker_worker.domain.views import node_view, usage_view
from tracker_worker.errors import InvalidInput

STANDARD = {"VCPU": 0, "MEMORY_MB": 0, "DISK_GB": 0}


def node_with(**classes):
    return host_ledger(reported=inventory(resources=classes))


def asked(number=1, *, limits=None, capacity_limits=False, **amounts):
    """A claim for custom classes alone."""
    return begin(number, **sized(), resources=amounts, limits=limits, capacity_limits=capacity_limits)


def shortfalls(host, command):
    decision = planned(host, command)
    return [] if decision.error is None else decision.error.kwargs["shortfalls"]


def refused_field(call):
    with pytest.raises(InvalidInput) as caught:
        call()
    return caught.value.kwargs["field"]


# --- inventory ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_a_number_is_the_total_of_a_class_and_the_rest_has_its_defaults():
    classes = inventory(resources={"VGPU": 4}).classes
    assert classes["VGPU"] == ClassInventory(total=4, max_unit=4)
    assert classes["VCPU"] == ClassInventory(total=32)
    assert classes["MEMORY_MB"] == ClassInventory(total=131072, reserved=512)
    assert list(classes) == ["VCPU", "MEMORY_MB", "DISK_GB", "VGPU"]


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize("declared", [None, {}])
def test_a_node_without_declared_classes_has_the_standard_ones(declared):
    assert inventory(resources=declared) == inventory()


@pytest.mark.behaviour("resource-classes")
def test_what_an_inventory_reserves_of_a_class_overrides_the_reserve_of_the_options():
    read = read_inventory(
        driver_resource_dict(resources={"VCPU": {"reserved": 1}, "MEMORY_MB": {"allocation_ratio": 2}}),
        reserve(vcpus=4, memory_mb=512, disk_mb=1025),
    )
    assert read.reserved == resources(1, 512, 2)


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize(
    ("total", "reserved", "ratio", "capacity"),
    [
        (100, 0, 1.15, 115),  # 114.99999999999999 as a float
        (64, 4, 4, 240),
        (10, 3, 0.5, 3),
        (2**53, 1, 1, 2**53 - 1),  # no float has this number
        (3, 0, 0.1, 0),
        (0, 0, 16.0, 0),
    ],
)
def test_the_capacity_is_what_is_not_reserved_times_the_ratio_rounded_down(total, reserved, ratio, capacity):
    read = inventory(resources={"VGPU": {"total": total, "reserved": reserved, "allocation_ratio": ratio}})
    assert read.classes["VGPU"].capacity == capacity
    assert read.ceilings["VGPU"] == capacity + reserved


@pytest.mark.behaviour("resource-classes")
def test_a_reserve_of_the_options_may_be_more_than_the_total_and_makes_a_negative_capacity():
    read = inventory(memory_mb=100, resources={"MEMORY_MB": {"allocation_ratio": 1.5}})
    assert read.classes["MEMORY_MB"].capacity == -618
    assert read.ceilings["MEMORY_MB"] == -618 + 512


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ([], "resources"),
        ("VGPU", "resources"),
        ({"vgpu": 1}, "resources.vgpu"),
        ({"": 1}, "resources."),
        ({"1GPU": 1}, "resources.1GPU"),
        ({"V-GPU": 1}, "resources.V-GPU"),
        ({"VGPU\n": 1}, "resources.VGPU\n"),
        ({"V" * 256: 1}, "resources." + "V" * 255),
        ({1: 1}, "resources.1"),
        ({f"C{number}": 1 for number in range(MOST_CLASSES + 1)}, "resources"),
        ({"VGPU": None}, "resources.VGPU"),
        ({"VGPU": {}}, "resources.VGPU"),
        ({"VGPU": {"reserved": 1}}, "resources.VGPU"),
        ({"VGPU": {"total": 1, "size": 1}}, "resources.VGPU"),
        ({"VGPU": True}, "resources.VGPU.total"),
        ({"VGPU": 1.0}, "resources.VGPU.total"),
        ({"VGPU": -1}, "resources.VGPU.total"),
        ({"VGPU": 2**53 + 1}, "resources.VGPU.total"),
        ({"VGPU": "4"}, "resources.VGPU.total"),
        ({"VGPU": {"total": 4, "reserved": 5}}, "resources.VGPU.reserved"),
        ({"VGPU": {"total": 4, "reserved": -1}}, "resources.VGPU.reserved"),
        ({"VGPU": {"total": 4, "allocation_ratio": 0}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "allocation_ratio": -1}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "allocation_ratio": float("nan")}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "allocation_ratio": float("inf")}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "allocation_ratio": True}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "allocation_ratio": "2"}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 2**50, "allocation_ratio": 16}}, "resources.VGPU.allocation_ratio"),
        ({"VGPU": {"total": 4, "min_unit": 0}}, "resources.VGPU.min_unit"),
        ({"VGPU": {"total": 4, "min_unit": 1.5}}, "resources.VGPU.min_unit"),
        ({"VGPU": {"total": 4, "max_unit": 0}}, "resources.VGPU.max_unit"),
        ({"VGPU": {"total": 4, "min_unit": 3, "max_unit": 2}}, "resources.VGPU.max_unit"),
        ({"VGPU": {"total": 4, "step_size": 0}}, "resources.VGPU.step_size"),
        ({"VCPU": 4}, "resources.VCPU"),
        ({"MEMORY_MB": {"total": 4}}, "resources.MEMORY_MB"),
        ({"DISK_GB": {"reserved": 2001}}, "resources.DISK_GB.reserved"),
        ({"VCPU": {"allocation_ratio": 2**53}}, "resources.VCPU.allocation_ratio"),
    ],
)
def test_a_mistake_in_a_class_names_the_class(declared, field):
    assert refused_field(lambda: inventory(resources=declared)) == field


@pytest.mark.behaviour("resource-classes")
def test_a_node_may_have_as_many_classes_as_there_may_be():
    classes = {f"C{number}": 1 for number in range(MOST_CLASSES)}
    assert len(inventory(resources=classes).classes) == MOST_CLASSES + 3


@pytest.mark.behaviour("resource-classes")
def test_another_ratio_is_another_inventory():
    host = node_with(VGPU=4)
    changed = inventory(resources={"VGPU": {"total": 4, "allocation_ratio": 2}})
    assert isinstance(happened(planned(host, ReportNode(node=NODE, inventory=changed)))[0], NodeUpdated)
    assert happened(planned(host, ReportNode(node=NODE, inventory=inventory(resources={"VGPU": 4})))) == []


# --- instances ----------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_an_instance_asks_for_custom_classes_beside_its_sizes():
    read = instance(resources={"VGPU": 1, "CUSTOM_FPGA": 2, "NOTHING": 0})
    assert read.resources.to_dict() == {
        "VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 50, "CUSTOM_FPGA": 2, "VGPU": 1,
    }  # fmt: skip


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize("nothing", [None, {}, {"VGPU": 0}])
def test_no_custom_class_is_asked_for_by_null_an_empty_object_and_amounts_of_0(nothing):
    assert instance(resources=nothing) == instance()


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "instance.resources"),
        ("VGPU", "instance.resources"),
        ({"vgpu": 1}, "instance.resources.vgpu"),
        ({"VCPU": 1}, "instance.resources.VCPU"),
        ({"MEMORY_MB": 0}, "instance.resources.MEMORY_MB"),
        ({"DISK_GB": None}, "instance.resources.DISK_GB"),
        ({"VGPU": None}, "instance.resources.VGPU"),
        ({"VGPU": True}, "instance.resources.VGPU"),
        ({"VGPU": 1.0}, "instance.resources.VGPU"),
        ({"VGPU": -1}, "instance.resources.VGPU"),
        ({"VGPU": 2**53 + 1}, "instance.resources.VGPU"),
        ({f"C{number}": 1 for number in range(10_000)}, "instance.resources"),
    ],
)
def test_wrong_amounts_of_custom_classes_are_refused(value, field):
    assert refused_field(lambda: instance(resources=value)) == field
    assert refused_field(lambda: read_changes({"uuid": uuid(1), "resources": value})) == field


# --- limits -------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_a_class_may_be_limited_by_its_name():
    assert read_limits({"VCPU": 4.9, "MEMORY_MB": None}) == read_limits({"vcpu": 4})
    assert read_limits({"VGPU": 2.9}).of("VGPU") == 2
    assert read_limits({"VGPU": 2}).given
    assert not read_limits({"VGPU": None}).given


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize("names", [("vcpu", "VCPU"), ("DISK_GB", "disk_gb"), ("memory_mb", "MEMORY_MB")])
def test_a_class_must_not_be_limited_under_both_of_its_names(names):
    assert refused_field(lambda: read_limits(dict.fromkeys(names, 5))) == "limits"
    assert read_limits({names[0]: 5, names[1]: None}).given


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize("value", [-1, float("nan"), True, "1", 2**54])
def test_a_wrong_limit_of_a_class_is_refused(value):
    assert refused_field(lambda: read_limits({"VGPU": value})) == "limits.VGPU"


# --- claims -------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_a_claim_takes_from_a_custom_class_and_the_next_one_sees_it():
    host = node_with(VGPU=4)
    play(host, asked(1, VGPU=3))
    assert shortfalls(host, asked(2, limits={"VGPU": 4}, VGPU=2)) == [
        {"resource": "VGPU", "requested": 2, "used": 3, "limit": 4}
    ]
    assert shortfalls(host, asked(2, limits={"VGPU": 4}, VGPU=1)) == []


@pytest.mark.behaviour("resource-classes")
def test_the_reserve_of_a_custom_class_is_used():
    host = node_with(VGPU={"total": 4, "reserved": 1})
    assert shortfalls(host, asked(limits={"VGPU": 4}, VGPU=4)) == [
        {"resource": "VGPU", "requested": 4, "used": 1, "limit": 4}
    ]


@pytest.mark.behaviour("resource-classes")
def test_the_reserve_of_vcpus_is_used():
    read = read_inventory(driver_resource_dict(), reserve(vcpus=2, memory_mb=0, disk_mb=0))
    host = host_ledger(reported=read)
    play(host, begin(1, **sized(4)))
    assert node_view(host.node(NODE))["vcpus_used"] == 6
    assert shortfalls(host, begin(2, **sized(1), limits={"vcpu": 6})) == [
        {"resource": "VCPU", "requested": 1, "used": 6, "limit": 6}
    ]


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize("limits", [None, {"VGPU": 100}])
@pytest.mark.parametrize("capacity_limits", [False, True])
def test_a_class_that_the_node_does_not_have_is_a_shortfall_with_limit_0(limits, capacity_limits):
    host = host_ledger()
    assert shortfalls(host, asked(limits=limits, capacity_limits=capacity_limits, VGPU=1)) == [
        {"resource": "VGPU", "requested": 1, "used": 0, "limit": 0}
    ]
    assert shortfalls(host, asked(VGPU=0)) == []


@pytest.mark.behaviour("resource-classes")
def test_a_class_of_which_the_node_has_0_is_limited_by_that_capacity():
    host = node_with(VGPU={"total": 0, "max_unit": 9})
    assert shortfalls(host, asked(capacity_limits=True, VGPU=1)) == [
        {"resource": "VGPU", "requested": 1, "used": 0, "limit": 0}
    ]


@pytest.mark.behaviour("limit-keys")
def test_a_missing_limit_is_the_capacity_and_the_reserve_with_missing_limit_capacity():
    host = host_ledger(
        reported=inventory(
            resources={
                "VCPU": {"allocation_ratio": 2},
                "MEMORY_MB": {"allocation_ratio": 1.5},
                "VGPU": {"total": 4, "reserved": 1, "allocation_ratio": 2, "max_unit": 100},
            }
        )
    )
    fitting = {"memory_mb": (131072 - 512) * 3 // 2, "vcpus": 64, "root_gb": 2000, "ephemeral_gb": 0}
    limited = {"capacity_limits": True, **fitting}
    assert shortfalls(host, begin(1, **limited, resources={"VGPU": 6})) == []
    assert shortfalls(host, begin(1, **{**limited, "vcpus": 65, "memory_mb": fitting["memory_mb"] + 1})) == [
        {"resource": "VCPU", "requested": 65, "used": 0, "limit": 64},
        {"resource": "MEMORY_MB", "requested": 195841, "used": 512, "limit": 195840 + 512},
    ]
    assert [lack["limit"] for lack in shortfalls(host, begin(1, **limited, resources={"VGPU": 7}))] == [7]


@pytest.mark.behaviour("resource-classes")
@pytest.mark.parametrize(
    ("units", "fitting", "others"),
    [
        ({"min_unit": 2}, (0, 2, 4), {1: "must be at least 2 (min_unit)"}),
        ({"max_unit": 2}, (0, 1, 2), {3: "must be at most 2 (max_unit)"}),
        ({"step_size": 3}, (0, 3, 6), {4: "must be a multiple of 3 (step_size)"}),
    ],
)
@pytest.mark.parametrize("name", ["VGPU", "VCPU"])
def test_units_are_tested_whatever_the_limits_are(name, units, fitting, others):
    host = node_with(**{name: {"total": 8, **units} if name == "VGPU" else units})

    def claim(amount):
        return asked(VGPU=amount) if name == "VGPU" else begin(1, **sized(amount))

    assert [shortfalls(host, claim(amount)) for amount in fitting] == [[], [], []]
    for amount, reason in others.items():
        [lack] = shortfalls(host, claim(amount))
        assert (lack["resource"], lack["requested"], lack["reason"]) == (name, amount, reason)


@pytest.mark.behaviour("resource-classes")
def test_more_than_the_total_of_a_custom_class_cannot_be_asked_for_at_once():
    host = node_with(VGPU={"total": 4, "allocation_ratio": 4})
    [lack] = shortfalls(host, asked(limits={"VGPU": 16}, VGPU=5))
    assert lack == {
        "resource": "VGPU", "requested": 5, "used": 0, "limit": 16, "reason": "must be at most 4 (max_unit)",
    }  # fmt: skip


@pytest.mark.behaviour("resource-classes")
def test_all_shortfalls_are_told_the_standard_classes_first():
    host = node_with(A=1, B={"total": 4, "step_size": 2})
    command = begin(1, **sized(4), resources={"B": 3, "C": 1, "A": 1}, limits={"vcpu": 3, "A": 0})
    assert [(lack["resource"], "reason" in lack) for lack in shortfalls(host, command)] == [
        ("VCPU", False),
        ("A", False),
        ("B", True),
        ("C", False),
    ]


@pytest.mark.behaviour("resource-classes")
def test_would_fit_says_the_same_as_a_claim():
    host = node_with(VGPU=4)
    command = asked(limits={"VGPU": 3}, VGPU=4)
    answer = read([host], WouldFit(begin=command), 0)
    assert answer == {"fits": False, "shortfalls": shortfalls(host, command), "limit_source": "caller"}


@pytest.mark.behaviour("repeated-claim")
def test_a_claim_with_another_amount_of_a_custom_class_is_a_conflict():
    host = node_with(VGPU=4)
    play(host, asked(VGPU=1))
    assert happened(planned(host, asked(VGPU=1))) == []
    assert planned(host, asked(VGPU=2)).error.code == "claim_conflict"
    assert planned(host, asked()).error.code == "claim_conflict"


# --- updates ------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_an_update_replaces_all_custom_classes_and_leaves_them_where_it_names_none():
    host = node_with(VGPU=4, FPGA=4)
    play(host, asked(VGPU=1, FPGA=1))
    ledger = host.node(NODE)
    play(host, update(1, vm_state="active"))
    assert ledger.charged.to_dict() == {**STANDARD, "FPGA": 1, "VGPU": 1}
    play(host, update(1, resources={"VGPU": 2}))
    assert ledger.charged.to_dict() == {**STANDARD, "VGPU": 2}
    assert happened(play(host, update(1, resources={"VGPU": 2}))) == []
    for nothing in (None, {}):
        play(host, update(1, resources={"VGPU": 2}))
        play(host, update(1, resources=nothing))
        assert ledger.charged.to_dict() == STANDARD


@pytest.mark.behaviour("resource-classes")
def test_growth_of_custom_classes_is_a_fact_and_says_where_there_is_too_little():
    host = node_with(VGPU={"total": 4, "reserved": 1}, FPGA=4)
    play(host, asked(VGPU=1, FPGA=4))
    [event] = happened(play(host, update(1, resources={"VGPU": 5, "FPGA": 4, "TPU": 1})))
    assert [(over.resource, over.used, over.capacity) for over in event.over_capacity] == [
        ("TPU", 1, 0),
        ("VGPU", 6, 4),
    ]
    assert host.node(NODE).charged["TPU"] == 1


@pytest.mark.behaviour("resource-classes")
def test_a_deletion_releases_what_was_charged_whatever_it_says():
    host = node_with(VGPU=4)
    play(host, asked(VGPU=3))
    [event] = happened(play(host, update(1, vm_state="deleted", resources={"VGPU": 1})))
    assert event.allocation.instance.resources["VGPU"] == 3
    assert host.node(NODE).charged.to_dict() == STANDARD


# --- views --------------------------------------------------------------------------------------------------------------


@pytest.mark.behaviour("resource-classes")
def test_a_node_view_has_every_class_and_what_is_used_of_it_without_the_reserve():
    host = node_with(VGPU={"total": 4, "reserved": 1, "allocation_ratio": 2, "step_size": 2})
    play(host, begin(1, resources={"VGPU": 2}))
    shown = node_view(host.node(NODE))["resources"]
    assert shown == {
        "VCPU": {
            "total": 32, "reserved": 0, "allocation_ratio": 1.0, "min_unit": 1, "max_unit": None, "step_size": 1,
            "capacity": 32, "used": 2,
        },
        "MEMORY_MB": {
            "total": 131072, "reserved": 512, "allocation_ratio": 1.0, "min_unit": 1, "max_unit": None, "step_size": 1,
            "capacity": 130560, "used": 4096,
        },
        "DISK_GB": {
            "total": 2000, "reserved": 0, "allocation_ratio": 1.0, "min_unit": 1, "max_unit": None, "step_size": 1,
            "capacity": 2000, "used": 50,
        },
        "VGPU": {
            "total": 4, "reserved": 1, "allocation_ratio": 2.0, "min_unit": 1, "max_unit": 4, "step_size": 2,
            "capacity": 6, "used": 2,
        },
    }  # fmt: skip
    json.dumps(shown, allow_nan=False)


@pytest.mark.behaviour("resource-classes")
def test_a_class_that_the_node_no_longer_has_is_shown_while_it_is_charged():
    host = node_with(VGPU=4)
    play(host, asked(VGPU=1))
    play(host, ReportNode(node=NODE, inventory=inventory()))
    shown = node_view(host.node(NODE))["resources"]["VGPU"]
    assert (shown["total"], shown["capacity"], shown["used"], shown["max_unit"]) == (0, 0, 1, None)
    play(host, update(1, vm_state="deleted"))
    assert "VGPU" not in node_view(host.node(NODE))["resources"]


@pytest.mark.behaviour("resource-classes")
def test_usage_of_projects_has_custom_classes_apart_where_there_are_any():
    host = node_with(VGPU=4)
    play(host, begin(1, **sized(1), project_id="p", resources={"VGPU": 1}))
    play(host, begin(2, **sized(1), project_id="p", resources={"VGPU": 2}))
    play(host, begin(3, **sized(1), project_id="q"))
    p = {"instances": 2, "VCPU": 2, "MEMORY_MB": 0, "DISK_GB": 0, "resources": {"VGPU": 3}}
    q = {"instances": 1, "VCPU": 1, "MEMORY_MB": 0, "DISK_GB": 0}
    assert usage_view(host) == {"p": p, "q": q}
    twice = dict(merged(GetUsage(project_id=None), [usage_view(host), usage_view(host), {"q": p}]))
    assert twice["p"] == {"instances": 4, "VCPU": 4, "MEMORY_MB": 0, "DISK_GB": 0, "resources": {"VGPU": 6}}
    assert twice["q"] == {"instances": 4, "VCPU": 4, "MEMORY_MB": 0, "DISK_GB": 0, "resources": {"VGPU": 3}}
    assert usage_view(host) == {"p": p, "q": q}


# --- property -----------------------------------------------------------------------------------------------------------

CLASSES = [f"C{number}" for number in range(20)]
AMOUNTS = st.dictionaries(st.sampled_from([*CLASSES, "ELSEWHERE"]), st.integers(0, 5), max_size=6)
LIMITS = st.dictionaries(st.sampled_from(CLASSES), st.integers(0, 12), max_size=20)
DECLARED = st.fixed_dictionaries(
    {"total": st.integers(0, 12)},
    optional={
        "allocation_ratio": st.sampled_from([0.5, 1, 1.5, 4]),
        "step_size": st.integers(1, 3),
        "min_unit": st.integers(1, 2),
        "max_unit": st.integers(2, 5),
    },
)


@pytest.mark.behaviour("resource-classes")
@settings(derandomize=True, database=None, max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(CLASSES, DECLARED)),
    st.lists(st.tuples(st.integers(1, 6), AMOUNTS, LIMITS, st.booleans(), st.booleans()), max_size=25),
)
def test_claims_updates_and_deletions_of_twenty_classes_keep_the_books(declared, steps):
    host = node_with(**declared)
    ledger = host.node(NODE)
    held: dict[int, dict[str, int]] = {}
    for number, amounts, limits, capacity, ends in steps:
        wanted = {name: amount for name, amount in amounts.items() if amount}
        if number in held:
            if ends:
                play(host, update(number, vm_state="deleted"))
                del held[number]
            else:
                play(host, update(number, resources=amounts))
                held[number] = wanted
        else:
            used = {name: sum(each.get(name, 0) for each in held.values()) for name in (*CLASSES, "ELSEWHERE")}
            lacking = {
                name for name, amount in wanted.items() if not _takes(declared, name, amount, used, limits, capacity)
            }
            decision = play(host, asked(number, limits=limits, capacity_limits=capacity, **amounts))
            assert {
                lack["resource"] for lack in (decision.error.kwargs["shortfalls"] if decision.error else ())
            } == lacking
            if not lacking:
                held[number] = wanted
        total = {name: sum(each.get(name, 0) for each in held.values()) for name in (*CLASSES, "ELSEWHERE")}
        assert ledger.charged.to_dict() == {**STANDARD, **{name: amount for name, amount in total.items() if amount}}
        assert sum((each.resources for each in ledger.allocations.values()), resources()) == ledger.charged


def _takes(declared, name, amount, used, limits, capacity):
    if name not in declared:
        return False
    has = declared[name]
    units = (
        has.get("min_unit", 1) <= amount <= has.get("max_unit", has["total"]) and amount % has.get("step_size", 1) == 0
    )
    default = int(has["total"] * has.get("allocation_ratio", 1)) if capacity else 2**62
    return units and used[name] + amount <= limits.get(name, default)


@pytest.mark.behaviour("resource-classes")
def test_a_ratio_that_makes_a_capacity_below_every_number_of_json_is_refused():
    large = {"memory_mb": 1, "resources": {"MEMORY_MB": {"allocation_ratio": 2**50}}}
    assert refused_field(lambda: inventory(**large)) == "resources.MEMORY_MB.allocation_ratio"
