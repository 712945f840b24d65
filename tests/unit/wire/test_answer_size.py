# SPDX-License-Identifier: Apache-2.0
"""No reply is larger than the limit: what would be is encoded no further, and its caller gets AnswerTooLarge."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

import tests.support.messaging  # noqa: F401 before oslo.messaging
from tests.support.builders import HOST, NODE, NOW, instance, inventory
from tests.support.memory import measure
from tracker_worker.client.transport import remote_error
from tracker_worker.domain.allocation import Allocation
from tracker_worker.domain.events import ClaimBegun
from tracker_worker.domain.host import HostLedger
from tracker_worker.domain.ledger import NodeLedger
from tracker_worker.domain.life import OPEN, Life
from tracker_worker.domain.queries import GetNode, GetUsage, ListClaims, ListNodes, Query, read
from tracker_worker.domain.views import Entries, each_claim_view, node_view, usage_view
from tracker_worker.errors import AnswerTooLarge, InvalidInput
from tracker_worker.ids import uuid7
from tracker_worker.wire.measured import Encoded, Fitting
from tracker_worker.wire.message import JSON, MSGPACK, ReplyTo, decode_message
from tracker_worker.wire.reply import MAX_ANSWER_BYTES, answer, encode_answer, encode_reply

TYPES = [JSON, MSGPACK]
TEXTS = ["x", '"', "\\", "\x01", "é", "\U0001f600", '\\"\n']


def reply_to(content_type: str, msg_id: str = "m1") -> ReplyTo:
    return ReplyTo("reply_1", msg_id, content_type)


def reply(value: Any, content_type: str, limit: int = MAX_ANSWER_BYTES, msg_id: str = "m1", method: str = "") -> bytes:
    caller = reply_to(content_type, msg_id)
    return encode_reply(answer(caller, value, limit=limit, method=method), caller)


def failure(body: bytes, content_type: str) -> dict[str, Any] | None:
    failed = decode_message(body, content_type)["failure"]
    return None if failed is None else msgspec.json.decode(failed)


def lazily(value: Any) -> Any:
    """``value`` made of iterators and Entries, as a query returns it."""
    if isinstance(value, list):
        return iter([lazily(item) for item in value])
    if isinstance(value, dict):
        return Entries((key, lazily(item)) for key, item in value.items())
    return value


VALUES: list[Any] = [
    [],
    {},
    [None, True, 1.5, "ä"],
    [[1, [2, []]], {}],
    {"a": {"b": [{"c": list(range(100))}]}},
    [{text: {f"{number}": text for number in range(40)}} for text in TEXTS],
    {f"key {number}": ["x"] * number for number in range(50)},
]


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_an_answer_that_is_made_part_by_part_is_the_same(value: Any, content_type: str) -> None:
    caller = reply_to(content_type)
    whole = decode_message(encode_reply(encode_answer(content_type, result=value), caller), content_type)

    for parts in (value, lazily(value)):
        found = decode_message(reply(parts, content_type), content_type)
        assert found["result"] == whole["result"] == value
        assert list(found) == list(whole)
    if content_type == JSON:
        assert answer(caller, lazily(value)) == encode_answer(content_type, result=value)


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("msg_id", ["m1", '"' * 255])
def test_the_limit_is_exact_for_the_body_that_goes_out(text: str, content_type: str, msg_id: str) -> None:
    for value in ([text * 7] * 3000, {f"{number}": text * 7 for number in range(3000)}, {"claim": text * 40_000}):
        size = len(reply(lazily(value), content_type, 1 << 30, msg_id))

        fitting = reply(lazily(value), content_type, size, msg_id)
        refused = reply(lazily(value), content_type, size - 1, msg_id)

        assert decode_message(fitting, content_type)["result"] == value
        assert len(fitting) == size
        failed = failure(refused, content_type)
        assert failed is not None
        assert failed["class"] == "AnswerTooLarge"
        assert failed["kwargs"]["limit"] == size - 1
        if content_type == JSON:  # a smaller list has a shorter head in msgpack
            assert failure(reply(value, content_type, size - 1, msg_id), content_type) is not None


@pytest.mark.parametrize("content_type", TYPES)
def test_an_endless_answer_is_read_no_further_than_the_limit(content_type: str) -> None:
    taken = itertools.count()

    def endless() -> Iterator[dict[str, int]]:
        for number in taken:
            yield {"number": number}

    for value in (endless(), Entries((str(number), item) for number, item in enumerate(endless()))):
        before = next(taken)
        failed = failure(reply(value, content_type, 100_000), content_type)
        assert failed is not None
        assert 100_000 < failed["kwargs"]["bytes"] < 100_100
        assert next(taken) - before < 100_000 // 5


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_list_that_may_end_early_has_as_many_items_as_there_is_room_for(text: str, content_type: str) -> None:
    head = {"first": text, "last": 7}
    items = [{"text": text * number} for number in (30, 1, 0, 50)]

    def fitting(number: int, limit: int) -> bytes:
        encoded = (Encoded(msgspec.json.encode(item)) for item in items[:number])
        return reply(Fitting(head, "items", encoded), content_type, limit)

    def found(limit: int) -> Any:
        body = fitting(4, limit)
        assert len(body) <= limit or failure(body, content_type) is not None
        return decode_message(body, content_type)["result"]

    sizes = [len(fitting(number, 1 << 20)) for number in (1, 2, 3, 4)]
    assert sizes == sorted(set(sizes))
    for number, size in enumerate(sizes, 1):
        assert found(size) == {**head, "items": items[:number]}
        assert found(size - 1) == (None if number == 1 else {**head, "items": items[: number - 1]})
    failed = failure(fitting(4, sizes[0] - 1), content_type)
    assert failed is not None
    assert (failed["class"], failed["kwargs"]["limit"]) == ("AnswerTooLarge", sizes[0] - 1)
    assert "the first notification has that many bytes alone" in failed["kwargs"]["how"]
    assert decode_message(fitting(0, 1 << 20), content_type)["result"] == {**head, "items": []}


@pytest.mark.parametrize("content_type", TYPES)
def test_of_a_list_that_may_end_early_no_more_is_taken_than_has_room(content_type: str) -> None:
    taken = itertools.count()
    body = reply(Fitting({}, "items", ({"number": number} for number in taken)), content_type, 100_000)
    assert 99_900 < len(body) <= 100_000
    assert next(taken) == len(decode_message(body, content_type)["result"]["items"]) + 1


def test_the_caller_gets_the_error_with_its_facts() -> None:
    body = reply(iter([{"x": "y" * 100}] * 1000), JSON, 65536, method="list_claims")

    error = remote_error(decode_message(body)["failure"])

    assert isinstance(error, AnswerTooLarge)
    assert error.code == "answer_too_large"
    assert {**error.kwargs, "bytes": None} == {
        "method": "list_claims",
        "bytes": None,
        "limit": 65536,
        "how": "ask for fewer at a time (limit) and then for those behind them (after), or for one node (node)",
    }
    assert error.kwargs["bytes"] > 65536
    assert str(error) == f"The answer to list_claims is larger than 65536 bytes: {error.kwargs['how']}"


@pytest.mark.parametrize(
    "method", ["list_claims", "list_nodes", "get_usage", "get_node", "update_available_resource", ""]
)
def test_each_method_says_what_to_ask_for_instead(method: str) -> None:
    failed = failure(reply(iter(["x" * 70_000]), JSON, 65536, method=method), JSON)
    assert failed is not None
    assert "node" in failed["kwargs"]["how"]


@pytest.mark.parametrize("content_type", TYPES)
def test_an_error_with_the_longest_texts_stays_under_the_least_limit(content_type: str) -> None:
    """The option has a minimum of 65536 bytes."""
    caller = reply_to(content_type, '"' * 255)
    error = InvalidInput(field='"' * 100_000, reason='\\"' * 100_000)

    assert len(encode_reply(answer(caller, error=error), caller)) < 65536


def test_a_cast_takes_nothing_out_of_the_answer() -> None:
    untouched = iter([1])

    assert answer(None, untouched) == b""
    assert next(untouched) == 1


# --- the queries -----------------------------------------------------------------------------------------------------


def ledger(claims: int, projects: int = 1) -> HostLedger:
    node = NodeLedger(id=1, host=HOST, name=NODE)
    node.inventory, node.life = inventory(), Life(state=OPEN)
    for number in range(claims):
        held = instance(number, project_id=f"{number % projects:0200}")
        allocation = Allocation(
            id=uuid7(NOW, number),
            claim_id=uuid7(NOW, number),
            instance=held,
            resources=held.resources,
            begun_at=NOW + number,
            expires_at=NOW,
            limit_source="caller",
        )
        node.apply(ClaimBegun(at=NOW, allocation=allocation))
    host = HostLedger(id=1, name=HOST)
    host.nodes[NODE] = node
    return host


@pytest.mark.parametrize("content_type", TYPES)
def test_a_lazy_query_is_answered_as_the_views_say(content_type: str) -> None:
    host = ledger(400, projects=300)
    (node,) = host

    def result(query: Query) -> Any:
        return decode_message(reply(read([host], query, NOW), content_type), content_type)["result"]

    assert result(ListClaims(node=None)) == list(each_claim_view([node]))
    assert result(ListClaims(node=NODE)) == list(each_claim_view([node]))
    assert result(ListNodes()) == [node_view(node)]
    assert result(GetNode(node=None)) == node_view(node)
    assert result(GetUsage(project_id=None)) == usage_view(host)


def large_answers() -> dict[str, Callable[[], Any]]:
    host = ledger(60_000, projects=60_000)
    queries: dict[str, Query] = {
        "list_claims": ListClaims(node=None),
        "get_usage": GetUsage(project_id=None),
        "list_nodes": ListNodes(),
        "get_node": GetNode(node=None),
    }

    def ask(name: str, content_type: str) -> Any:
        failed = failure(reply(read([host], queries[name], NOW), content_type, method=name), content_type)
        return None if failed is None else (failed["class"], failed["kwargs"]["method"])

    return {f"{name} {kind}": lambda name=name, kind=kind: ask(name, kind) for name in queries for kind in TYPES}


def test_an_answer_about_60000_claims_costs_no_more_than_the_limit() -> None:
    """Encoded whole, each of them would have 15 MB or more."""
    for name, found in measure(large_answers).items():
        assert found.result == ["AnswerTooLarge", name.split()[0]]
        assert found.megabytes < 32, (name, found)
        assert found.seconds < 2, (name, found)


def test_the_json_of_a_large_answer_is_what_a_stock_client_reads() -> None:
    body = reply(read([ledger(400)], ListClaims(node=None), NOW), JSON)

    assert len(json.loads(json.loads(body)["oslo.message"])["result"]) == 400
