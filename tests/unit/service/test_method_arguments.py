# SPDX-License-Identifier: Apache-2.0
"""The RPC table: the arguments of each method, and the errors of wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders import TIMEOUT, instance_dict, uuid
from tests.support.engine import POLICY
from tests.support.methods import VALID, ask, refused
from tracker_worker.domain import commands
from tracker_worker.domain.fit import UNLIMITED, Limits
from tracker_worker.domain.policy import Policy
from tracker_worker.domain.queries import GetAllocation, WouldFit
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import InvalidInput
from tracker_worker.service.requests.methods import METHODS


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


NOBODY: list[dict[str, Any]] = [{"project_id": None}, {"project_id": ""}]
OWNED = replace(POLICY, owner_required=True)


class TestOwner:
    """With ``[tracker] missing_owner = refuse``."""

    @pytest.mark.parametrize("nobody", NOBODY)
    @pytest.mark.parametrize("context", [{}, {"project_id": ""}, {"project_id": None, "tenant": "", "user_id": "u"}])
    @pytest.mark.parametrize("method", ["begin_resource_claim", "would_fit", "begin_move_claim"])
    def test_a_claim_for_nobody_is_refused(self, method: str, nobody: dict[str, Any], context: dict[str, Any]) -> None:
        args = {**VALID[method], "instance": instance_dict(1, **nobody)}
        assert refused(method, args, policy=OWNED, context=context) == "instance.project_id"
        assert ask(method, args, context=context).action is not None
        assert ask(method, args, policy=OWNED, context={**context, "tenant": "p", "project_id": ""}).action is not None
        del args["instance"]["project_id"]
        assert refused(method, args, policy=OWNED, context=context) == "instance.project_id"

    @pytest.mark.parametrize("nobody", NOBODY)
    def test_a_claim_for_nobody_in_a_group_is_named_with_its_place(self, nobody: dict[str, Any]) -> None:
        claims = [{"instance": instance_dict(1)}, {"instance": instance_dict(2, **nobody)}]
        args = {"claims": claims}
        assert refused("begin_resource_claims", args, policy=OWNED) == "claims.1.instance.project_id"
        assert ask("begin_resource_claims", args, policy=OWNED, context={"project_id": "p"}).action is not None

    @pytest.mark.parametrize("nobody", NOBODY)
    def test_an_adoption_of_nobody_s_instance_is_refused_by_itself(self, nobody: dict[str, Any]) -> None:
        args = {"instances": [instance_dict(1), instance_dict(2, **nobody)]}
        asked = ask("adopt", args, policy=OWNED).action
        assert isinstance(asked, commands.AdoptInstances)
        refusals = [entry.instance for entry in asked.entries if isinstance(entry.instance, InvalidInput)]
        assert [refusal.kwargs["field"] for refusal in refusals] == ["instances.1.project_id"]

    @pytest.mark.parametrize("nobody", NOBODY)
    def test_an_update_without_an_owner_is_taken_since_it_changes_none(self, nobody: dict[str, Any]) -> None:
        args = {"instance": {"uuid": uuid(1), "vm_state": "active", **nobody}}
        assert ask("update_usage", args, policy=OWNED).action is not None


class TestNotifications:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((name, value) for name in ("node", "after_sequence", "limit") for value in ("", [], True)),
            ("node", None),
            ("after_sequence", -1),
            ("after_sequence", 1.5),
            ("after_sequence", 2**53 + 1),
            ("limit", 0),
            ("limit", 501),
            ("limit", 1.0),
        ],
    )
    def test_what_is_asked_for_is_checked(self, name: str, value: Any) -> None:
        assert refused("get_notifications", {"node": "n", name: value}) == name


class TestInstances:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *((name, value) for name in ("node", "after", "limit") for value in ("", [], True)),
            ("node", None),
            ("node", 7),
            ("node", "n" * 256),
            ("after", 7),
            ("after", " i-1"),
            ("after", "i" * 256),
            ("after", "\ud800"),
            ("limit", 0),
            ("limit", -1),
            ("limit", 501),
            ("limit", 2**53 + 1),
            ("limit", 1.0),
        ],
    )
    def test_what_is_asked_for_is_checked(self, name: str, value: Any) -> None:
        assert refused("get_instances", {"node": "n", name: value}) == name


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
