# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker dead-letter``: the fields, the selection and the display of messages. Functional tests cover the real
queue.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
import pytest

from tests.support.builders import instance_dict, uuid
from tests.unit.cli.conftest import Cli
from tracker_worker.cli.context import CommandFailed
from tracker_worker.cli.dead_letters.format import describe, show_described
from tracker_worker.cli.dead_letters.message import DeadMessage, read_message, sendable_properties
from tracker_worker.cli.dead_letters.replay import objection
from tracker_worker.cli.dead_letters.selection import Selection
from tracker_worker.wire.message import MSGPACK, ReplyTo
from tracker_worker.wire.request import encode_request

PARKED = {
    "x-tracker-reason": "node_not_found: Host h1 has no node n9",
    "x-tracker-exchange": "openstack",
    "x-tracker-routing-key": "tracker.h1",
    "x-tracker-time": "2026-01-15T12:00:00Z",
}
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
# This is RabbitMQ 3.10.8's header as py-amqp reads it: the latest death is the first.
DEATH = {
    "count": 1,
    "reason": "expired",
    "queue": "tracker.h1",
    "time": datetime(2026, 1, 15, 12, 0),  # noqa: DTZ001 py-amqp's times have no time zone
    "exchange": "openstack",
    "routing-keys": ["tracker.h1"],
    "original-expiration": "300",
}
DEAD = {
    "x-death": [DEATH],
    "x-first-death-exchange": "openstack",
    "x-first-death-queue": "tracker.h1",
    "x-first-death-reason": "expired",
}
MAX_BYTES = 1 << 20


def request(method: str = "begin_resource_claim", **arguments: Any) -> bytes:
    return encode_request(method, arguments, context={"project_id": "p1"}, unique_id="u-1")


def letter(
    body: bytes = b"", headers: Mapping[str, Any] | None = None, *, number: int = 1, **properties: Any
) -> DeadMessage:
    read = read_message(
        body, PARKED if headers is None else headers, properties, tag=7, topic="tracker", max_bytes=MAX_BYTES
    )
    return replace(read, number=number)


def test_a_large_message_of_small_values_is_listed_without_being_built() -> None:
    body = b'{"method":"x","args":{"a":[' + b",".join([b"[]"] * 400_000) + b"]}}"
    read = letter(body)
    assert read.method is None
    assert "at most 1048576 are served" in str(read.problem)


# --- the fields of a message --------------------------------------------------------------------------------------------


def test_a_parked_request_has_its_reason_and_the_fields_of_the_request() -> None:
    read = letter(request(instance=instance_dict(node="n9")))
    assert (read.code, read.text, read.time) == ("node_not_found", "Host h1 has no node n9", NOON)
    assert (read.exchange, read.routing_key) == ("openstack", "tracker.h1")
    assert (read.method, read.host, read.node, read.instance) == ("begin_resource_claim", "h1", "n9", uuid())
    assert (read.unique_id, read.call, read.problem) == ("u-1", False, None)


def test_the_host_comes_from_the_request_or_its_topic() -> None:
    shared = {**PARKED, "x-tracker-routing-key": "tracker"}
    assert letter(request(host="h2"), shared).host == "h2"
    assert letter(request(), shared).host is None


def test_the_claim_id_is_the_instance() -> None:
    assert letter(request("finish_resource_claim", claim_id="i-1")).instance == "i-1"


def test_a_message_dead_lettered_by_rabbitmq_is_read_from_its_x_death_header() -> None:
    later = {**DEATH, "reason": "rejected", "queue": "elsewhere", "exchange": "", "routing-keys": ["elsewhere"]}
    reply_to = ReplyTo("reply_1", "m-1")
    body = encode_request("get_node", {}, context={}, unique_id="u-1", reply_to=reply_to)
    read = letter(body, {**DEAD, "x-death": [later, DEATH]})
    assert (read.code, read.time) == ("expired", NOON)
    assert read.text == "dead-lettered by RabbitMQ in queue tracker.h1, after 300 ms"
    assert (read.exchange, read.routing_key, read.host) == ("openstack", "tracker.h1", "h1")
    assert read.call


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": "dead"},
        {"x-death": []},
        {"x-death": [5]},
        {"x-death": [{"routing-keys": 5, "time": "yesterday", "reason": None}]},
        {**PARKED, "x-tracker-reason": 5, "x-tracker-time": "yesterday", "x-tracker-routing-key": [b"\xff"]},
        {**PARKED, "x-tracker-reason": b"\xff: \xff", "x-tracker-time": None, "x-tracker-exchange": None},
        {**PARKED, "compression": 5},
    ],
)
@pytest.mark.parametrize("body", [b"", b"\xff", b"5", b"{}", b"[" * 100_000, request(), b'{"args": {"instance": 5}}'])
def test_a_message_with_any_headers_and_any_body_can_be_described(headers: Mapping[str, Any], body: bytes) -> None:
    read = letter(body, headers, content_type=b"\xff")
    assert read.size == len(body)
    assert read.problem is not None
    json.dumps(describe(read, MAX_BYTES))


