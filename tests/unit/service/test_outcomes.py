# SPDX-License-Identifier: Apache-2.0
"""What became of requests is counted, logged and kept, whether it made an event or not."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, instance_dict, node_name, uuid
from tests.support.engine import EngineHarness
from tracker_worker.errors import ClaimConflict, InvalidInput, NodeNotFound, NotPermitted, StoreUnavailable
from tracker_worker.history import OUTCOMES, Wanted, read_history
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.loop.outcomes import MOST_RECENT
from tracker_worker.service.loop.refusal_log import RefusalLog
from tracker_worker.service.requests.refusals import of_refusal
from tracker_worker.store.base import Unstorable

N1 = node_name(1)
ALICE = Asked(project_id="p", user_id="alice", request_id="r-1", method="begin_resource_claim")


def begin(harness: EngineHarness, number: int = 1, **args: Any) -> Any:
    return harness.caller.call("begin_resource_claim", instance=instance_dict(number), **args).reply()


def history(harness: EngineHarness, **wanted: Any) -> list[dict[str, Any]]:
    harness.finish()
    harness.engine.keep_outcomes()
    harness.finish()
    harness.finish()
    return [entry.view() for entry in read_history(harness.store, Wanted(**wanted))]


def test_refusals_without_an_event_are_kept_between_the_events(harness: EngineHarness) -> None:
    begun = begin(harness)
    assert begin(harness, on_expiry="x").error == "InvalidInput"
    larger = instance_dict(1, memory_mb=8192)
    assert harness.caller.call("begin_resource_claim", instance=larger).reply().error == "ClaimConflict"
    harness.caller.cast("finish_resource_claim", claim_id=7)
    harness.caller.call("finish_resource_claim", claim_id=begun["claim_id"]).reply()
    found = history(harness)
    assert sorted(view["outcome"] for view in found) == ["begun", "conflict", "finished", "invalid", "parked"]
    by_outcome = {view["outcome"]: view for view in found}
    assert by_outcome["conflict"]["instance_uuid"] == uuid(1)
    assert by_outcome["invalid"]["instance_uuid"] == uuid(1)
    assert by_outcome["invalid"]["reason"].startswith("on_expiry: ")
    assert by_outcome["parked"]["method"] == "finish_resource_claim"
    assert by_outcome["parked"]["code"] == "invalid_input"
    assert {view["host"] for view in found} == {HOST}
    assert [view["outcome"] for view in history(harness, instance_uuid=uuid(1))].count("conflict") == 1


def test_refusals_wait_for_a_store_that_is_away(harness: EngineHarness) -> None:
    begin(harness, on_expiry="x")
    harness.finish()
    harness.store.script["keep_refusals"].append(StoreUnavailable())
    harness.engine.keep_outcomes()
    harness.finish()
    assert harness.store.refusals() == []
    assert [view["outcome"] for view in history(harness)][-1:] == ["invalid"]


def test_refusals_that_the_store_cannot_keep_are_dropped_and_said(
    harness: EngineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    begin(harness, on_expiry="x")
    harness.finish()
    harness.store.script["keep_refusals"] += [Unstorable("a test says so")] * 2
    harness.engine.keep_outcomes()
    harness.finish()
    assert "1 refusals cannot be kept for the history" in caplog.text
    assert history(harness) == []


def test_a_stop_writes_the_refusals_that_wait(harness: EngineHarness) -> None:
    begin(harness, on_expiry="x")
    harness.finish()
    harness.stop()
    assert len(harness.store.inner.refusals()) == 1


def test_requests_are_counted_by_method_and_outcome_and_timed(harness: EngineHarness) -> None:
    begin(harness)
    begin(harness, 2, limits={"memory_mb": 1})
    begin(harness, 3, on_expiry="x")
    harness.caller.call("get_node").reply()
    harness.caller.call("no_such_method").reply()
    harness.caller.cast("finish_resource_claim", claim_id=7)
    harness.finish()
    counted = harness.tally.requests
    assert counted["begin_resource_claim", "ok"] == 1
    assert counted["begin_resource_claim", "insufficient_resources"] == 1
    assert counted["begin_resource_claim", "invalid_input"] == 1
    assert counted["get_node", "ok"] == 1
    assert counted["unknown", "invalid_input"] == 1
    assert harness.tally.refusals == {"MEMORY_MB": 1}
    assert harness.tally.dead_letters == {"invalid_input": 1}
    for stage in harness.tally.stages.values():
        assert stage.buckets()[-1] == ("+Inf", sum(counted.values()))
        assert 0 < stage.total < 60
    assert harness.tally.stages["answered"].total >= harness.tally.stages["queued"].total


def test_a_copy_is_counted_as_such_and_not_as_a_request(harness: EngineHarness) -> None:
    for _ in range(2):
        harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    harness.finish()
    assert harness.tally.copies == 1
    assert harness.tally.requests["begin_resource_claim", "ok"] == 1


def test_the_last_decisions_are_at_hand(harness: EngineHarness) -> None:
    for number in range(1, MOST_RECENT + 5):
        begin(harness, number, limits={"memory_mb": 1})
    begin(harness, on_expiry="x")
    harness.finish()
    recent = harness.engine.recent()
    assert len(recent) == MOST_RECENT
    assert recent[-1].outcome == "invalid"
    assert recent[-2].instance_uuid == uuid(MOST_RECENT + 4)
    assert recent[-2].shortfalls


@pytest.mark.parametrize(
    ("error", "parked", "outcome", "code"),
    [
        (InvalidInput(field="limits", reason="is wrong"), False, "invalid", "invalid_input"),
        (InvalidInput(field="limits", reason="is wrong"), True, "parked", "invalid_input"),
        (NodeNotFound(host=HOST, node="n"), False, "refused", "node_not_found"),
        (ClaimConflict(instance_uuid="i", node=N1, reason="no"), False, "conflict", "claim_conflict"),
        (ValueError("odd"), True, "parked", "unexpected"),
    ],
)
def test_a_refusal_has_an_outcome_and_a_code(error: Exception, parked: bool, outcome: str, code: str) -> None:
    view = of_refusal(error, at=NOW, host=HOST, asked=ALICE, parked=parked).view()
    assert (view["outcome"], view["code"]) == (outcome, code)
    assert outcome in OUTCOMES
    assert view["reason"]


class TestRefusalLog:
    @staticmethod
    def entry(reason: str = "is wrong", **who: str) -> Any:
        asked = Asked(**{"project_id": "p", "user_id": "alice", "request_id": "r-1", "method": "m", **who})
        return of_refusal(InvalidInput(field="limits", reason=reason), at=NOW, host=HOST, asked=asked)

    def test_a_sender_has_one_line_a_minute_with_a_count(self, caplog: pytest.LogCaptureFixture) -> None:
        log = RefusalLog()
        with caplog.at_level(logging.WARNING):
            for second in range(130):
                log.refused(self.entry(), float(second))
                log.look(float(second))
            log.look(190.0)
            log.look(300.0)
        first, second, third, fourth = caplog.messages
        assert first.startswith(
            "1 request invalid: code=invalid_input project=p user=alice; the last one: m host=host-1"
        )
        assert first.endswith("request=r-1: limits: is wrong")
        assert (second.split()[0], third.split()[0], fourth.split()[0]) == ("60", "60", "9")

    def test_what_is_not_permitted_is_said_with_the_rule(self, caplog: pytest.LogCaptureFixture) -> None:
        error = NotPermitted(rule="tracker:claim", method="abort_resource_claim")
        eve = Asked(project_id="spies", user_id="eve\\x1b[31m", request_id="r-2", method="abort_resource_claim")
        with caplog.at_level(logging.WARNING):
            RefusalLog().refused(of_refusal(error, at=NOW, host=HOST, asked=eve), 0.0)
        (line,) = caplog.messages
        assert line.startswith("1 request not permitted: code=not_permitted project=spies user=eve")
        assert line.endswith("request=r-2: The rule tracker:claim does not permit abort_resource_claim")

    def test_senders_are_told_apart_and_bounded(self, caplog: pytest.LogCaptureFixture) -> None:
        log = RefusalLog()
        with caplog.at_level(logging.WARNING):
            for number in range(2000):
                log.refused(self.entry(project_id=f"p-{number}"), 0.0)
        assert len(caplog.messages) == 501

    def test_a_line_stays_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            RefusalLog().refused(self.entry("a\nb" + "x" * 5000), 0.0)
        (line,) = caplog.messages
        assert line.isprintable()
        assert len(line) <= 2000
