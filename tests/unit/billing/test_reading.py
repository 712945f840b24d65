# SPDX-License-Identifier: Apache-2.0
"""A message that can be read is kept as what it says of a charge; another one is odd, whatever it is, and names its field."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.billing.messages import LARGE, SMALL, adjustment, at, charged, closed, exists, moved, node, told
from tests.support.builders import uuid
from tests.support.doc_pages import DOC
from tracker_worker.billing import Books
from tracker_worker.billing.reading import read

SAMPLES = sorted((DOC / "user" / "samples").glob("*.json"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_can_be_read(sample: Any) -> None:
    message = json.loads(sample.read_text("utf-8"))
    heard = read(message)
    assert (heard.ledger, heard.place) == (message["payload"]["ledger_id"], ("host-1", "node-1"))
    assert heard.sequence == message["payload"]["sequence"]


@pytest.mark.parametrize(
    "message",
    [
        charged(1, 0, SMALL, event_type="tracker.claim.rejected"),
        charged(1, 0, SMALL, event_type="tracker.claim.untracked"),
        charged(1, 0, SMALL, event_type="tracker.move.rejected"),
        charged(1, 0, SMALL, event_type="tracker.move.begun", role="incoming", effective_at=""),
        charged(1, 0, SMALL, event_type="tracker.move.confirmed", role="instance"),
        told(1, "tracker.node.drift", 0, kind="usage"),
        told(1, "tracker.node.exploded", 0),
    ],
    ids=lambda message: message["event_type"],
)
def test_what_says_nothing_of_a_charge_has_a_number_all_the_same(message: dict[str, Any]) -> None:
    assert read(message).record["kind"] == "other"


def test_an_event_that_is_not_known_yet_counts_if_it_says_what_is_charged() -> None:
    record = read(charged(1, 0, SMALL, event_type="tracker.usage.paused")).record
    assert (record["kind"], record["uuid"], record["charge"]) == ("charge", uuid(1), ["p", SMALL, "active", "finished"])


def test_an_instance_may_have_no_project_and_no_state() -> None:
    record = read(charged(1, 0, SMALL, tenant_id="", state="", claim_state="")).record
    assert record["charge"] == ["", SMALL, "", ""]


def test_a_charge_of_nothing_at_all_is_a_charge() -> None:
    nothing = dict.fromkeys(SMALL, 0)
    assert read(charged(1, 0, nothing)).record["charge"] == ["p", nothing, "active", "finished"]
    assert read(charged(1, 0)).record["charge"] is None


WHOLE = exists(9, 120, 60, 120, (70, 120, SMALL), adjustments=[adjustment(0, 60, -60, LARGE)])
READABLE = [charged(1, 0, SMALL), moved(2, 5, 1, LARGE), node(3, 6), WHOLE, closed(10, 120, 60, 120, WHOLE)]
FIELDS = [
    (message, name)
    for message in READABLE
    for name in [*message, *message["payload"]]
    if name not in ("first_sequence", "last_sequence")
]
OTHERS = [..., None, [1], "", {"VCPU": -1, 1: 2}, -1, -(2**63) - 1, True, "x" * 1001, 1.5]


@pytest.mark.parametrize(
    ("message", "name"), FIELDS, ids=[f"{message['event_type']}-{name}" for message, name in FIELDS]
)
@pytest.mark.parametrize("value", OTHERS, ids=lambda value: str(value)[:10])
def test_a_field_that_is_missing_or_of_another_kind_is_named(message: dict[str, Any], name: str, value: Any) -> None:
    spoiled = copy.deepcopy(message)
    of = spoiled if name in spoiled else spoiled["payload"]
    if value is ...:
        del of[name]
    else:
        of[name] = value
    books = Books({})
    if books.hear(spoiled) == "odd":
        [(_, reason)] = books.odd
        # Another value of these changes what is read inside, or added up.
        assert name in reason or name in ("payload", "segments", "adjustments", "seconds", "resource_seconds")
    else:
        # These may be left out, or be empty; a period that is only adjusted may be below nothing.
        assert name in (
            "seconds",
            "instance_id",
            "effective_at",
            "tenant_id",
            "state",
            "claim_state",
            "role",
            "charged",
        )
        assert books.odd == []


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"occurred_at": "today"}, "occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+10:00"}, "occurred_at"),
        ({"sequence": 0}, "sequence"),
        ({"previous_ledger_id": "x", "previous_sequence": 3}, "previous_sequence"),
        ({"audit_period_ending": at(0)}, "audit_period_ending"),
        ({"seconds": 1}, "not the sum"),
        ({"segments": [{"from": at(2), "to": at(1), "resources": {}}]}, "before it begins"),
        ({"segments": "x"}, "segments"),
    ],
)
def test_a_contradiction_is_odd(spoil: dict[str, Any], reason: str) -> None:
    message = node(3, 6) if "previous_ledger_id" in spoil else WHOLE
    books = Books({})
    assert books.hear({**message, "payload": {**message["payload"], **spoil}}) == "odd"
    [(kept, why)] = books.odd
    assert reason in why
    assert kept["event_type"] == message["event_type"]
    assert books.missing() == {}


@given(JSON)
def test_anything_can_be_heard(message: Any) -> None:
    books = Books({})
    assert books.hear(message) == "odd"
    assert len(books.odd) == 1


@given(st.sampled_from(READABLE), st.data())
def test_anything_in_a_payload_can_be_heard(message: dict[str, Any], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(message["payload"])))
    books = Books({})
    books.hear({**message, "payload": {**message["payload"], name: data.draw(JSON)}})
    books.usage("2026-01-01", "2027-01-01")
    books.closed("2026-01-01", "2027-01-01")


def test_what_is_no_json_is_odd_too() -> None:
    books = Books({})
    circle: list[Any] = []
    circle.append(circle)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for message in (circle, deep, {1: 2, "x": {3}}, {("a", "b"): 1}, b"bytes", object()):
        assert books.hear(message) == "odd"  # type: ignore[arg-type]
    assert len(books.odd) == 6
    assert books.hear({"event_type": "x" * 100_000}) == "odd"
    assert len(json.dumps(books.odd[-1])) < 70_000
