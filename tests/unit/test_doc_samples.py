# SPDX-License-Identifier: Apache-2.0
"""The examples of the reference pages are the code's real output.

``python -m tests.support.doc_story`` rewrites the sample notifications.
"""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

from tests.support import doc_story
from tests.support.builders import instance_dict
from tests.support.doc_pages import DOC, blocks, section
from tracker_worker.notifications import schema

RPC = DOC / "user" / "rpc.md"
NOTIFICATIONS = DOC / "user" / "notifications.md"
SCHEMAS = sorted(
    entry.name.removesuffix(".json") for entry in schema._FOLDER.iterdir() if entry.name.startswith("tracker.")
)
ANSWERS = doc_story.answers()


def _json_of(page_section: str) -> Any:
    return json.loads(page_section.partition("```json\n")[2].partition("```")[0])


@pytest.mark.parametrize("event_type", SCHEMAS)
def test_a_sample_is_what_the_worker_publishes(event_type: str) -> None:
    sample = (doc_story.SAMPLES / f"{event_type}.json").read_text(encoding="utf-8")
    assert sample == doc_story.text(doc_story.samples()[event_type])


@pytest.mark.parametrize("event_type", SCHEMAS)
def test_a_sample_matches_its_published_schema_for_any_validator(event_type: str) -> None:
    sample = json.loads((doc_story.SAMPLES / f"{event_type}.json").read_text(encoding="utf-8"))
    registry: Registry[Any] = Registry().with_resources(
        (name, Resource.from_contents(schema.load(name))) for name in ("instance.json", "move.json", "node.json")
    )
    jsonschema.Draft7Validator(schema.load(f"{event_type}.json"), registry=registry).validate(sample["payload"])


def test_each_event_type_has_one_sample() -> None:
    assert sorted(path.stem for path in doc_story.SAMPLES.iterdir()) == SCHEMAS


def test_the_page_shows_the_sample_of_a_claim_that_was_begun() -> None:
    shown = _json_of(section(NOTIFICATIONS, "Receiving them"))
    assert shown == doc_story.samples()["tracker.claim.begun"]


@pytest.mark.parametrize(
    "method",
    [name for name in ANSWERS if name not in ("ComputeResourcesUnavailable", "list_nodes", "oslo_rpc_server_ping")],
)
def test_a_result_in_the_rpc_reference_is_what_the_worker_answers(method: str) -> None:
    assert _json_of(section(RPC, f"`{method}`")) == ANSWERS[method]


def test_the_shortfalls_in_the_rpc_reference_are_those_of_a_refusal() -> None:
    assert _json_of(section(RPC, "Errors")) == ANSWERS["ComputeResourcesUnavailable"]


def _named(name: str) -> Any:
    """What a Python block of the page defines."""
    [code] = [block for block in blocks(NOTIFICATIONS, "python") if name in block.text]
    names: dict[str, Any] = {}
    exec(compile(code.text, str(NOTIFICATIONS), "exec"), names)
    return names[name.split()[-1]]


def test_the_invoice_of_the_page_is_what_was_charged_and_proves_it() -> None:
    told = doc_story.notifications()
    invoice = _named("class Invoice")()
    for message in told:
        invoice.process(message["event_type"], message["payload"])
    assert told[-1]["event_type"] == "tracker.period.closed"
    closed = told[-1]["payload"]
    assert invoice.closed == {("host-1", "node-1"): "2026-01-15T13:00:00Z"}
    assert closed["exists"] > 3
    [(project, owed)] = invoice.owed.items()
    assert (project, owed) == (instance_dict()["project_id"], closed["resource_seconds"])
    lacking = _named("class Invoice")()
    for message in told[:-2]:
        lacking.process(message["event_type"], message["payload"])
    with pytest.raises(ValueError, match="lacks usage"):
        lacking.process(told[-1]["event_type"], told[-1]["payload"])


@pytest.mark.parametrize("seed", range(20))
def test_the_inbox_of_the_page_passes_on_every_notification_once_and_in_order(seed: int) -> None:
    [code] = [block for block in blocks(NOTIFICATIONS, "python") if block.text.startswith("class Inbox")]
    names: dict[str, Any] = {}
    exec(compile(code.text, str(NOTIFICATIONS), "exec"), names)
    told = doc_story.notifications()
    # The notifications come from two queues, each in order, with copies.
    warned = ("tracker.claim.rejected", "tracker.node.drift")
    arriving = [[message for message in told if (message["event_type"] in warned) is warn] for warn in (False, True)]
    dice = random.Random(seed)
    order = dice.sample([0] * len(arriving[0]) + [1] * len(arriving[1]), len(told))
    iterators = [iter(queue) for queue in arriving]
    received = list(itertools.chain.from_iterable([next(iterators[n])] * dice.choice([1, 2]) for n in order))

    processed = []
    inbox = names["Inbox"](lambda event_type, payload: processed.append((event_type, payload["sequence"])))
    for message in received[:-1]:
        inbox.receive(message["event_type"], message["payload"])
    lacking = inbox.missing()
    inbox.receive(received[-1]["event_type"], received[-1]["payload"])

    assert processed == [(message["event_type"], message["payload"]["sequence"]) for message in told]
    assert inbox.missing() == {}
    place = (told[0]["payload"]["ledger_id"], "host-1", "node-1")
    assert lacking in ({}, {place: received[-1]["payload"]["sequence"]})


def test_the_inbox_of_the_page_goes_on_in_a_new_history() -> None:
    [code] = [block for block in blocks(NOTIFICATIONS, "python") if block.text.startswith("class Inbox")]
    names: dict[str, Any] = {}
    exec(compile(code.text, str(NOTIFICATIONS), "exec"), names)
    heard = []
    inbox = names["Inbox"](lambda event_type, payload: heard.append((payload["ledger_id"], payload["sequence"])))

    def receive(ledger_id: str, sequence: int, **more: Any) -> None:
        inbox.receive("", {"ledger_id": ledger_id, "host": "h", "node": "n", "sequence": sequence, **more})

    for sequence in (1, 2, 3):
        receive("old", sequence)
    receive("new", 4)
    assert inbox.missing() == {("new", "h", "n"): 1}
    receive("new", 3, previous_ledger_id="old", previous_sequence=2)
    receive("new", 3, previous_ledger_id="old", previous_sequence=2)
    assert heard == [("old", 1), ("old", 2), ("old", 3), ("new", 3), ("new", 4)]
    assert inbox.missing() == {}
