# SPDX-License-Identifier: Apache-2.0
"""``move_claim`` of the client API: a whole move."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.builders import HOST
from tests.support.scheduler import CONTEXT, INSTANCE, LIMITS, BuildFailed, ScriptedTransport
from tests.support.stock import oslo_messaging
from tracker_worker import errors
from tracker_worker.client.api import TrackerAPI

SOURCE = "host-0"
BEGUN: dict[str, Any] = {"id": "m1", "kind": "migration", "state": "begun", "to_node": "node-7"}
FINISHED = {**BEGUN, "state": "finished", "finished_at": "2026-01-15T12:00:05.000000Z"}


@pytest.fixture
def script(scripted_transport: ScriptedTransport) -> dict[tuple[str, str], Any]:
    """The answers of both hosts."""
    scripted_transport.script["call", "begin_move_claim"] = dict(BEGUN)
    scripted_transport.script["call", "finish_move"] = FINISHED
    return scripted_transport.script


@pytest.mark.usefixtures("script")
def test_a_move_is_begun_and_handed_over_at_both_hosts_at_one_time(
    api: TrackerAPI, scripted_transport: ScriptedTransport
) -> None:
    instance = dict(INSTANCE)
    with api.move_claim(CONTEXT, instance, SOURCE, HOST, "migration", limits=LIMITS, move_id="m1") as move:
        assert move == BEGUN
        assert scripted_transport.steps == ["call begin_move_claim"]
    begin, at_destination, at_source = scripted_transport.sent
    assert begin.args["move"] == {"id": "m1", "kind": "migration", "from_host": SOURCE, "from_node": None}
    assert (at_destination.server, at_destination.args) == (HOST, {"move_id": "m1"})
    assert at_source.server == SOURCE
    assert at_source.args == {"move_id": "m1", "effective_at": FINISHED["finished_at"], "move": FINISHED}
    assert move == FINISHED
    assert (instance["host"], instance["node"]) == (HOST, "node-7")


@pytest.mark.usefixtures("script")
def test_a_resize_within_a_host_is_handed_over_once(api: TrackerAPI, scripted_transport: ScriptedTransport) -> None:
    with api.move_claim(CONTEXT, INSTANCE, HOST, HOST, "resize"):
        pass
    assert scripted_transport.steps == ["call begin_move_claim", "call finish_move"]


def test_an_evacuated_host_is_told_by_a_cast(
    api: TrackerAPI, scripted_transport: ScriptedTransport, script: dict[tuple[str, str], Any]
) -> None:
    script["call", "finish_move"] = {**FINISHED, "kind": "evacuation"}
    with api.move_claim(CONTEXT, INSTANCE, SOURCE, HOST, "evacuation"):
        pass
    assert scripted_transport.steps == ["call begin_move_claim", "call finish_move", "cast finish_move"]


@pytest.mark.usefixtures("script")
@pytest.mark.parametrize("error", [BuildFailed, KeyboardInterrupt])
def test_a_move_that_fails_is_aborted(
    api: TrackerAPI, scripted_transport: ScriptedTransport, error: type[BaseException]
) -> None:
    instance = dict(INSTANCE)
    with pytest.raises(error), api.move_claim(CONTEXT, instance, SOURCE, HOST, "resize", move_id="m1"):
        raise error
    assert scripted_transport.steps == ["call begin_move_claim", "cast abort_move"]
    assert scripted_transport.sent[1].args == {"move_id": "m1"}
    assert instance == INSTANCE


@pytest.mark.parametrize(
    ("failure", "aborted"),
    [
        (errors.ComputeResourcesUnavailable(shortfalls=[]), False),
        (errors.StoreUnavailable(reason="away"), True),
        (oslo_messaging.MessagingTimeout(), True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_begin_of_which_nothing_is_known_is_aborted(
    api: TrackerAPI,
    scripted_transport: ScriptedTransport,
    script: dict[tuple[str, str], Any],
    failure: Exception,
    aborted: bool,
) -> None:
    script["call", "begin_move_claim"] = failure
    with pytest.raises(type(failure)), api.move_claim(CONTEXT, INSTANCE, SOURCE, HOST, "resize"):
        pass
    assert scripted_transport.steps == ["call begin_move_claim", *(["cast abort_move"] if aborted else [])]


def test_a_hand_over_without_an_answer_is_asked_for_again_and_then_raised(
    api: TrackerAPI, scripted_transport: ScriptedTransport, script: dict[tuple[str, str], Any]
) -> None:
    script["call", "finish_move"] = oslo_messaging.MessagingTimeout()
    with pytest.raises(oslo_messaging.MessagingTimeout), api.move_claim(CONTEXT, INSTANCE, SOURCE, HOST, "resize"):
        pass
    assert scripted_transport.steps == ["call begin_move_claim", *["call finish_move"] * 3]
