# SPDX-License-Identifier: Apache-2.0
"""Another worker has committed first, the store is unavailable, or a decision fails unexpectedly."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.support.store import Writer
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tracker_worker import unit_of_work
from tracker_worker.errors import StoreUnavailable
from tracker_worker.service.loop import failures
from tracker_worker.service.requests.items import Chore
from tracker_worker.store.base import Conflict, Unstorable

N1 = node_name(1)
AWAY = StoreUnavailable(reason="the database is restarting")


def overtaken(harness: EngineHarness, *numbers: int) -> Callable[[], None]:
    """Another worker's commit before this worker's commit."""

    def commit() -> None:
        writer = Writer(harness.store.inner)
        for number in numbers:
            writer.put(begin(number, node=N1))
        writer.commit()

    return commit


class TestConflict:
    def test_a_batch_decided_on_a_stale_ledger_is_decided_again(self, harness: EngineHarness) -> None:
        limits = {"vcpu": 4}
        harness.store.script["commit"] = [overtaken(harness, 8, 9)]
        with harness.busy():
            calls = [
                harness.caller.call("begin_resource_claim", instance=instance_dict(1), limits=limits),
                harness.caller.call("begin_resource_claim", instance=instance_dict(2)),
            ]
        refused, granted = (call.reply() for call in calls)
        assert refused.kwargs["shortfalls"] == [{"resource": "VCPU", "requested": 2, "used": 4, "limit": 4}]
        assert granted["generation"] == 3
        assert harness.charged() == [uuid(2), uuid(8), uuid(9)]
        assert harness.notified()[-2:] == [("claim.rejected", 4), ("claim.begun", 5)]
        assert harness.unsettled() == 0

    def test_a_failed_attempt_gives_no_notification(self, harness: EngineHarness) -> None:
        harness.store.script["commit"] = [Conflict("once"), Conflict("twice")]
        harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
        harness.finish()
        assert harness.notified() == [("claim.begun", 2)]

    def test_a_batch_that_has_lost_two_races_is_decided_under_lock(self, harness: EngineHarness) -> None:
        harness.store.script["commit"] = [Conflict("again") for _ in range(10)]
        assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()["generation"] == 2
        assert len(harness.store.script["commit"]) == 8
        assert harness.store.calls.count("locked") == 1
        counted = harness.counters.snapshot()
        assert (counted["conflicts"], counted["most_lost_races"], counted["locked_decisions"]) == (2, 2, 1)

    def test_a_conflict_during_a_decision_repeats_the_batch(self, harness: EngineHarness) -> None:
        harness.store.script["load_host"] = [Conflict("a snapshot that is too old")]
        harness.store.script["commit"] = [Conflict("once")]
        assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()["generation"] == 2

    def test_a_cursor_whose_commit_conflicts_is_written_later(self, harness: EngineHarness) -> None:
        with harness.busy():
            claim = harness.caller.call("begin_resource_claim", instance=instance_dict(1))
            harness.store.script["commit"] = [lambda: None, Conflict("in the way"), Conflict("still")]
        claim.reply()
        wait_until(lambda: harness.store.inner.streams(HOST)[0].cursors == {"notifications": 2}, "the cursor")


class TestStoreAway:
    def test_nothing_is_answered_or_settled_until_the_store_is_available(self, harness: EngineHarness) -> None:
        asked: queue.SimpleQueue[int] = queue.SimpleQueue()
        back = threading.Event()

        def away() -> None:
            asked.put(harness.unsettled())
            if not back.is_set():
                harness.store.script["commit"] = [away]
                raise AWAY

        harness.store.script["commit"] = [away]
        claim = harness.caller.call("begin_resource_claim", instance=instance_dict(1))
        for _ in range(3):
            assert asked.get(timeout=SECONDS) >= 1
        harness.caller.cast("begin_resource_claim", instance=instance_dict(2))
        while asked.get(timeout=SECONDS) < 2:
            pass
        assert not claim.replied()
        back.set()
        assert claim.reply()["generation"] == 2
        harness.finish()
        assert harness.charged() == [uuid(1), uuid(2)]
        assert harness.notified() == [("claim.begun", 2), ("claim.begun", 3)]
        assert harness.unsettled() == 0

    def test_what_needs_no_ledger_is_answered_while_the_store_is_unavailable(self, harness: EngineHarness) -> None:
        harness.store.script["commit"] = [AWAY for _ in range(10_000)]
        claim = harness.caller.call("begin_resource_claim", instance=instance_dict(1))
        assert harness.caller.call("oslo_rpc_server_ping").reply() == "pong"
        assert harness.caller.call("nonsense").reply().error == "NoSuchMethod"
        harness.caller.cast("nonsense")
        assert harness.broker.parked.get(timeout=SECONDS)
        assert not claim.replied()

    @pytest.mark.parametrize("method", ["answered", "refreshed", "load_host", "commit"])
    def test_a_batch_is_repeated_whichever_call_of_the_store_fails(
        self, make_harness: MakeHarness, method: str
    ) -> None:
        harness = make_harness().start(relaying=False)
        harness.finish()
        harness.store.script[method] = [AWAY, AWAY]
        if method == "load_host":  # the engine reads a host only after it has dropped its ledger
            harness.store.script["commit"] = [AWAY]
        if method == "answered":  # the engine looks for copies in the store only after a conflict
            harness.store.script["commit"] = [Conflict("once")]
        if method == "refreshed":
            assert harness.caller.call("get_node").reply()["generation"] == 1
        assert harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()["generation"] == 2
        harness.finish()
        assert harness.store.script[method] == []
        assert harness.charged() == [uuid(1)]

    @pytest.mark.behaviour("acknowledge-after-commit")
    def test_a_commit_that_happened_although_it_failed_has_one_effect(self, harness: EngineHarness) -> None:
        """The connection was lost before the answer to COMMIT arrived."""
        real = harness.store.inner.commit

        def committed_and_lost(commit: Any) -> None:
            harness.store.inner.commit = real  # type: ignore[method-assign]
            real(commit)
            raise AWAY

        harness.store.inner.commit = committed_and_lost  # type: ignore[method-assign]
        with harness.busy():
            claim = harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1))
            abort = harness.caller.call("abort_resource_claim", unique_id="u-2", claim_id=uuid(1))
        assert claim.reply()["state"] == "begun"
        assert abort.reply()["state"] == "aborted"
        harness.finish()
        assert harness.charged() == []
        assert harness.ledger().node(N1).sequence == 3
        # Only the next renewal of the lease reads these notifications from the outbox.
        harness.engine.renew_leases()
        assert harness.hear(2) == [("claim.begun", 2), ("claim.aborted", 3)]

    def test_requests_that_arrive_during_a_retry_keep_their_order(self, harness: EngineHarness) -> None:
        def more() -> None:
            harness.caller.cast("abort_resource_claim", claim_id=uuid(1))
            harness.caller.cast("begin_resource_claim", instance=instance_dict(1, vcpus=7))
            raise AWAY

        harness.store.script["commit"] = [more]
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.finish()
        assert harness.ledger().node(N1).allocations[uuid(1)].instance.vcpus == 7

    def test_a_call_that_would_expire_before_a_retry_gets_store_unavailable(
        self, harness: EngineHarness, deadline_clock: DeadlineClock
    ) -> None:
        harness.store.script["commit"] = [AWAY]
        with harness.busy():
            near = harness.caller.call(
                "begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 0.4
            )
            far = harness.caller.call(
                "begin_resource_claim", instance=instance_dict(2), deadline=deadline_clock.now + 60
            )
            harness.caller.cast("begin_resource_claim", instance=instance_dict(3))
        assert near.reply() == Refused("StoreUnavailable", {"reason": "the database is restarting"})
        assert far.reply()["instance_uuid"] == uuid(2)
        harness.finish()
        assert harness.charged() == [uuid(2), uuid(3)]
        assert harness.unsettled() == 0

    def test_a_call_that_expires_while_the_store_is_unavailable_is_dropped(
        self, harness: EngineHarness, deadline_clock: DeadlineClock
    ) -> None:
        def away() -> None:
            deadline_clock.forward(60)
            raise AWAY

        harness.store.script["commit"] = [away]
        gone = harness.caller.call("begin_resource_claim", instance=instance_dict(1), deadline=deadline_clock.now + 60)
        harness.finish()
        assert not gone.replied()
        assert harness.charged() == []
        assert harness.unsettled() == 0

    def test_a_read_waits_for_the_store_and_fails_before_it_would_expire(
        self, harness: EngineHarness, deadline_clock: DeadlineClock
    ) -> None:
        with harness.busy():
            harness.store.script["refreshed"] = [AWAY]
            near = harness.caller.call("get_node", deadline=deadline_clock.now + 0.4)
            far = harness.caller.call("get_node", deadline=deadline_clock.now + 60)
        assert near.reply().error == "StoreUnavailable"
        assert far.reply()["generation"] == 1

    def test_a_stop_does_not_wait_for_the_store_and_everything_is_redelivered(self, make_harness: MakeHarness) -> None:
        harness = make_harness().start()
        tried: queue.SimpleQueue[None] = queue.SimpleQueue()

        def away() -> None:
            tried.put(None)
            harness.store.script["commit"] = [away]
            raise AWAY

        harness.store.script["commit"] = [away]
        harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
        tried.get(timeout=SECONDS)
        harness.stop()
        after = make_harness(store=harness.store.inner, broker=harness.broker).start()
        after.finish()
        assert after.charged() == [uuid(1)]

    def test_chores_are_postponed_while_the_store_is_unavailable(self, make_harness: MakeHarness) -> None:
        harness = make_harness().start()
        harness.finish()
        harness.store.script.update(take_lease=[AWAY], prune=[AWAY], open_cursors=[AWAY], release_lease=[AWAY])
        harness.engine.renew_leases()
        harness.engine.prune(inbox_seconds=60, outbox_seconds=60)
        harness.engine.renew_leases()
        harness.finish()
        assert harness.store.calls.count("prune") == 1
        harness.stop()
        assert harness.store.calls.count("release_lease") <= 1
        assert harness.deaths.empty()


class TestUnexpected:
    """A defect of the worker in one message must not prevent the decision of other messages."""

    @pytest.fixture(autouse=True)
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rendering an event of the 13th instance fails."""
        real = unit_of_work.render

        def render(event: Any, ledger: Any, **options: Any) -> Any:
            allocation = getattr(event, "allocation", None)
            if allocation is not None and allocation.uuid == uuid(13):
                raise ZeroDivisionError("the secret is 7")
            return real(event, ledger, **options)

        monkeypatch.setattr(unit_of_work, "render", render)

    def test_a_call_whose_decision_fails_gets_an_error_and_other_calls_succeed(self, harness: EngineHarness) -> None:
        with harness.busy():
            before, broken, after = (
                harness.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in (1, 13, 2)
            )
        refused = broken.reply()
        assert refused.error == "RuntimeError"
        assert (before.reply()["generation"], after.reply()["generation"]) == (2, 2)
        assert harness.charged() == [uuid(1), uuid(2)]
        assert harness.notified() == [("claim.begun", 2), ("claim.begun", 3)]
        assert harness.unsettled() == 0

    def test_the_text_of_an_unexpected_error_is_not_sent_to_callers(self, harness: EngineHarness) -> None:
        harness.caller.cast("begin_resource_claim", instance=instance_dict(13))
        (parked,) = harness.parked()
        assert "secret" not in str(harness.caller.call("begin_resource_claim", instance=instance_dict(13)).reply())
        assert parked.headers["x-tracker-reason"].startswith("ZeroDivisionError")

    @pytest.mark.behaviour("poison-message")
    def test_a_cast_that_fails_three_times_is_parked(self, harness: EngineHarness) -> None:
        with harness.busy():
            harness.caller.cast("begin_resource_claim", unique_id="u-13", instance=instance_dict(13))
            other = harness.caller.call("begin_resource_claim", instance=instance_dict(1))
        assert other.reply()["generation"] == 2
        (parked,) = harness.parked()
        assert parked.headers["x-tracker-reason"].startswith("ZeroDivisionError")
        assert harness.store.calls.count("count_attempt") == 3
        assert harness.charged() == [uuid(1)]
        assert harness.unsettled() == 0

    def test_attempts_before_a_restart_are_counted(self, harness: EngineHarness) -> None:
        for _ in range(2):
            harness.store.inner.count_attempt("u-13", NOW)
        harness.caller.cast("begin_resource_claim", unique_id="u-13", instance=instance_dict(13))
        assert len(harness.parked()) == 1
        assert harness.store.calls.count("count_attempt") == 1

    def test_a_cast_waits_while_its_attempt_cannot_be_counted(self, harness: EngineHarness) -> None:
        harness.store.script["count_attempt"] = [AWAY, AWAY]
        harness.caller.cast("begin_resource_claim", instance=instance_dict(13))
        assert len(harness.parked()) == 1
        assert harness.store.calls.count("count_attempt") == 5

    def test_a_cast_without_an_id_is_parked_after_one_attempt(self, harness: EngineHarness) -> None:
        harness.broker.publish(
            HOST,
            b'{"method": "begin_resource_claim", "args": {"instance": {"uuid": "%s", "memory_mb": 1, '
            b'"root_gb": 0, "ephemeral_gb": 0, "vcpus": 1}}}' % uuid(13).encode(),
        )
        assert len(harness.parked()) == 1
        assert "count_attempt" not in harness.store.calls

    def test_a_parked_cast_may_be_sent_again_after_the_repair(
        self, harness: EngineHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness.caller.cast("begin_resource_claim", unique_id="u-13", instance=instance_dict(13))
        assert len(harness.parked()) == 1
        monkeypatch.undo()
        harness.caller.cast("begin_resource_claim", unique_id="u-13", instance=instance_dict(13))
        assert harness.parked() == []
        assert harness.charged() == [uuid(13)]

    def test_a_chore_that_fails_unexpectedly_gets_the_error(self, harness: EngineHarness) -> None:
        told: queue.SimpleQueue[Exception] = queue.SimpleQueue()
        command = begin(13, node=N1)
        harness.engine.submit(Chore(host=HOST, commands=[command], failed=told.put))
        conflict = [begin(2, node=N1), begin(2, node=N1, memory_mb=1)]
        harness.engine.submit(Chore(host=HOST, commands=conflict, failed=told.put))
        harness.engine.submit(Chore(host=HOST, commands=[command]))
        assert [type(told.get(timeout=SECONDS)).__name__ for _ in range(2)] == ["ZeroDivisionError", "ClaimConflict"]
        harness.finish()
        assert harness.charged() == []


class TestUnstorable:
    def test_a_call_that_cannot_be_stored_gets_an_error_and_other_calls_succeed(self, harness: EngineHarness) -> None:
        harness.store.script["commit"] = [Unstorable("all of them"), Unstorable("the first")]
        with harness.busy():
            calls = [harness.caller.call("begin_resource_claim", instance=instance_dict(number)) for number in (1, 2)]
        refused, granted = (call.reply() for call in calls)
        assert refused.error == "RuntimeError"
        assert granted["instance_uuid"] == uuid(2)
        assert harness.charged() == [uuid(2)]
        assert harness.unsettled() == 0

    def test_a_cast_that_cannot_be_stored_is_parked_after_all_attempts(self, harness: EngineHarness) -> None:
        harness.store.script["commit"] = [Unstorable("this one")] * failures._MOST_ATTEMPTS
        harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
        wait_until(lambda: not harness.store.script["commit"], "all attempts")
        assert len(harness.parked()) == 1
        assert harness.charged() == []
        assert harness.unsettled() == 0


def test_an_error_that_ends_the_engine_is_reported_to_the_worker(harness: EngineHarness) -> None:
    harness.store.script["commit"] = [ZeroDivisionError("a store that breaks its contract")]
    harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
    assert isinstance(harness.deaths.get(timeout=SECONDS), ZeroDivisionError)
    assert harness.unsettled() == 1
