# SPDX-License-Identifier: Apache-2.0
"""``resource_claim`` of the client API: a claim around a build."""

from __future__ import annotations

import pytest

from tests.support.builders import HOST, uuid
from tests.support.scheduler import CLAIM, CONTEXT, INSTANCE, LIMITS, BuildFailed, ScriptedTransport, Sent
from tests.support.stock import oslo_messaging
from tracker_worker import errors
from tracker_worker.client.api import TrackerAPI
from tracker_worker.ids import canonical
from tracker_worker.oslo import NoSuchMethod, UnsupportedVersion


def test_a_claim_around_a_build_is_begun_and_finished(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = CLAIM
    with api.resource_claim(CONTEXT, HOST, INSTANCE, LIMITS) as claim:
        assert claim == CLAIM
        assert scripted_transport.steps == ["call begin_resource_claim"]
    begin, finish = scripted_transport.sent
    assert begin.args == {"instance": INSTANCE, "limits": LIMITS, "timeout": None, "claim_id": begin.args["claim_id"]}
    assert begin.version == "1.1"
    assert finish == Sent("call", "finish_resource_claim", {"claim_id": CLAIM["claim_id"]})


def test_each_claim_around_a_build_has_an_id_of_its_own(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    for _ in range(3):
        with api.resource_claim(CONTEXT, HOST, INSTANCE):
            pass
    ids = [sent.args["claim_id"] for sent in scripted_transport.sent if sent.method == "begin_resource_claim"]
    assert len({*ids, uuid(1)}) == 4
    assert ids == [canonical(claim_id) for claim_id in ids]


def test_a_claim_that_the_instance_had_before_is_the_one_that_ends(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = {**CLAIM, "claim_id": "the first one"}
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    assert scripted_transport.sent[1:] == [Sent("call", "abort_resource_claim", {"claim_id": "the first one"})]


@pytest.mark.parametrize(
    "refusal",
    [
        errors.ClaimConflict(instance_uuid=uuid(1), node="node-1", reason="it was reported deleted"),
        UnsupportedVersion("1.1", "begin_resource_claim"),
        NoSuchMethod("begin_resource_claim"),
        oslo_messaging.RemoteError("RuntimeError", "failed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_begin_that_was_answered_with_an_error_is_not_aborted(
    api: TrackerAPI, scripted_transport: ScriptedTransport, refusal: Exception
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = refusal
    with pytest.raises(type(refusal)), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass
    assert scripted_transport.steps == ["call begin_resource_claim"]


@pytest.mark.behaviour("disabled-does-not-block")
def test_a_build_on_a_disabled_node_gets_none_as_its_claim_and_runs(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    with api.resource_claim(CONTEXT, HOST, INSTANCE) as claim:
        assert claim is None
    assert scripted_transport.steps[0] == "call begin_resource_claim"


@pytest.mark.parametrize("error", [BuildFailed, KeyboardInterrupt, GeneratorExit])
def test_a_build_that_fails_aborts_and_its_exception_propagates(
    api: TrackerAPI, scripted_transport: ScriptedTransport, error: type[BaseException]
) -> None:
    with pytest.raises(error), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise error
    chosen = scripted_transport.sent[0].args["claim_id"]
    assert scripted_transport.sent[1:] == [Sent("call", "abort_resource_claim", {"claim_id": chosen})]


def test_a_refused_claim_runs_no_build_and_sends_no_abort(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    refusal = errors.ComputeResourcesUnavailable(shortfalls=[])
    scripted_transport.script["call", "begin_resource_claim"] = refusal
    ran = []
    with (
        pytest.raises(errors.ComputeResourcesUnavailable) as raised,
        api.resource_claim(CONTEXT, HOST, INSTANCE),
    ):
        ran.append(1)
    assert raised.value is refusal
    assert ran == []
    assert scripted_transport.steps == ["call begin_resource_claim"]


@pytest.mark.parametrize("doubt", [oslo_messaging.MessagingTimeout(), errors.StoreUnavailable(reason="away")])
def test_a_begin_of_which_nothing_is_known_is_aborted_by_a_cast_and_the_error_propagates(
    api: TrackerAPI, scripted_transport: ScriptedTransport, doubt: Exception
) -> None:
    scripted_transport.script["call", "begin_resource_claim"] = doubt
    ran = []
    with pytest.raises(type(doubt)), api.resource_claim(CONTEXT, HOST, INSTANCE):
        ran.append(1)
    assert ran == []
    chosen = scripted_transport.sent[0].args["claim_id"]
    assert chosen != uuid(1)
    assert scripted_transport.sent[1:] == [Sent("cast", "abort_resource_claim", {"claim_id": chosen})]


def test_a_finish_without_an_answer_is_sent_again_as_a_cast(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "finish_resource_claim"] = oslo_messaging.MessagingTimeout()
    scripted_transport.script["call", "begin_resource_claim"] = CLAIM
    with api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass
    assert scripted_transport.sent[1:] == [
        Sent("call", "finish_resource_claim", {"claim_id": uuid(1)}),
        Sent("cast", "finish_resource_claim", {"claim_id": uuid(1)}),
    ]


def test_an_abort_without_an_answer_is_sent_again_as_a_cast(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["call", "abort_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    assert scripted_transport.steps == [
        "call begin_resource_claim",
        "call abort_resource_claim",
        "cast abort_resource_claim",
    ]


def test_a_timeout_of_the_build_itself_is_an_exception_like_any_other(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    with pytest.raises(oslo_messaging.MessagingTimeout), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise oslo_messaging.MessagingTimeout
    assert scripted_transport.steps == ["call begin_resource_claim", "call abort_resource_claim"]


@pytest.mark.parametrize(
    "failure", [errors.StoreUnavailable(reason="away"), oslo_messaging.MessageDeliveryFailure("no broker")]
)
def test_a_failed_abort_does_not_replace_the_exception_of_the_build(
    api: TrackerAPI, scripted_transport: ScriptedTransport, failure: Exception
) -> None:
    scripted_transport.script["call", "abort_resource_claim"] = failure
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed


def test_an_abort_that_cannot_be_cast_does_not_replace_the_exception(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    scripted_transport.script["cast", "abort_resource_claim"] = oslo_messaging.MessageDeliveryFailure("no broker")
    scripted_transport.script["call", "abort_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(BuildFailed), api.resource_claim(CONTEXT, HOST, INSTANCE):
        raise BuildFailed
    scripted_transport.script["call", "begin_resource_claim"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(oslo_messaging.MessagingTimeout), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass


def test_a_finish_that_fails_is_raised(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    scripted_transport.script["call", "finish_resource_claim"] = errors.StoreUnavailable(reason="away")
    with pytest.raises(errors.StoreUnavailable), api.resource_claim(CONTEXT, HOST, INSTANCE):
        pass
