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
from tracker_worker.domain.queries import (
    GetAllocation,
    GetNode,
    GetUsage,
    ListAllocations,
    ListClaims,
    ListNodes,
    WouldFit,
)
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import HostNotServed, InvalidInput
from tracker_worker.service.requests.methods import (
    METHODS,
    Audit,
    Operation,
    Ping,
    resolve,
)
from tracker_worker.wire import versions
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
    "renew_resource_claim": {"claim_id": uuid(1)},
    "begin_resource_claims": {"claims": [{"instance": instance_dict(1)}, {"instance": instance_dict(2)}]},
    "would_fit": {"instance": instance_dict(1)},
    "list_allocations": {},
    "get_allocation": {"instance_uuid": uuid(1)},
    "release_allocation": {"instance_uuid": uuid(1), "reason": "a ghost"},
    "report_instances": {"uuids": [uuid(1)]},
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
        policy = Policy(
            claim_timeout=7,
            capacity_limits=True,
            release_expired=False,
            reserved=POLICY.reserved,
            stale_after=8,
            deletion_memory=9,
        )
        asked = self.begin(policy)
        assert (asked.timeout, asked.capacity_limits) == (7, True)
        assert (asked.stale_after, asked.remembers_deletions) == (8, 9)

    def test_a_caller_may_choose_the_claim_id_and_what_happens_on_expiry(self) -> None:
        assert (self.begin().claim_id, self.begin().on_expiry) == (None, None)
        assert (self.begin(claim_id=None).claim_id, self.begin(on_expiry=None).on_expiry) == (None, None)
        asked = self.begin(claim_id=uuid(7).upper(), on_expiry="release")
        assert (asked.claim_id, asked.on_expiry) == (uuid(7), "release")

    @pytest.mark.parametrize("value", ["", " c", "c ", 7, True, [], {}, "n" * 256])
    def test_a_claim_id_that_is_no_id_is_refused(self, value: Any) -> None:
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "claim_id": value}) == "claim_id"

    @pytest.mark.parametrize("value", ["", "Keep", "abort", 7, True, []])
    def test_what_happens_on_expiry_is_one_of_two(self, value: Any) -> None:
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "on_expiry": value}) == "on_expiry"

    def test_what_would_fit_is_asked_with_the_same_arguments(self) -> None:
        args = {"instance": instance_dict(1), "limits": {"vcpu": 4}}
        begun = ask("begin_resource_claim", args).action
        assert isinstance(begun, commands.BeginClaim)
        assert ask("would_fit", args).action == WouldFit(begin=begun)
        assert refused("would_fit", {"instance": instance_dict(1, vcpus=-1)}) == "instance.vcpus"
        assert refused("would_fit", {**args, "timeout": 1}) == "timeout"

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


class TestGroups:
    def begin(self, *entries: Any, **args: Any) -> tuple[commands.BeginClaim, ...]:
        action = ask("begin_resource_claims", {"claims": list(entries), **args}).action
        assert isinstance(action, commands.BeginClaims)
        return action.claims

    def test_each_entry_is_a_claim_in_order(self) -> None:
        entries = [{"instance": instance_dict(n, node=f"n-{n}"), "limits": {"vcpu": n}} for n in (2, 1)]
        begun = self.begin(*entries, timeout=3, on_expiry="keep")
        alone = [ask("begin_resource_claim", {**entry, "timeout": 3, "on_expiry": "keep"}).action for entry in entries]
        assert list(begun) == alone

    def test_an_entry_may_choose_its_claim_id(self) -> None:
        [begun] = self.begin({"instance": instance_dict(1), "claim_id": uuid(9)})
        assert begun.claim_id == uuid(9)

    def test_a_group_has_1_to_500_claims(self) -> None:
        assert len(self.begin(*[{"instance": instance_dict(n)} for n in range(500)])) == 500
        wrong: list[Any] = [[], [{"instance": instance_dict(n)} for n in range(501)], {}, None, "claims", 7]
        for claims in wrong:
            assert refused("begin_resource_claims", {"claims": claims}) == "claims"

    @pytest.mark.parametrize(
        ("entry", "path"),
        [
            (None, "claims.1"),
            ([], "claims.1"),
            ({}, "claims.1.instance"),
            ({"instance": instance_dict(2), "limit": {}}, "claims.1.limit"),
            ({"instance": instance_dict(2), "timeout": 3}, "claims.1.timeout"),
            ({"instance": instance_dict(2, vcpus="2")}, "claims.1.instance.vcpus"),
            ({"instance": instance_dict(2), "limits": {"vcpu": -1}}, "claims.1.limits.vcpu"),
            ({"instance": instance_dict(2), "limits": {"cpu": 1}}, "claims.1.limits.cpu"),
            ({"instance": instance_dict(2), "claim_id": ""}, "claims.1.claim_id"),
        ],
    )
    def test_a_wrong_entry_is_named_with_its_place(self, entry: Any, path: str) -> None:
        assert refused("begin_resource_claims", {"claims": [{"instance": instance_dict(1)}, entry]}) == path

    @pytest.mark.parametrize(("name", "value"), [("timeout", -1), ("on_expiry", "never")])
    def test_what_the_entries_share_is_named_by_itself(self, name: str, value: Any) -> None:
        assert refused("begin_resource_claims", {"claims": [{"instance": instance_dict(1)}], name: value}) == name

    def test_a_wrong_context_is_named_by_itself(self) -> None:
        args = {"claims": [{"instance": instance_dict(1, project_id=None)}]}
        assert refused("begin_resource_claims", args, context={"project_id": 7}) == "context.project_id"


