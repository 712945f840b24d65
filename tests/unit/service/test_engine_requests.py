# SPDX-License-Identifier: Apache-2.0
"""The requests that version 1.1 added, through the whole worker but the broker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST, NOW, TIMEOUT, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.engine import EngineHarness
from tests.unit.service.conftest import MakeHarness
from tracker_worker.domain.values import SECOND
from tracker_worker.domain.views import iso

CLAIM_ID = uuid(900)
N1 = node_name(1)
N2 = node_name(2)


def ask(harness: EngineHarness, method: str, **args: Any) -> Any:
    return harness.caller.call(method, **args).reply()


def begin(harness: EngineHarness, number: int = 1, limits: Any = None, **args: Any) -> Any:
    return ask(harness, "begin_resource_claim", instance=instance_dict(number), limits=limits, **args)


def groups(*numbers: int, **limits: Any) -> list[dict[str, Any]]:
    return [{"instance": instance_dict(number), "limits": limits or None} for number in numbers]


def usage(harness: EngineHarness) -> tuple[int, int, int]:
    view = ask(harness, "get_node")
    return view["running_vms"], view["vcpus_used"], view["generation"]


class TestClaims:
    def test_a_claim_has_the_id_that_its_caller_chose(self, harness: EngineHarness) -> None:
        begun = begin(harness, claim_id=CLAIM_ID.upper(), on_expiry="release")
        assert (begun["claim_id"], begun["on_expiry"]) == (CLAIM_ID, "release")
        assert ask(harness, "finish_resource_claim", claim_id=CLAIM_ID)["state"] == "finished"

    def test_a_late_abort_ends_no_other_claim(self, harness: EngineHarness) -> None:
        first = begin(harness)
        assert ask(harness, "abort_resource_claim", claim_id=first["claim_id"])["state"] == "aborted"
        second = begin(harness)
        assert second["claim_id"] != first["claim_id"]
        assert ask(harness, "abort_resource_claim", claim_id=first["claim_id"]) is None
        assert ask(harness, "finish_resource_claim", claim_id=second["claim_id"])["state"] == "finished"

    def test_an_id_that_another_claim_has_is_a_conflict(self, harness: EngineHarness) -> None:
        begin(harness, claim_id=CLAIM_ID)
        assert begin(harness, 2, claim_id=CLAIM_ID).error == "ClaimConflict"

    def test_a_renewal_lets_a_claim_expire_later(self, harness: EngineHarness) -> None:
        begun = begin(harness)
        harness.clock.forward(60)
        renewed = ask(harness, "renew_resource_claim", claim_id=begun["claim_id"])
        assert (begun["expires_at"], renewed["expires_at"]) == (iso(NOW + TIMEOUT), iso(NOW + TIMEOUT + 60 * SECOND))
        assert harness.store.commits[-1].events == ["tracker.claim.renewed"]
        assert ask(harness, "renew_resource_claim", claim_id=begun["claim_id"]) == renewed
        assert harness.store.commits[-1].events == []
        ask(harness, "finish_resource_claim", claim_id=begun["claim_id"])
        assert ask(harness, "renew_resource_claim", claim_id=begun["claim_id"]) is None


class TestGroups:
    def test_a_group_is_one_commit(self, harness: EngineHarness) -> None:
        before = usage(harness)[2]
        begun = ask(harness, "begin_resource_claims", claims=groups(1, 2, 3), on_expiry="keep")
        assert [claim["instance_uuid"] for claim in begun] == [uuid(1), uuid(2), uuid(3)]
        assert {claim["generation"] for claim in begun} == {before + 1}
        assert harness.store.commits[-1].events == ["tracker.claim.begun"] * 3
        assert usage(harness) == (3, 6, before + 1)

    def test_a_group_of_which_one_does_not_fit_charges_nothing(self, harness: EngineHarness) -> None:
        refused = ask(harness, "begin_resource_claims", claims=groups(1, 2, 3, vcpu=4))
        assert isinstance(refused, Refused)
        assert refused.error == "ComputeResourcesUnavailable"
        assert refused.kwargs["shortfalls"] == [
            {"resource": "VCPU", "requested": 2, "used": 4, "limit": 4, "instance_uuid": uuid(3), "node": N1}
        ]
        assert usage(harness)[:2] == (0, 0)

    def test_a_copy_of_a_group_gets_the_same_answer(self, harness: EngineHarness) -> None:
        first = harness.caller.call("begin_resource_claims", unique_id="u-1", claims=groups(1, 2)).reply()
        again = harness.caller.call("begin_resource_claims", unique_id="u-1", claims=groups(1, 2)).reply()
        assert again == first
        assert usage(harness)[0] == 2

    @pytest.mark.parametrize(
        ("claims", "field"),
        [
            (groups(1, 1), "claims.1.instance.uuid"),
            ([groups(1)[0], {"instance": instance_dict(2, vm_state="deleted")}], "claims.1.instance.vm_state"),
            ([groups(1)[0], {"instance": instance_dict(2, vcpus=True)}], "claims.1.instance.vcpus"),
        ],
    )
    def test_a_wrong_entry_is_named_and_nothing_is_charged(
        self, harness: EngineHarness, claims: list[dict[str, Any]], field: str
    ) -> None:
        refused = ask(harness, "begin_resource_claims", claims=claims)
        assert (refused.error, refused.kwargs["field"]) == ("InvalidInput", field)
        assert usage(harness)[0] == 0


class TestAdoption:
    def test_instances_are_adopted_in_one_commit(self, harness: EngineHarness) -> None:
        before = usage(harness)[2]
        instances = [instance_dict(1), instance_dict(2, vcpus=-1), instance_dict(3)]
        reply = ask(harness, "adopt", instances=instances)
        assert (reply["adopted"], reply["already"]) == ([uuid(1), uuid(3)], [])
        assert [(each["instance_uuid"], each["code"]) for each in reply["refused"]] == [(uuid(2), "invalid_input")]
        assert harness.store.commits[-1].events == ["tracker.usage.adopted"] * 2
        assert usage(harness) == (2, 4, before + 1)

    def test_a_copy_of_an_adoption_gets_the_same_answer_and_a_repetition_another_one(
        self, harness: EngineHarness
    ) -> None:
        first = harness.caller.call("adopt", unique_id="u-1", instances=[instance_dict(1)]).reply()
        assert harness.caller.call("adopt", unique_id="u-1", instances=[instance_dict(1)]).reply() == first
        assert ask(harness, "adopt", instances=[instance_dict(1)])["already"] == [uuid(1)]
        assert usage(harness)[0] == 1

    def test_an_adoption_of_nothing_answers_empty_lists(self, harness: EngineHarness) -> None:
        assert ask(harness, "adopt", instances=[]) == {"adopted": [], "already": [], "refused": []}

    def test_too_many_instances_are_invalid_input(self, harness: EngineHarness) -> None:
        refused = ask(harness, "adopt", instances=[{"uuid": uuid(number)} for number in range(1001)])
        assert (refused.error, refused.kwargs["field"]) == ("InvalidInput", "instances")


class TestWouldFit:
    @pytest.mark.parametrize("vcpu", [1, 2, 3, 4])
    def test_the_answer_is_that_of_the_claim_and_nothing_changes(self, harness: EngineHarness, vcpu: int) -> None:
        begin(harness)
        before = ask(harness, "get_node")
        told = ask(harness, "would_fit", instance=instance_dict(2), limits={"vcpu": vcpu})
        assert ask(harness, "get_node") == before
        begun = begin(harness, 2, {"vcpu": vcpu})
        if told["fits"]:
            assert (told["shortfalls"], told["limit_source"]) == ([], begun["limit_source"])
        else:
            assert begun.kwargs["shortfalls"] == told["shortfalls"] != []
        assert told["fits"] is (vcpu == 4)

    def test_another_error_is_that_of_the_claim(self, harness: EngineHarness) -> None:
        begin(harness)
        for fields in ({"vcpus": 9}, {"node": "x"}, {"vm_state": "deleted"}, {"pci_requests": [1]}):
            described = instance_dict(1, **fields)
            told = ask(harness, "would_fit", instance=described)
            assert isinstance(told, Refused)
            assert told == ask(harness, "begin_resource_claim", instance=described)


class TestReading:
    @pytest.fixture
    def filled(self, make_harness: MakeHarness) -> EngineHarness:
        """Two nodes, and five instances, charged in the reverse order of their uuids."""
        harness = make_harness(nodes=2).start()
        for number in range(5, 0, -1):
            ask(harness, "begin_resource_claim", instance=instance_dict(number, node=node_name(1 + number % 2)))
        return harness

    def test_pages_have_every_allocation_once_in_the_order_of_the_uuids(self, filled: EngineHarness) -> None:
        pages, after = [], None
        for _ in range(4):
            page = ask(filled, "list_allocations", limit=2, after=after)
            pages.append([entry["instance_uuid"] for entry in page["allocations"]])
            after = page["next"]
            if after is None:
                break
        assert pages == [[uuid(1), uuid(2)], [uuid(3), uuid(4)], [uuid(5)]]
        views = {view["node"]: view for view in ask(filled, "list_nodes")}
        assert page["sequences"] == {name: view["sequence"] for name, view in views.items()}
        assert page["ledger_id"] == views[N1]["ledger_id"]

    def test_a_page_is_of_what_is_asked_for(self, filled: EngineHarness) -> None:
        ask(filled, "update_usage", instance={"uuid": uuid(3), "vm_state": "active", "project_id": "other"})

        def listed(**only: Any) -> list[str]:
            return [entry["instance_uuid"] for entry in ask(filled, "list_allocations", **only)["allocations"]]

        assert listed(node=N1) == [uuid(2), uuid(4)]
        assert listed(project_id="other") == [uuid(3)]
        assert listed(state="active") == [uuid(3)]
        assert listed(role="instance", node=N2) == [uuid(1), uuid(3), uuid(5)]
        assert listed(role="incoming") == []
        assert listed(older_than=3600) == []

    def test_one_allocation_is_the_entry_of_its_page_or_null(self, filled: EngineHarness) -> None:
        [entry] = ask(filled, "list_allocations", limit=1)["allocations"]
        assert ask(filled, "get_allocation", instance_uuid=uuid(1)) == entry
        assert ask(filled, "get_allocation", instance_uuid=uuid(7)) is None

    def test_claims_are_listed_page_by_page(self, filled: EngineHarness) -> None:
        claims = ask(filled, "list_claims")
        ids = [claim["claim_id"] for claim in claims]
        assert ids == sorted(ids)
        assert ask(filled, "list_claims", limit=2) == claims[:2]
        assert ask(filled, "list_claims", limit=2, after=ids[1]) == claims[2:4]
        assert ask(filled, "list_claims", after=ids[-1]) == []

    @pytest.mark.parametrize(("method", "args"), [("list_allocations", {"limit": 1000}), ("list_claims", {})])
    def test_an_answer_that_is_too_large_says_how_to_ask_for_less(
        self, make_harness: MakeHarness, method: str, args: dict[str, Any]
    ) -> None:
        harness = make_harness(max_answer_bytes=65536).start()
        for first in (1, 151):
            ask(harness, "begin_resource_claims", claims=groups(*range(first, first + 150)))
        refused = ask(harness, method, **args)
        assert refused.error == "AnswerTooLarge"
        assert "limit" in refused.kwargs["how"]
        fewer = ask(harness, method, limit=100)
        assert len(fewer if method == "list_claims" else fewer["allocations"]) == 100


class TestOperators:
    def test_a_release_answers_what_was_charged_and_ends_the_claim(self, harness: EngineHarness) -> None:
        begun = begin(harness)
        entry = ask(harness, "get_allocation", instance_uuid=uuid(1))
        assert ask(harness, "release_allocation", instance_uuid=uuid(1), reason="lost") == entry
        assert harness.store.commits[-1].events == ["tracker.usage.released"]
        assert ask(harness, "release_allocation", instance_uuid=uuid(1), reason="lost") is None
        assert ask(harness, "finish_resource_claim", claim_id=begun["claim_id"]) is None
        assert usage(harness)[0] == 0

    def test_a_difference_is_answered_and_published_and_nothing_is_repaired(self, harness: EngineHarness) -> None:
        for number in (1, 2):
            begin(harness, number)
        ask(harness, "update_usage", instance={"uuid": uuid(1), "vm_state": "active"})
        found = ask(harness, "report_instances", node=N1, uuids=[uuid(8)])
        assert found == {
            "charged_not_running": [uuid(1)],
            "running_not_charged": [uuid(8)],
            "building": [uuid(2)],
        }
        assert harness.store.commits[-1].events == ["tracker.node.drift"]
        assert usage(harness)[0] == 2

    def test_no_difference_publishes_nothing(self, harness: EngineHarness) -> None:
        begin(harness)
        found = ask(harness, "report_instances", uuids=[uuid(1)])
        assert found == {"charged_not_running": [], "running_not_charged": [], "building": [uuid(1)]}
        assert harness.store.commits[-1].events == []

    def test_an_answer_without_a_change_is_recorded_before_it_is_sent(self, harness: EngineHarness) -> None:
        harness.caller.call("release_allocation", unique_id="u-7", instance_uuid=uuid(1), reason="lost").reply()
        assert harness.store.commits[-1].answered == ["u-7"]


def test_reads_on_another_host_of_the_worker_do_not_see_this_one(make_harness: MakeHarness) -> None:
    harness = make_harness(hosts=[HOST, "host-2"]).start()
    begin(harness)
    page = harness.caller.call("list_allocations", source="host-2").reply()
    assert (page["allocations"], page["next"]) == ([], None)
