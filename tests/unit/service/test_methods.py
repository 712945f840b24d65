# SPDX-License-Identifier: Apache-2.0
"""The RPC table: the command or query of each method, its hosts, its version, and that any request gets an answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_messaging.rpc.dispatcher import NoSuchMethod, UnsupportedVersion

from tests.support.builders import TIMEOUT, instance_dict, uuid
from tests.support.methods import ANY_HOST, OWN, SERVED, VALID, ask, refused
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.domain import commands
from tracker_worker.domain.queries import (
    GetAllocation,
    GetInstances,
    GetNode,
    GetNotifications,
    GetUsage,
    ListAllocations,
    ListClaims,
    ListNodes,
)
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.service.requests.methods import METHODS, Audit, Operation, Ping
from tracker_worker.wire import versions

# Derandomized examples are the same in each run; the first example takes longer because it loads the tables of Unicode.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def test_the_table_has_exactly_the_methods_of_the_interface() -> None:
    assert set(METHODS) == set(VALID)


@pytest.mark.parametrize(
    ("method", "args", "asked"),
    [
        ("finish_resource_claim", {"claim_id": "c"}, commands.FinishClaim(claim_id="c")),
        ("abort_resource_claim", {"claim_id": "c"}, commands.AbortClaim(claim_id="c")),
        (
            "update_usage",
            {"instance": {"uuid": "i", "vm_state": "active", "node": "n", "colour": "blue"}},
            commands.UpdateUsage(uuid="i", changes={"uuid": "i", "vm_state": "active"}, node="n", notes_deletions=True),
        ),
        ("update_available_resource", {}, Audit(node=None)),
        ("update_available_resource", {"node": "n"}, Audit(node="n")),
        ("get_node", {}, GetNode(node=None)),
        ("get_node", {"node": None}, GetNode(node=None)),
        ("get_node", {"node": "n"}, GetNode(node="n")),
        ("list_nodes", {}, ListNodes()),
        ("list_claims", {}, ListClaims(node=None)),
        ("list_claims", {"node": "n"}, ListClaims(node="n")),
        ("list_claims", {"limit": 3, "after": "c"}, ListClaims(node=None, limit=3, after="c")),
        ("list_allocations", {}, ListAllocations(limit=500)),
        (
            "list_allocations",
            {
                "node": "n",
                "project_id": "p",
                "role": "instance",
                "state": "active",
                "older_than": 1.5,
                "limit": 1000,
                "after": "a/b/c",
            },
            ListAllocations(
                node="n",
                project_id="p",
                role="instance",
                state="active",
                older_than=1_500_000,
                limit=1000,
                after=("a/b", "c"),
            ),
        ),
        ("get_allocation", {"instance_uuid": "i"}, GetAllocation(uuid="i")),
        ("renew_resource_claim", {"claim_id": "c"}, commands.RenewClaim(claim_id="c", timeout=TIMEOUT)),
        (
            "renew_resource_claim",
            {"claim_id": "c", "timeout": 2},
            commands.RenewClaim(claim_id="c", timeout=2 * SECOND),
        ),
        (
            "report_instances",
            {"node": "n", "uuids": ["b", "a", "b"]},
            commands.CompareInstances(node="n", uuids=frozenset({"a", "b"})),
        ),
        ("report_instances", {"uuids": []}, commands.CompareInstances(node=None, uuids=frozenset())),
        (
            "release_allocation",
            {"instance_uuid": "i", "reason": "a ghost"},
            commands.ReleaseAllocation(uuid="i", reason="a ghost", released_by=""),
        ),
        ("get_usage", {}, GetUsage(project_id=None)),
        ("get_usage", {"project_id": "p"}, GetUsage(project_id="p")),
        ("get_usage", {"project_id": ""}, GetUsage(project_id="")),
        ("get_instances", {"node": "n"}, GetInstances(node="n", after=None, limit=500)),
        (
            "get_instances",
            {"node": "n", "after": f"{{{uuid(1).upper()}}}", "limit": 1},
            GetInstances(node="n", after=uuid(1), limit=1),
        ),
        ("get_instances", {"node": "n", "after": "i-1", "limit": 500}, GetInstances(node="n", after="i-1", limit=500)),
        ("get_instances", {"node": "n", "after": None, "limit": None}, GetInstances(node="n", after=None, limit=500)),
        ("get_notifications", {"node": "n"}, GetNotifications(node="n", after=0, limit=100)),
        (
            "get_notifications",
            {"node": "n", "after_sequence": 2**53, "limit": 500},
            GetNotifications(node="n", after=2**53, limit=500),
        ),
        (
            "get_notifications",
            {"node": "n", "after_sequence": None, "limit": None},
            GetNotifications(node="n", after=0, limit=100),
        ),
        ("oslo_rpc_server_ping", {}, Ping()),
    ],
)
def test_each_method_becomes_its_command_or_query(method: str, args: dict[str, Any], asked: Any) -> None:
    assert ask(method, args) == Operation((OWN,), asked)


class TestHosts:
    @pytest.mark.parametrize("method", METHODS)
    def test_on_the_topic_of_a_host_the_argument_host_may_be_absent_or_name_that_host(self, method: str) -> None:
        assert ask(method).hosts == (OWN,)
        assert ask(method, {**VALID[method], "host": OWN}).hosts == (OWN,)
        assert ask(method, {**VALID[method], "host": None}).hosts == (OWN,)
        for other in ("host-2", "host-9"):
            assert refused(method, {**VALID[method], "host": other}) == "host"

    @pytest.mark.parametrize("source", [SHARED, FANOUT])
    @pytest.mark.parametrize("method", METHODS)
    def test_on_a_shared_topic_the_argument_host_must_name_a_served_host(self, method: str, source: str) -> None:
        assert ask(method, {**VALID[method], "host": "host-2"}, source=source).hosts == ("host-2",)
        with pytest.raises(HostNotServed) as caught:
            ask(method, {**VALID[method], "host": "host-9"}, source=source)
        assert caught.value.kwargs == {"host": "host-9"}

    @pytest.mark.parametrize("source", [SHARED, FANOUT])
    @pytest.mark.parametrize("method", METHODS)
    def test_on_a_shared_topic_a_request_without_host_is_for_all_hosts_or_refused(
        self, method: str, source: str
    ) -> None:
        if method in ANY_HOST or (source, method) == (FANOUT, "update_available_resource"):
            assert ask(method, source=source).hosts == SERVED
        else:
            assert refused(method, source=source) == "host"

    @pytest.mark.parametrize("source", [OWN, SHARED, FANOUT])
    @pytest.mark.parametrize("value", ["", 7, True, [], {}])
    @pytest.mark.parametrize("method", METHODS)
    def test_a_host_that_is_not_a_name_is_refused(self, method: str, value: Any, source: str) -> None:
        assert refused(method, {**VALID[method], "host": value}, source=source) == "host"


class TestVersions:
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    @pytest.mark.parametrize("method", METHODS)
    def test_versions_1_0_and_1_1_are_served_for_every_method(self, method: str, version: str) -> None:
        assert ask(method, version=version) == ask(method)

    def test_the_version_of_every_method_and_argument_is_known(self) -> None:
        assert set(versions.METHODS) == set(METHODS)
        assert max(versions.METHODS.values()) == versions.MINOR
        for method, newer in versions.ARGUMENTS.items():
            assert set(newer) <= set(METHODS[method].optional)
            assert all(versions.METHODS[method] < minor <= versions.MINOR for minor in newer.values())

    def test_what_1_0_had_is_still_there(self) -> None:
        had = {
            "begin_resource_claim": {"instance", "limits", "timeout"},
            "finish_resource_claim": {"claim_id"},
            "abort_resource_claim": {"claim_id"},
            "update_usage": {"instance"},
            "update_available_resource": {"node"},
            "get_node": {"node"},
            "list_nodes": set(),
            "list_claims": {"node"},
            "get_usage": {"project_id"},
            "oslo_rpc_server_ping": set(),
        }
        assert {name for name, minor in versions.METHODS.items() if minor == 0} == set(had)
        for name, arguments_of in had.items():
            asked = {*METHODS[name].required, *METHODS[name].optional} - set(versions.ARGUMENTS.get(name, ()))
            assert asked == arguments_of

    @pytest.mark.parametrize(
        "version",
        [
            "1.2",
            "\u0c67.0",
            "2.0",
            "0.9",
            "1",
            "",
            "x",
            "1.0.0",
            "1.-1",
            " 1.0",
            "1.0\n",
            "1.0x",
            "-1.0",
            "1." + "9" * 5000,
        ],
    )
    @pytest.mark.parametrize("method", ["get_node", "nonsense", "_private"])
    def test_another_version_is_unsupported_for_every_method(self, version: str, method: str) -> None:
        with pytest.raises(UnsupportedVersion) as caught:
            ask(method, version=version)
        assert (caught.value.version, caught.value.method) == (version, method)

    @pytest.mark.parametrize("namespace", ["baseapi", ""])
    def test_a_namespace_is_unsupported(self, namespace: str) -> None:
        with pytest.raises(UnsupportedVersion):
            ask("get_node", namespace=namespace)

    @pytest.mark.parametrize("method", ["", "nonsense", "_private", "__init__", "GET_NODE", "get_node ", "resolve"])
    def test_an_unknown_method_is_named(self, method: str) -> None:
        with pytest.raises(NoSuchMethod) as caught:
            ask(method)
        assert caught.value.method == method


json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**52, 2**70)
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = sorted(
    {name for method in METHODS.values() for name in (*method.required, *method.optional)} | {"host", "colour", ""}
)
fields = st.sampled_from([*sorted(instance_dict(1)), "node"])
instances = st.builds(
    lambda replaced, removed: {
        name: value for name, value in {**instance_dict(1), **replaced}.items() if name not in removed
    },
    st.dictionaries(fields, json, max_size=2),
    st.sets(fields, max_size=1),
)
limits = st.dictionaries(st.sampled_from(["memory_mb", "disk_gb", "vcpu", "memory"]), json, max_size=2)
arguments = st.dictionaries(
    st.sampled_from(names), st.one_of(json, instances, limits, st.sampled_from(SERVED)), max_size=5
)


@FUZZ
@given(
    method=st.sampled_from([*METHODS, "nonsense"]),
    args=arguments,
    valid=st.booleans(),
    source=st.sampled_from([OWN, SHARED, FANOUT]),
    context=st.dictionaries(st.sampled_from(["project_id", "user_id", "tenant", "user"]), json, max_size=2),
)
def test_every_request_gives_an_operation_or_a_typed_error(
    method: str, args: dict[str, Any], valid: bool, source: str, context: dict[str, Any]
) -> None:
    args = {**VALID.get(method, {}), **args} if valid else args
    came: Operation | Exception
    try:
        came = ask(method, args, source=source, context=context)
    except (InvalidInput, HostNotServed, NoSuchMethod) as refusal:
        came = refusal
    match came:
        case InvalidInput(kwargs=facts):
            assert isinstance(facts["field"], str)
            assert isinstance(facts["reason"], str)
        case HostNotServed(kwargs=facts):
            assert facts["host"] not in SERVED
        case NoSuchMethod():
            assert method == "nonsense"
        case Operation(hosts=hosts):
            assert set(hosts) <= set(SERVED)
            assert len(hosts) == 1 or method in ANY_HOST or source == FANOUT


@FUZZ
@given(version=st.text(max_size=8) | st.from_regex(r"\d{1,3}\.\d{1,3}", fullmatch=True), method=st.text(max_size=8))
def test_only_versions_with_major_1_and_minor_0_or_1_are_served(version: str, method: str) -> None:
    with pytest.raises((UnsupportedVersion, NoSuchMethod)) as caught:
        ask(method, {}, version=version)
    served = re.fullmatch(r"0*1\.0*[01]", version) is not None
    assert isinstance(caught.value, NoSuchMethod) is served