class TestPages:
    @pytest.mark.parametrize("limit", [0, -1, 1001, 1.0, True, "5", []])
    def test_a_page_has_1_to_1000_allocations(self, limit: Any) -> None:
        assert refused("list_allocations", {"limit": limit}) == "limit"

    @pytest.mark.parametrize("limit", [0, -1, 1.0, True, "5", []])
    def test_a_page_has_at_least_one_claim(self, limit: Any) -> None:
        assert refused("list_claims", {"limit": limit}) == "limit"

    @pytest.mark.parametrize("after", ["", "a", "/", "a/", "/a", 7, [], "a" * 256 + "/b", "a/" + "b" * 256, "a\0/b"])
    def test_a_page_begins_where_an_earlier_one_ended(self, after: Any) -> None:
        assert refused("list_allocations", {"after": after}) == "after"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("role", "tenant"),
            ("role", ""),
            ("state", "running"),
            ("state", 7),
            ("older_than", -1),
            ("older_than", "1"),
            ("project_id", 7),
        ],
    )
    def test_what_is_asked_for_is_checked(self, name: str, value: Any) -> None:
        assert refused("list_allocations", {name: value}) == name


class TestOperators:
    @pytest.mark.parametrize("reason", ["", "  ", None, 7, "r" * 256])
    def test_a_release_has_a_reason(self, reason: Any) -> None:
        assert refused("release_allocation", {"instance_uuid": "i", "reason": reason}) == "reason"

    @pytest.mark.parametrize("key", ["user_id", "user"])
    def test_a_release_has_the_user_of_the_context(self, key: str) -> None:
        asked = ask("release_allocation", context={key: "operator", "project_id": "p"}).action
        assert isinstance(asked, commands.ReleaseAllocation)
        assert asked.released_by == "operator"

    @pytest.mark.parametrize("uuids", [None, "u", {}, 7])
    def test_the_instances_that_run_are_a_list(self, uuids: Any) -> None:
        assert refused("report_instances", {"uuids": uuids}) == "uuids"

    @pytest.mark.parametrize("wrong", ["", 7, " u", None])
    def test_an_instance_that_is_no_id_is_named_with_its_place(self, wrong: Any) -> None:
        assert refused("report_instances", {"uuids": ["u", wrong]}) == "uuids.1"

    def test_uuids_are_read_in_any_spelling(self) -> None:
        spelt = [uuid(1).upper(), "{" + uuid(2) + "}", "urn:uuid:" + uuid(3), uuid(4).replace("-", "")]
        asked = ask("report_instances", {"uuids": spelt}).action
        assert isinstance(asked, commands.CompareInstances)
        assert asked.uuids == {uuid(n) for n in (1, 2, 3, 4)}
        assert ask("get_allocation", {"instance_uuid": spelt[0]}).action == GetAllocation(uuid=uuid(1))
        assert ask("abort_resource_claim", {"claim_id": spelt[1]}).action == commands.AbortClaim(claim_id=uuid(2))
        assert ask("renew_resource_claim", {"claim_id": spelt[3]}).action == commands.RenewClaim(
            claim_id=uuid(4), timeout=TIMEOUT
        )

    def test_without_a_memory_of_deletions_none_is_noted(self) -> None:
        policy = Policy(
            claim_timeout=7, capacity_limits=True, release_expired=False, reserved=POLICY.reserved, deletion_memory=0
        )
        asked = ask("update_usage", policy=policy).action
        assert isinstance(asked, commands.UpdateUsage)
        assert not asked.notes_deletions


class TestArguments:
    @pytest.mark.parametrize(
        ("method", "missing"),
        [(name, required) for name, method in METHODS.items() for required in method.required],
    )
    def test_a_missing_argument_is_named(self, method: str, missing: str) -> None:
        assert refused(method, {name: value for name, value in VALID[method].items() if name != missing}) == missing

    @pytest.mark.parametrize("method", METHODS)
    def test_an_unknown_argument_is_named(self, method: str) -> None:
        assert refused(method, {**VALID[method], "colour": "blue"}) == "colour"

    def test_a_misspelt_argument_is_refused(self) -> None:
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "limit": {}}) == "limit"
        limits = {"memory": 1}
        assert refused("begin_resource_claim", {"instance": instance_dict(1), "limits": limits}) == "limits.memory"

    @pytest.mark.parametrize("value", ["", 7, True, [], {}, "n" * 256, "a\0b", "\ud800"])
    @pytest.mark.parametrize(
        "method", ["update_available_resource", "get_node", "list_claims", "list_allocations", "report_instances"]
    )
    def test_a_node_that_is_not_a_name_is_refused(self, method: str, value: Any) -> None:
        assert refused(method, {**VALID[method], "node": value}) == "node"

    @pytest.mark.parametrize("value", ["", None, 7, True, [], {}])
    @pytest.mark.parametrize("method", ["finish_resource_claim", "abort_resource_claim", "renew_resource_claim"])
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