@pytest.mark.parametrize(
    ("body", "problem", "method"),
    [
        (b"\xff\xff", "undecodable", None),
        (b'{"method": "get_node", "args": [1]}', "args is not an object", "get_node"),
        (request(instance={"x": "y" * MAX_BYTES}), "at most 1048576 are served", "begin_resource_claim"),
    ],
)
def test_an_invalid_message_has_its_problem_and_its_readable_fields(
    body: bytes, problem: str, method: str | None
) -> None:
    read = letter(body)
    assert problem in (read.problem or "")
    assert read.method == method


def test_msgpack_and_compressed_requests_are_read() -> None:
    packed = encode_request("get_node", {"node": "n1"}, context={}, unique_id="u-1", content_type=MSGPACK)
    assert letter(packed, content_type=MSGPACK).node == "n1"
    compressed = letter(zlib.compress(request(node="n2")), {**PARKED, "compression": "application/x-gzip"})
    assert (compressed.node, compressed.unique_id, compressed.problem) == ("n2", "u-1", None)
    assert describe(compressed, MAX_BYTES)["message"]["_context_project_id"] == "p1"


def test_an_id_depends_on_message_and_time_and_has_letters_only() -> None:
    ids = {letter(request(node=str(number)), number=number).id for number in range(50)}
    ids.add(letter(request(node="1"), {**PARKED, "x-tracker-time": "2026-01-15T12:00:01Z"}).id)
    assert len(ids) == 51
    assert all(len(id) == 12 and id.isalpha() and id.islower() for id in ids)
    assert letter(request(node="1"), number=5).id == letter(request(node="1"), {**PARKED, "x-delivery-count": 9}).id


# --- the message that is replayed ----------------------------------------------------------------------------------------


def test_a_replay_sends_the_original_properties_only() -> None:
    headers = {**PARKED, **DEAD, "x-delivery-count": 3, "CC": ["tracker.h1"], "BCC": ["x"], "x-from": "a scheduler"}
    read = letter(request(), headers, priority=3, user_id="alice", message_id="m", content_type="application/json")
    assert sendable_properties(read) == {
        "priority": 3,
        "message_id": "m",
        "content_type": "application/json",
        "application_headers": {"x-from": "a scheduler"},
    }


def test_a_call_is_replayed_only_if_it_is_selected_itself() -> None:
    call = replace(letter(request()), call=True)
    assert "caller has given up" in str(objection(call, calls=False))
    assert objection(call, calls=True) is None
    assert objection(letter(request()), calls=False) is None


def test_a_message_without_an_origin_is_not_replayed() -> None:
    assert objection(letter(request(), {}), calls=True) == "its headers do not say where it was first sent"


# --- the selection ------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters() -> list[DeadMessage]:
    """Four messages: parked at noon, parked a minute later, without a time, and a copy of the first."""
    minute = {**PARKED, "x-tracker-time": "2026-01-15T12:01:00Z", "x-tracker-reason": "claim_conflict: no"}
    second = encode_request("update_usage", {}, context={}, unique_id="u-2")
    return [
        letter(request(), number=1),
        letter(second, minute, number=2),
        letter(b"?", {}, number=3),
        letter(request(), number=4),
    ]


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        (Selection(everything=True), [1, 2, 3, 4]),
        (Selection(names=("3", "1", "3")), [1, 3]),
        (Selection(unique_id="u-1"), [1, 4]),
        (Selection(code="claim_conflict"), [2]),
        (Selection(code="none"), []),
        (Selection(older_than_seconds=59), [1, 2, 4]),
        (Selection(older_than_seconds=60), [1, 4]),
        (Selection(older_than_seconds=59, code="claim_conflict"), [2]),
    ],
)
def test_a_selection_returns_messages_in_their_order(
    letters: list[DeadMessage], selection: Selection, numbers: list[int]
) -> None:
    now = NOON.replace(minute=2)
    assert [one.number for one in selection.pick(letters, now)] == numbers
    assert {*numbers} <= {one.number for one in letters if selection.may_want(one)}


