# SPDX-License-Identifier: Apache-2.0
"""A copy of a message has no effect and gets the reply of the first message, in any form and at any time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST, NOW, begin, instance_dict, node_name, uuid
from tests.support.caller import Refused
from tests.support.engine import EngineHarness
from tests.support.store import Writer
from tests.unit.service.conftest import MakeHarness
from tracker_worker.service.loop import inbox
from tracker_worker.store.base import Conflict, InboxRow
from tracker_worker.wire.message import MSGPACK
from tracker_worker.wire.reply import encode_answer


def test_copies_in_the_same_batch_have_one_effect_and_one_reply(harness: EngineHarness) -> None:
    with harness.busy():
        calls = [
            harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)),
            harness.caller.call("abort_resource_claim", claim_id=uuid(1)),
            harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)),
        ]
    first, aborted, copy = (call.reply() for call in calls)
    assert first == copy
    assert aborted["state"] == "aborted"
    harness.finish()
    assert harness.charged() == []
    assert harness.notified() == [("claim.begun", 2), ("claim.aborted", 3)]
    assert harness.unsettled() == 0


def test_a_copy_in_a_later_batch_is_answered_without_reading_the_store(harness: EngineHarness) -> None:
    first = harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    harness.caller.call("finish_resource_claim", claim_id=uuid(1)).reply()
    harness.finish()
    harness.store.calls.clear()
    assert harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply() == first
    harness.finish()
    assert "answered" not in harness.store.calls
    assert harness.notified() == [("claim.begun", 2), ("claim.finished", 3)]


def test_a_copy_after_a_restart_is_answered_from_the_store(make_harness: MakeHarness) -> None:
    before = make_harness().start()
    first = before.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    before.caller.call("abort_resource_claim", unique_id="u-2", claim_id=uuid(1)).reply()
    before.stop()
    after = make_harness(store=before.store.inner).start()
    with after.busy():
        calls = [
            after.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)),
            after.caller.call("abort_resource_claim", unique_id="u-2", claim_id=uuid(1)),
        ]
        after.store.calls.clear()
    begun, aborted = (call.reply() for call in calls)
    assert begun == first
    assert aborted["state"] == "aborted"
    after.finish()
    assert after.store.calls.count("answered") == 1
    assert after.charged() == []
    assert after.notified() == []


def test_a_copy_of_a_refused_claim_gets_the_same_error(make_harness: MakeHarness) -> None:
    harness = make_harness().start()
    limits = {"memory_mb": 0}
    first = harness.caller.call(
        "begin_resource_claim", unique_id="u-1", instance=instance_dict(1), limits=limits
    ).reply()
    harness.stop()
    harness = make_harness(store=harness.store.inner).start()
    again = harness.caller.call(
        "begin_resource_claim", unique_id="u-1", instance=instance_dict(1), limits=limits
    ).reply()
    assert isinstance(first, Refused)
    assert first == again
    harness.finish()
    assert harness.notified() == []


def test_another_message_with_a_known_id_is_treated_as_a_copy(harness: EngineHarness) -> None:
    first = harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    assert harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(2)).reply() == first
    assert harness.caller.call("abort_resource_claim", unique_id="u-1", claim_id=uuid(1)).reply() == first
    harness.caller.cast("abort_resource_claim", unique_id="u-1", claim_id=uuid(1))
    harness.finish()
    assert harness.charged() == [uuid(1)]
    assert harness.parked() == []
    assert harness.unsettled() == 0


@pytest.mark.parametrize("restart", [False, True], ids=["from memory", "from the store"])
def test_a_copy_in_another_format_gets_the_reply_in_its_own_format(make_harness: MakeHarness, restart: bool) -> None:
    harness = make_harness().start()
    begin_1 = {"unique_id": "u-1", "instance": instance_dict(1)}
    begin_2 = {"unique_id": "u-2", "instance": instance_dict(2), "limits": {"vcpu": 0}}
    begin_3 = {"unique_id": "u-3", "instance": instance_dict(3)}
    json_first = harness.caller.call("begin_resource_claim", **begin_1).reply()
    msgpack_first = harness.caller.call("begin_resource_claim", content_type=MSGPACK, **begin_2).reply()
    harness.caller.cast("begin_resource_claim", **begin_3)
    harness.finish()
    if restart:
        harness.stop()
        harness = make_harness(store=harness.store.inner).start()
    assert harness.caller.call("begin_resource_claim", content_type=MSGPACK, **begin_1).reply() == json_first
    assert harness.caller.call("begin_resource_claim", **begin_2).reply() == msgpack_first
    assert harness.caller.call("begin_resource_claim", **begin_3).reply() is None
    assert harness.caller.call("begin_resource_claim", content_type=MSGPACK, **begin_3).reply() is None
    assert harness.charged() == [uuid(1), uuid(3)]


def test_a_cast_that_copies_a_refused_call_is_parked(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1)).reply()
    conflict = {"unique_id": "u-2", "instance": instance_dict(1, memory_mb=1)}
    assert (
        harness.caller.call("begin_resource_claim", content_type=MSGPACK, **conflict).reply().error == "ClaimConflict"
    )
    harness.caller.cast("begin_resource_claim", unique_id="u-1", instance=instance_dict(1))
    harness.caller.cast("begin_resource_claim", **conflict)
    harness.finish()
    (parked,) = harness.parked()
    assert parked.headers["x-tracker-reason"].startswith("claim_conflict: ")
    assert harness.unsettled() == 0


def test_a_parked_cast_has_no_inbox_row_and_is_decided_again(harness: EngineHarness) -> None:
    harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
    conflict = {"unique_id": "u-1", "instance": instance_dict(1, memory_mb=1)}
    for _ in range(2):
        harness.caller.cast("begin_resource_claim", **conflict)
    harness.caller.call("abort_resource_claim", claim_id=uuid(1)).reply()
    assert len(harness.parked()) == 2
    assert harness.store.inner.answered(["u-1"]) == {}
    harness.caller.cast("begin_resource_claim", **conflict)
    harness.finish()
    assert harness.parked() == []
    assert harness.charged() == [uuid(1)]


def test_a_copy_that_would_be_refused_now_is_still_a_copy(make_harness: MakeHarness) -> None:
    """The worker was killed before it could acknowledge the first message, and a later message has changed the ledger."""
    first = {"unique_id": "u-1", "instance": instance_dict(1)}
    harness = make_harness().start()
    harness.caller.cast("begin_resource_claim", **first)
    harness.caller.cast("update_usage", unique_id="u-2", instance={"uuid": uuid(1), "vcpus": 7})
    harness.finish()
    harness.stop()
    harness = make_harness(store=harness.store.inner).start()
    harness.caller.cast("begin_resource_claim", **first)
    assert harness.parked() == []
    with harness.busy():
        harness.caller.cast("begin_resource_claim", **first)
        harness.caller.cast("begin_resource_claim", instance=instance_dict(2))
    assert harness.parked() == []
    assert harness.unsettled() == 0
    assert harness.charged() == [uuid(1), uuid(2)]


def test_every_message_without_an_id_is_decided(harness: EngineHarness) -> None:
    with harness.busy():
        for _ in range(2):
            harness.broker.publish(HOST, b'{"method": "update_usage", "args": {"instance": {"uuid": "i-1"}}}')
    harness.finish()
    assert harness.unsettled() == 0
    assert harness.parked() == []


class TestWhatChangedNothing:
    """The inbox row of such a message is committed too, because a late copy could change something."""

    def test_the_inbox_row_of_a_message_without_effect_is_committed_before_its_answer(
        self, harness: EngineHarness
    ) -> None:
        harness.caller.call("finish_resource_claim", unique_id="u-1", claim_id=uuid(1)).reply()
        assert harness.store.commits[0].answered == ["u-1"]
        harness.caller.cast("update_usage", unique_id="u-2", instance={"uuid": uuid(1)})
        harness.finish()
        assert harness.unsettled() == 0
        assert harness.store.commits[1].answered == ["u-2"]

    @pytest.mark.parametrize("killed", [False, True])
    def test_a_late_copy_of_a_message_without_effect_still_changes_nothing(
        self, make_harness: MakeHarness, killed: bool
    ) -> None:
        harness = make_harness().start()
        assert harness.caller.call("abort_resource_claim", unique_id="u-1", claim_id=uuid(1)).reply() is None
        if killed:
            harness.stop(release=False)
            harness = make_harness(store=harness.store.inner).start()
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        assert harness.caller.call("abort_resource_claim", unique_id="u-1", claim_id=uuid(1)).reply() is None
        assert harness.charged() == [uuid(1)]

    @pytest.mark.parametrize("under_lock", [False, True], ids=["", "under lock"])
    @pytest.mark.parametrize(
        ("method", "args"),
        [
            ("begin_resource_claim", {"instance": instance_dict(1)}),
            ("begin_resource_claim", {"instance": instance_dict(1, vcpus=1)}),
            ("begin_resource_claims", {"claims": [{"instance": instance_dict(1)}]}),
            ("finish_resource_claim", {"claim_id": uuid(9)}),
            ("abort_resource_claim", {"claim_id": uuid(9)}),
            ("renew_resource_claim", {"claim_id": uuid(9), "timeout": 60}),
            ("update_usage", {"instance": {"uuid": uuid(9), "vm_state": "active"}}),
            ("release_allocation", {"instance_uuid": uuid(9), "reason": "a test"}),
            ("report_instances", {"uuids": [uuid(1)]}),
        ],
    )
    def test_no_command_is_answered_before_its_inbox_row_is_committed(
        self, harness: EngineHarness, method: str, args: dict[str, Any], under_lock: bool
    ) -> None:
        harness.caller.call("begin_resource_claim", instance=instance_dict(1)).reply()
        harness.finish()
        if under_lock:
            harness.store.script["commit"] = [Conflict("once"), Conflict("twice")]
        call = harness.caller.call(method, unique_id="u-1", **args)
        call.reply()
        assert set(harness.store.inner.answered(["u-1"])) == {"u-1"}
        assert harness.counters.snapshot()["locked_decisions"] == under_lock

    def test_reads_and_invalid_requests_have_no_inbox_row(self, harness: EngineHarness) -> None:
        harness.caller.call("get_node", unique_id="u-1").reply()
        harness.caller.call("begin_resource_claim", unique_id="u-2").reply()
        harness.caller.call("begin_resource_claim", unique_id="u-3", instance=instance_dict(1)).reply()
        assert harness.store.commits[0].answered == ["u-3"]


def test_a_message_that_another_worker_has_answered_gets_that_answer(harness: EngineHarness) -> None:
    def other_worker() -> None:
        other = Writer(harness.store.inner).put(begin(1, node=node_name(1)))
        told = encode_answer("application/json", result="as the other said")
        other.commit(InboxRow(unique_id="u-1", host_id=1, reply=told, received_at=NOW))

    harness.store.script["commit"] = [other_worker]
    with harness.busy():
        copy = harness.caller.call("begin_resource_claim", unique_id="u-1", instance=instance_dict(1))
        own = harness.caller.call("begin_resource_claim", unique_id="u-2", instance=instance_dict(2))
    assert copy.reply() == "as the other said"
    assert own.reply()["instance_uuid"] == uuid(2)
    assert harness.charged() == [uuid(1), uuid(2)]
    assert harness.ledger().node(node_name(1)).sequence == 3


def test_the_number_of_replies_in_memory_is_limited(harness: EngineHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "_MOST_RECENT", 3)
    for number in range(5):
        harness.caller.call("begin_resource_claim", unique_id=f"u-{number}", instance=instance_dict(number)).reply()
    harness.finish()
    harness.store.calls.clear()
    copies = [
        harness.caller.call("begin_resource_claim", unique_id=f"u-{number}", instance=instance_dict(number))
        for number in range(5)
    ]
    assert [copy.reply()["instance_uuid"] for copy in copies] == [uuid(number) for number in range(5)]
    assert "answered" in harness.store.calls
    assert harness.ledger().node(node_name(1)).sequence == 6
