# SPDX-License-Identifier: Apache-2.0
"""The RPC table: the command or query of each method, its hosts, and the errors of wrong requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oslo_messaging.rpc.dispatcher import NoSuchMethod, UnsupportedVersion

from tests.support.builders import TIMEOUT, instance_dict, uuid
from tests.support.engine import POLICY
from tracker_worker.bus.base import FANOUT, SHARED
from tracker_worker.domain import commands
from tracker_worker.domain.fit import UNLIMITED, Limits
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetNode, GetUsage, ListClaims, ListNodes
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.service.requests.methods import (
    METHODS,
    Audit,
    Operation,
    Ping,
    resolve,
)
from tracker_worker.wire.request import Request

# Derandomized examples are the same in each run; the first example takes longer because it loads the tables of Unicode.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SERVED = ("host-1", "host-2")
OWN = "host-1"
ANY_HOST = {"list_nodes", "get_usage", "oslo_rpc_server_ping"}
VALID: dict[str, dict[str, Any]] = {
    "begin_resource_claim": {"instance": instance_dict(1)},
    "finish_resource_claim": {"claim_id": uuid(1)},
    "abort_resource_claim": {"claim_id": uuid(1)},
    "update_usage": {"instance": {"uuid": uuid(1)}},
    "update_available_resource": {},
    "get_node": {},
    "list_nodes": {},
    "list_claims": {},
    "get_usage": {},
    "oslo_rpc_server_ping": {},
}


def ask(
    method: str,
    args: Mapping[str, Any] | None = None,
    *,
    source: str = OWN,
    version: str = "1.0",
    namespace: str | None = None,
    context: Mapping[str, Any] | None = None,
    policy: Policy = POLICY,
) -> Operation:
    request = Request(
        method=method,
        args=VALID.get(method, {}) if args is None else args,
        version=version,
        namespace=namespace,
        context=context or {},
        unique_id="u-1",
        reply_to=None,
        monitor_seconds=None,
    )
    return resolve(request, source=source, served=SERVED, policy=policy)


def refused(*arguments: Any, **options: Any) -> str:
    """The field that InvalidInput names."""
    with pytest.raises(InvalidInput) as caught:
        ask(*arguments, **options)
    return str(caught.value.kwargs["field"])


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
            commands.UpdateUsage(uuid="i", changes={"uuid": "i", "vm_state": "active"}, node="n"),
        ),
        ("update_available_resource", {}, Audit(node=None)),
        ("update_available_resource", {"node": "n"}, Audit(node="n")),
        ("get_node", {}, GetNode(node=None)),
        ("get_node", {"node": None}, GetNode(node=None)),
        ("get_node", {"node": "n"}, GetNode(node="n")),
        ("list_nodes", {}, ListNodes()),
        ("list_claims", {}, ListClaims(node=None)),
        ("list_claims", {"node": "n"}, ListClaims(node="n")),
        ("get_usage", {}, GetUsage(project_id=None)),
        ("get_usage", {"project_id": "p"}, GetUsage(project_id="p")),
        ("get_usage", {"project_id": ""}, GetUsage(project_id="")),
        ("oslo_rpc_server_ping", {}, Ping()),
    ],
)
def test_each_method_becomes_its_command_or_query(method: str, args: dict[str, Any], asked: Any) -> None:
    assert ask(method, args) == Operation((OWN,), asked)


class TestBegin:
    def begin(self, policy: Policy = POLICY, context: Mapping[str, Any] | None = None, **args: Any) -> Any:
        return ask(
            "begin_resource_claim", {"instance": instance_dict(1), **args}, policy=policy, context=context
        ).action

    def test_a_begin_has_the_instance_the_node_and_the_defaults(self) -> None:
        asked = self.begin(instance=instance_dict(1, node="n"))
        assert isinstance(asked, commands.BeginClaim)
        assert (asked.instance.uuid, asked.node) == (uuid(1), "n")
        assert (asked.limits, asked.timeout, asked.capacity_limits) == (UNLIMITED, TIMEOUT, False)

    def test_the_policy_sets_the_timeout_and_the_meaning_of_a_missing_limit(self) -> None:
        policy = Policy(claim_timeout=7, capacity_limits=True, release_expired=False, reserved=POLICY.reserved)
        asked = self.begin(policy)
        assert (asked.timeout, asked.capacity_limits) == (7, True)

    @pytest.mark.parametrize(
        ("timeout", "microseconds"),
        [
            (None, TIMEOUT),
            (0, TIMEOUT),
            (0.0, TIMEOUT),
            (1, SECOND),
            (0.5, SECOND // 2),
            (1e-9, 1),
            (2**31, 2**31 * SECOND),
        ],
    )
    def test_a_timeout_is_in_seconds_and_zero_or_none_is_the_default(self, timeout: Any, microseconds: int) -> None:
        assert self.begin(timeout=timeout).timeout == microseconds

    @pytest.mark.parametrize("timeout", [-1, -0.1, True, "60", [], float("nan"), float("inf"), 2**31 + 1])
    def test_an_invalid_timeout_is_refused(self, timeout: Any) -> None:
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "timeout": timeout}) == "timeout"

    def test_limits_are_read(self) -> None:
        asked = self.begin(limits={"vcpu": 4.9, "memory_mb": None})
        assert asked.limits == Limits((4, None, None))

    def test_an_instance_without_an_owner_gets_the_owner_of_the_context(self) -> None:
        nobody = instance_dict(1, project_id=None, user_id=None)
        told = self.begin(context={"project_id": "p", "user_id": "u"}, instance=nobody).instance
        assert (told.project_id, told.user_id) == ("p", "u")
        told = self.begin(context={"tenant": "p", "user": "u"}, instance=nobody).instance
        assert (told.project_id, told.user_id) == ("p", "u")
        named = self.begin(context={"project_id": "p", "user_id": "u"}).instance
        assert (named.project_id, named.user_id) == (instance_dict(1)["project_id"], instance_dict(1)["user_id"])
        assert self.begin(instance=nobody).instance.project_id is None

    @pytest.mark.parametrize("key", ["project_id", "user_id"])
    def test_an_owner_in_the_context_that_is_not_a_text_is_refused(self, key: str) -> None:
        nobody = instance_dict(1, project_id=None, user_id=None)
        assert refused("begin_resource_claim", {"instance": nobody}, context={key: 7}) == f"context.{key}"


class TestArguments:
    @pytest.mark.parametrize(
        ("method", "missing"),
        [(name, required) for name, method in METHODS.items() for required in method.required],
    )
    def test_a_missing_argument_is_named(self, method: str, missing: str) -> None:
        assert refused(method, {}) == missing

    @pytest.mark.parametrize("method", METHODS)
    def test_an_unknown_argument_is_named(self, method: str) -> None:
        assert refused(method, {**VALID[method], "colour": "blue"}) == "colour"

    def test_a_misspelt_argument_is_refused(self) -> None:
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "limit": {}}) == "limit"
        limits = {"memory": 1}
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "limits": limits}) == "limits.memory"

    @pytest.mark.parametrize("value", ["", 7, True, [], {}, "n" * 256, "a\0b", "\ud800"])
    @pytest.mark.parametrize("method", ["update_available_resource", "get_node", "list_claims"])
    def test_a_node_that_is_not_a_name_is_refused(self, method: str, value: Any) -> None:
        assert refused(method, {"node": value}) == "node"

    @pytest.mark.parametrize("value", ["", None, 7, True, [], {}])
    @pytest.mark.parametrize("method", ["finish_resource_claim", "abort_resource_claim"])
    def test_a_claim_id_that_is_not_a_name_is_refused(self, method: str, value: Any) -> None:
        assert refused(method, {"claim_id": value}) == "claim_id"

    @pytest.mark.parametrize("value", [7, True, [], {}])
    def test_a_project_that_is_not_a_text_is_refused(self, value: Any) -> None:
        assert refused("get_usage", {"project_id": value}) == "project_id"

    @pytest.mark.parametrize("value", [None, "i", 7, []])
    @pytest.mark.parametrize("method", ["begin_resource_claim", "update_usage"])
    def test_an_instance_that_is_not_an_object_is_refused(self, method: str, value: Any) -> None:
        assert refused(method, {"instance": value}) == "instance"

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"memory_mb": -1}, "instance.memory_mb"),
            ({"vcpus": 1.0}, "instance.vcpus"),
            ({"uuid": ""}, "instance.uuid"),
            ({"vm_state": "bogus"}, "instance.vm_state"),
            ({"node": ""}, "instance.node"),
            ({"node": 7}, "instance.node"),
            ({"metadata": "x"}, "instance.metadata"),
        ],
    )
    @pytest.mark.parametrize("method", ["begin_resource_claim", "update_usage"])
    def test_a_field_of_an_instance_is_named_with_its_path(
        self, method: str, fields: dict[str, Any], named: str
    ) -> None:
        assert refused(method, {"instance": instance_dict(1, **fields)}) == named


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
    def test_version_1_0_is_served(self) -> None:
        assert ask("get_node", version="1.0").action == GetNode(node=None)

    @pytest.mark.parametrize(
        "version",
        [
            "1.1",
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
def test_only_versions_with_major_1_and_minor_0_are_served(version: str, method: str) -> None:
    with pytest.raises((UnsupportedVersion, NoSuchMethod)) as caught:
        ask(method, {}, version=version)
    served = re.fullmatch(r"0*1\.0+", version) is not None
    assert isinstance(caught.value, NoSuchMethod) is served