def test_an_id_or_its_beginning_selects_all_copies(letters: list[DeadMessage]) -> None:
    for name in (letters[0].id, letters[0].id[:4]):
        assert [one.number for one in Selection(names=(name,)).pick(letters, NOON)] == [1, 4]


def test_a_selection_of_a_missing_message_is_refused(letters: list[DeadMessage]) -> None:
    for name in ("5", "0", "-1", "zzzz", letters[0].id[:3], "9" * 5000):
        with pytest.raises(CommandFailed, match="there is no dead-lettered message"):
            Selection(names=("1", name)).pick(letters, NOON)
    with pytest.raises(CommandFailed, match="unique id u-9"):
        Selection(unique_id="u-9").pick(letters, NOON)


def test_an_ambiguous_beginning_of_an_id_is_refused(letters: list[DeadMessage]) -> None:
    alike = [replace(letters[0], id="abcdefghijkl"), replace(letters[1], id="abcdponmlkji")]
    with pytest.raises(CommandFailed, match="abcd is the beginning of several ids: abcdefghijkl, abcdponmlkji"):
        Selection(names=("abcd",)).pick(alike, NOON)


def test_a_selection_needs_exactly_one_criterion() -> None:
    for arguments in ({}, {"names": ("1",), "everything": True}, {"everything": True, "code": "x"}):
        with pytest.raises(click.UsageError):
            Selection(**arguments)


# --- the display --------------------------------------------------------------------------------------------------------


def test_a_message_is_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_described(describe(letter(request(node="n\u00e9"), {**PARKED, "x-from": b"\xff"}, priority=0), MAX_BYTES))
    fields, _, message = capsys.readouterr().out.partition("\n\n")
    assert json.loads(message)["args"] == {"node": "n\u00e9"}
    shown = [line.split(maxsplit=1) for line in fields.splitlines()[2:]]
    assert ["headers.x-from", "\\xff"] in [[name, value.strip()] for name, value in shown]


def test_a_body_that_is_text_is_shown_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    show_described(describe(letter(b"{no json"), MAX_BYTES))
    assert capsys.readouterr().out.endswith("\n\n{no json\n")


def test_bytes_are_shown_in_hexadecimal(capsys: pytest.CaptureFixture[str]) -> None:
    show_described(describe(letter(b"\xff\xfe\x00\x1b[31m" + b"0123456789"), MAX_BYTES))
    first, second = capsys.readouterr().out.splitlines()[-2:]
    assert first == "00000000  ff fe 00 1b 5b 33 31 6d 30 31 32 33 34 35 36 37  ....[31m01234567"
    assert second.split() == ["00000010", "38", "39", "89"]


def test_a_long_body_is_shown_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    for body in (b"x" * 5000, b"\xff" * 5000):
        show_described(describe(letter(body), MAX_BYTES))
        out = capsys.readouterr().out
        assert out.endswith("\n... the rest is in --format json\n")
        assert len(out) < 30_000


def test_values_that_json_does_not_have_are_shown_as_text() -> None:
    message = {"method": "x", "args": {"when": NOON, b"k": b"\xff", 1: float("inf")}, "deep": _nested(300)}
    described = describe(letter(msgspec.msgpack.encode(message), content_type=MSGPACK), MAX_BYTES)
    assert described["message"]["args"] == {"when": NOON.isoformat(), "k": "\\xff", "1": "inf"}
    json.dumps(described, allow_nan=False)


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "1", "--all"),
        ("replay", "--all", "--reason", "x"),
        ("purge",),
        ("purge", "--yes"),
        ("purge", "--older-than", "-1"),
        ("purge", "1", "--older-than", "1"),
        ("show",),
        ("show", "1", "2"),
        ("show", "1", "--unique-id", "x"),
        ("list", "--limit", "0"),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_with_2(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli.run("dead-letter", *arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "1"), ("replay", "--all"), ("purge", "--all", "--yes")], ids=" ".join
)
def test_an_unreachable_broker_is_an_error_of_one_sentence(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.configure("[DEFAULT]\ntransport_url = rabbit://tracker:s3cret@127.0.0.1:1//\n")
    sentence = cli.refuse("dead-letter", *arguments)
    assert sentence.startswith("no broker can be reached: 127.0.0.1:1/")
    assert "s3cret" not in sentence
