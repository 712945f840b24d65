# SPDX-License-Identifier: Apache-2.0
"""What the outbox has is read through a request: in order, in bounded parts, and never what did not happen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.backup import Backup
from tests.support.builders import HOST, NOW, instance_dict, node_name, uuid
from tests.support.caller import Refused, drained
from tests.support.deadline import SECONDS, wait_until
from tests.support.engine import EngineHarness
from tests.support.store import ALL
from tests.unit.service.conftest import DeadlineClock, MakeHarness
from tests.unit.service.test_engine_progress import H1, H2, Worker
from tracker_worker.administration import Administration
from tracker_worker.domain.commands import RetireNode
from tracker_worker.domain.values import SECOND
from tracker_worker.errors import StoreUnavailable
from tracker_worker.store.base import StoreReplaced, Unstorable
from tracker_worker.store.memory import MemoryStore
from tracker_worker.wire.message import JSON, MSGPACK, decode_message
from tracker_worker.wire.reply import MAX_ANSWER_BYTES

N1, N2 = node_name(1), node_name(2)
LEAST = 65536  # the least limit of an answer


def ask(harness: EngineHarness, node: str = N1, after: int = 0, **options: Any) -> Any:
    return harness.caller.call("get_notifications", node=node, after_sequence=after, **options).reply()


def numbers(answer: Any) -> list[int]:
    return [notification["payload"]["sequence"] for notification in answer["notifications"]]


def claim(harness: EngineHarness, number: int, **fields: Any) -> Any:
    return harness.caller.call("begin_resource_claim", instance=instance_dict(number, **fields)).reply()


@pytest.fixture(params=[JSON, MSGPACK])
def content_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.behaviour("fetching")
def test_the_answer_has_what_is_published(harness: EngineHarness, content_type: str) -> None:
    for number in (1, 2):
        claim(harness, number, display_name='"\\ é 🦊')
    answer = ask(harness, after=1, content_type=content_type)
    harness.finish()
    published = [decode_message(body) for body in drained(harness.broker.notifications)]
    assert answer == {
        "ledger_id": harness.ledger().ledger_id,
        "first": 1,
        "last": 3,
        "notifications": [
            {name: message[name] for name in ("message_id", "event_type", "priority", "timestamp", "payload")}
            for message in published
        ],
    }
    assert numbers(answer) == [2, 3]


@pytest.mark.behaviour("fetching")
def test_the_limit_and_the_number_say_which(harness: EngineHarness) -> None:
    for number in range(1, 5):
        claim(harness, number)
    assert numbers(ask(harness)) == [1, 2, 3, 4, 5]
    assert numbers(ask(harness, limit=2)) == [1, 2]
    assert numbers(ask(harness, after=3, limit=1)) == [4]
    for beyond in (5, 6, 2**53):
        answer = ask(harness, after=beyond)
        assert (answer["first"], answer["last"], answer["notifications"]) == (1, 5, [])


@pytest.mark.behaviour("fetching")
def test_what_was_dropped_is_told_by_the_first_number(harness: EngineHarness) -> None:
    claim(harness, 1)
    claim(harness, 2)
    store = harness.store.inner
    (stream,) = store.streams(HOST)

    def confirmed() -> bool:
        return list(store.streams(HOST)[0].cursors.values()) == [3]

    wait_until(confirmed, "the cursor")
    store.prune(harness.ledger().id, answered_before=0, occurred_before=NOW + SECOND, limit=2)
    answer = ask(harness)
    assert (answer["first"], answer["last"], numbers(answer)) == (3, 3, [3])
    store.prune(harness.ledger().id, answered_before=0, occurred_before=NOW + SECOND, limit=2)
    answer = ask(harness)
    assert (answer["first"], answer["last"], numbers(answer)) == (4, 3, [])
    assert store.outbox(stream.id, after=0, limit=ALL) == []


def test_it_sees_the_commands_before_it_and_delays_none_behind_it(harness: EngineHarness) -> None:
    with harness.busy():
        harness.caller.cast("begin_resource_claim", instance=instance_dict(1))
        between = harness.caller.call("get_notifications", node=N1)
        harness.caller.cast("begin_resource_claim", instance=instance_dict(2))
        harness.caller.cast("begin_resource_claim", instance=instance_dict(3))
        after = harness.caller.call("get_notifications", node=N1)
        harness.store.commits.clear()
    assert numbers(between.reply()) == [1, 2]
    assert numbers(after.reply()) == [1, 2, 3, 4]
    # What comes together is still committed together.
    assert [commit.events for commit in harness.store.commits if commit.events] == [
        ["tracker.claim.begun"],
        ["tracker.claim.begun"] * 2,
    ]


def test_a_cast_is_settled(harness: EngineHarness) -> None:
    harness.caller.cast("get_notifications", node=N1)
    harness.finish()
    wait_until(lambda: harness.unsettled() == 0, "it is settled")
    assert harness.parked() == []


@pytest.mark.behaviour("fetching")
def test_a_name_that_no_node_has_any_more_is_still_read(make_harness: MakeHarness) -> None:
    harness = make_harness(nodes=3)
    administration = Administration(harness.store.inner, notify=True)
    administration.decide(HOST, RetireNode(node=N2, reason="sold"))
    administration.move_node(N1, host=HOST, to=HOST, name="rack-1")
    harness.start()
    retired = ask(harness, N2)
    assert (retired["last"], retired["notifications"][-1]["payload"]["state"]) == (2, "retired")
    left = ask(harness, N1)
    assert (left["last"], left["notifications"][-1]["payload"]["next_node"]) == (2, "rack-1")
    assert numbers(ask(harness, "rack-1")) == [1]
    assert harness.caller.call("get_node", node=N1).reply() == Refused("NodeNotFound", {"host": HOST, "node": N1})


@pytest.mark.parametrize("name", ["node-9", "", "rack-1"])
def test_a_name_that_no_node_ever_had_is_refused(harness: EngineHarness, name: str) -> None:
    refused = ask(harness, name or "x" * 255)
    assert refused == Refused("NodeNotFound", {"host": HOST, "node": name or "x" * 255})


def test_with_notifications_off_there_is_nothing_to_read(make_harness: MakeHarness) -> None:
    harness = make_harness(notify=False).start()
    claim(harness, 1)
    answer = ask(harness, after=1)
    assert (answer["last"], answer["notifications"]) == (2, [])


class TestBounds:
    @pytest.fixture
    def filled(self, make_harness: MakeHarness) -> EngineHarness:
        """Six claims with notifications of 25 KB, after one of 1 KB."""
        harness = make_harness(max_answer_bytes=LEAST).start()
        for number in range(1, 7):
            claim(harness, number, metadata={"text": "x" * 25_000})
        return harness

    @pytest.mark.behaviour("fetching")
    def test_an_answer_has_as_many_as_fit_and_the_next_ones_follow(
        self, filled: EngineHarness, content_type: str
    ) -> None:
        pages = [numbers(ask(filled, after=after, limit=500, content_type=content_type)) for after in (0, 3, 5, 7)]
        assert pages == [[1, 2, 3], [4, 5], [6, 7], []]

    def test_quotes_count_twice_in_json_as_they_go_out(self, make_harness: MakeHarness) -> None:
        harness = make_harness(max_answer_bytes=LEAST).start()
        for number in (1, 2):
            claim(harness, number, metadata={"text": '"' * 15_000})  # 30 KB, and 60 KB in an answer
        assert numbers(ask(harness, after=1)) == [2]
        assert numbers(ask(harness, after=1, content_type=MSGPACK)) == [2, 3]

    def test_one_that_is_too_large_alone_is_an_error_that_says_so(
        self, make_harness: MakeHarness, content_type: str
    ) -> None:
        harness = make_harness(max_answer_bytes=LEAST).start()
        claim(harness, 1, metadata={"text": "x" * 60_000}, image_meta={"text": "x" * 60_000})
        claim(harness, 2)
        assert numbers(ask(harness, content_type=content_type)) == [1]
        refused = ask(harness, after=1, content_type=content_type)
        assert refused.error == "AnswerTooLarge"
        assert refused.kwargs["method"] == "get_notifications"
        assert "the first notification" in refused.kwargs["how"]
        assert "outbox replay" in refused.kwargs["how"]
        assert numbers(ask(harness, after=2, content_type=content_type)) == [3]

    def test_the_store_is_asked_for_no_more_than_an_answer_has_room_for(self, harness: EngineHarness) -> None:
        asked: list[dict[str, Any]] = []
        inner = harness.store.inner
        read = inner.stream_page

        def noted(*names: str, **options: Any) -> Any:
            asked.append(options)
            return read(*names, **options)

        inner.stream_page = noted  # type: ignore[method-assign]
        ask(harness, after=3, limit=9)
        assert asked == [{"after": 3, "limit": 9, "max_bytes": MAX_ANSWER_BYTES}]


class TestStore:
    def test_it_waits_for_a_store_that_is_away(self, harness: EngineHarness) -> None:
        claim(harness, 1)
        harness.store.script["stream_page"] = [StoreUnavailable(reason="away")] * 3
        assert numbers(ask(harness)) == [1, 2]

    def test_a_call_that_cannot_wait_is_told(self, harness: EngineHarness, deadline_clock: DeadlineClock) -> None:
        def away() -> None:
            deadline_clock.forward(1)
            raise StoreUnavailable(reason="away")

        harness.store.script["stream_page"] = [away] * 99
        refused = ask(harness, deadline=deadline_clock() + 30)
        assert refused.error == "StoreUnavailable"

    def test_what_a_store_says_that_went_back_is_no_answer(self, harness: EngineHarness) -> None:
        assert isinstance(harness.store.inner, MemoryStore)
        backup = Backup(harness.store.inner)
        old = ask(harness)["ledger_id"]
        claim(harness, 1)
        harness.store.script["stream_page"] = [backup.restore]
        answer = ask(harness)
        assert answer["ledger_id"] == harness.store.inner.histories()[-1].ledger_id != old
        told = answer["notifications"][-1]["payload"]
        assert (told["sequence"], told["previous_ledger_id"], told["previous_sequence"]) == (2, old, 1)
        assert uuid(1) not in str(answer)

    def test_nothing_is_answered_from_another_file(self) -> None:
        """The worker ends, as it does when any other request finds that out."""
        harness = EngineHarness().start()
        try:
            replaced = StoreReplaced("tracker.sqlite", deleted=True)
            harness.store.script["stream_page"] = [
                lambda: harness.store.script["refreshed"].append(replaced)  # the check after it
            ]
            call = harness.caller.call("get_notifications", node=N1)
            assert harness.deaths.get(timeout=SECONDS) is replaced
            assert not call.replied()
        finally:
            harness.stop(release=False)


@pytest.fixture
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.harness.stop()


def test_it_takes_no_lock_though_its_host_has_lost_races(worker: Worker) -> None:
    worker.busy(H1)
    unstorable = worker.begin(1, H1)
    call = worker.harness.caller.call("get_notifications", source=H1, node=N1)
    other = worker.harness.caller.call("get_notifications", source=H2, node=N1)
    worker.step()
    assert worker.harness.counters.snapshot()["most_lost_races"] == 2
    assert other.replied()
    worker.store.script["locked"] = [Unstorable("this one"), AssertionError("a read needs no lock")]
    worker.step(2)
    assert isinstance(unstorable.reply(), Refused)
    assert numbers(call.reply()) == [1, 2, 3]
    assert worker.store.calls.count("locked") == 1
