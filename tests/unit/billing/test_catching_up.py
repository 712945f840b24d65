# SPDX-License-Identifier: Apache-2.0
"""What is missing comes from the workers; where they no longer keep it, a node starts from what is charged now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.billing.messages import LARGE, LATER_LEDGER, LEDGER, PLACE, SMALL, Message, at, charged, closed, node
from tests.support.builders import uuid
from tracker_worker.billing import Books
from tracker_worker.errors import NodeNotFound

HOUR = at(0), at(60)
CONTEXT = {"user_id": "billing"}
STORY = [node(1, 0), charged(2, 10, SMALL), charged(3, 20, LARGE), charged(4, 30, SMALL, number=2), charged(5, 50)]


class Worker:
    """Answers for one node. ``kept``: what its outbox has; ``instances``: (number, since, resources) of what is charged at
    ``sequence``. ``period``: when the open one began. ``calls``: what was asked."""

    def __init__(self, kept: list[Message], *, most: int = 500, ledger: str = LEDGER) -> None:
        self.kept = kept
        self.ledger = ledger
        self.last = kept[-1]["payload"]["sequence"] if kept else 0
        self.first = kept[0]["payload"]["sequence"] if kept else 1
        self.instances: list[tuple[int, float, dict[str, int]]] = []
        self.period = ""
        self.most = most
        self.calls: list[tuple[Any, ...]] = []
        self.before_instances: Callable[[], None] = lambda: None
        self.gone = False

    def get_notifications(
        self, context: Any, host: str, node: str, after_sequence: int = 0, limit: int = 100
    ) -> dict[str, Any]:
        assert (context, host, node) == (CONTEXT, *PLACE)
        assert 1 <= limit <= 500
        self.calls.append(("get_notifications", after_sequence))
        behind = [each for each in self.kept if each["payload"]["sequence"] > after_sequence]
        page = behind[: min(limit, self.most)]
        return {"ledger_id": self.ledger, "first": self.first, "last": self.last, "notifications": page}

    def get_instances(
        self, context: Any, host: str, node: str, after: str | None = None, limit: int = 500
    ) -> dict[str, Any]:
        assert (context, host, node) == (CONTEXT, *PLACE)
        assert 1 <= limit <= 500
        self.calls.append(("get_instances", after))
        self.before_instances()
        if self.gone:
            raise NodeNotFound(host=host, node=node)
        behind = sorted(each for each in self.instances if after is None or uuid(each[0]) > after)
        page = behind[: min(limit, self.most)]
        return {
            "ledger_id": self.ledger,
            "sequence": self.last,
            "audit_period_beginning": self.period,
            "instances": [
                {**charged(1, 0, resources, number=number)["payload"], "since": at(since), "occurred_at": at(55)}
                for number, since, resources in page
            ],
            "next": uuid(page[-1][0]) if len(behind) > len(page) else None,
        }


@pytest.fixture
def books() -> Books:
    return Books({})


def vcpu_seconds(books: Books, *interval: str) -> dict[str, int]:
    usage = books.usage(*(interval or HOUR))
    found = usage["p"]["instances"] if usage else {}
    return {name[-1]: each["resource_seconds"]["VCPU"] for name, each in found.items()}


class TestWhatIsKept:
    @pytest.mark.parametrize("most", [1, 2, 500])
    @pytest.mark.parametrize("heard", [(), (1,), (2, 4), (5,), (1, 2, 3, 4, 5)], ids=str)
    def test_everything_that_is_missing_is_heard(self, books: Books, heard: tuple[int, ...], most: int) -> None:
        books.hear_all(STORY[number - 1] for number in heard)
        worker = Worker(STORY, most=most)
        assert books.catch_up(worker, CONTEXT, [PLACE]) == {}
        assert (books.missing(), books.odd) == ({}, [])
        whole = Books({})
        whole.hear_all(STORY)
        assert books.usage(*HOUR) == whole.usage(*HOUR)
        assert not any(name == "get_instances" for name, _ in worker.calls)

    def test_what_is_known_is_not_asked_for(self, books: Books) -> None:
        books.hear_all(each for each in STORY if each not in STORY[2:3])
        worker = Worker(STORY)
        books.catch_up(worker, CONTEXT)
        assert worker.calls == [("get_notifications", 2)]
        books.catch_up(worker, CONTEXT)
        assert worker.calls[1:] == [("get_notifications", 5)]

    def test_only_what_was_there_when_it_was_asked_is_waited_for(self, books: Books) -> None:
        """A node whose events are as fast as the answers does not keep the consumer for ever."""
        story = [charged(number, number / 60, SMALL) for number in range(1, 1000)]
        worker = Worker(story[:3], most=1)

        def ask(*args: Any, **options: Any) -> dict[str, Any]:
            answer = Worker.get_notifications(worker, *args, **options)
            worker.kept = story[: len(worker.kept) + 1]
            worker.last += 1
            return answer

        worker.get_notifications = ask  # type: ignore[method-assign]
        books.catch_up(worker, CONTEXT, [PLACE])
        assert len(worker.calls) < 6


class TestLateStarts:
    def test_a_node_starts_from_what_is_charged_now(self) -> None:
        state: dict[str, Any] = {}
        books = Books(state)
        worker = Worker(STORY[3:])
        worker.instances = [(2, 30, SMALL)]
        assert books.catch_up(worker, CONTEXT, [PLACE]) == {}
        for again in (books, Books(state)):
            assert vcpu_seconds(again) == {"2": 1800}
            assert (again.missing(), again.odd) == ({}, [])
        assert books.hear(charged(6, 55, LARGE, number=2)) == "new"
        assert vcpu_seconds(books, at(30), at(60)) == {"2": 25 * 60 + 4 * 300}

    def test_events_before_it_change_nothing_after_it(self, books: Books) -> None:
        """The queue had some of them when the consumer started, and lost others."""
        worker = Worker(STORY[4:])
        worker.instances = [(2, 30, SMALL)]
        books.hear_all([STORY[2]])
        assert books.missing() == {PLACE: [(1, 2)]}
        books.catch_up(worker, CONTEXT)
        assert vcpu_seconds(books, at(50), at(60)) == {"2": 600}
        assert books.hear(STORY[1]) == "new"
        assert vcpu_seconds(books, at(50), at(60)) == {"2": 600}
        assert books.missing() == {}

    def test_pages_hold_as_of_their_own_numbers(self, books: Books) -> None:
        story = [*STORY, charged(6, 52, LARGE), charged(7, 53, number=2), charged(8, 54, LARGE, number=3)]
        worker = Worker(STORY[4:], most=1)
        worker.instances = [(2, 30, SMALL), (3, 1, SMALL)]
        asked: list[int] = []

        def meanwhile() -> None:
            asked.append(1)
            if len(asked) == 2:  # between the pages of 2 and 3
                worker.kept, worker.last = story[4:], 8
                worker.instances = [(1, 52, LARGE), (3, 54, LARGE)]

        worker.before_instances = meanwhile
        books.catch_up(worker, CONTEXT, [PLACE])
        assert vcpu_seconds(books, at(50), at(60)) == {"1": 4 * 480, "2": 180, "3": 4 * 360}

    def test_a_node_that_came_from_what_is_not_known_starts_as_of_its_coming(self, books: Books) -> None:
        worker = Worker([node(1, 20, generation=3, previous_host="h2", previous_node="x")])
        worker.instances = [(1, 10, SMALL)]
        assert books.catch_up(worker, CONTEXT, [PLACE]) == {}
        assert books.missing() == {}
        assert vcpu_seconds(books) == {"1": 3000}

    def test_a_name_without_a_node_is_charged_nothing(self, books: Books) -> None:
        worker = Worker(STORY[3:])
        worker.gone = True
        books.hear(STORY[3])
        books.catch_up(worker, CONTEXT)
        assert books.missing() == {}
        assert vcpu_seconds(books, at(55), at(60)) == {}
        assert books.closed(at(55), at(60)) == []  # there is nothing to close

    def test_a_name_that_loses_its_node_meanwhile_is_asked_again(self, books: Books) -> None:
        worker = Worker(STORY[3:])
        worker.instances = [(2, 30, SMALL)]

        def meanwhile() -> None:
            worker.gone = worker.last == 5
            if worker.gone:
                worker.kept, worker.last = [*STORY[3:], node(6, 56, id=1)], 6

        worker.before_instances = meanwhile
        books.catch_up(worker, CONTEXT, [PLACE])
        assert [name for name, _ in worker.calls].count("get_instances") == 2
        assert vcpu_seconds(books, at(55), at(60)) == {"2": 300}

    def test_a_history_that_changes_between_two_pages_is_read_again(self, books: Books) -> None:
        worker = Worker(STORY[3:], most=1)
        worker.instances = [(1, 30, SMALL), (2, 30, SMALL)]
        asked: list[int] = []

        def meanwhile() -> None:
            asked.append(1)
            if len(asked) == 2:
                worker.ledger = LATER_LEDGER
                worker.kept, worker.last = (
                    [node(9, 40, ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=8)],
                    9,
                )
                worker.first = 9

        worker.before_instances = meanwhile
        books.catch_up(worker, CONTEXT, [PLACE])
        assert books.missing() == {}
        assert vcpu_seconds(books, at(55), at(60)) == {"1": 300, "2": 300}


class TestLosses:
    def test_what_is_no_longer_kept_is_said_and_the_node_starts_again(self, books: Books) -> None:
        books.hear_all(STORY[:2])
        worker = Worker(STORY[4:])
        worker.instances = [(2, 30, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 4)]}
        assert books.missing() == {}
        assert books.odd == [
            (
                {"host": "h1", "node": "a", "lost": [[3, 4]]},
                "these numbers are lost: the outbox no longer keeps them",
            )
        ]
        # The size from minute 20 on is not known; the end is, and so is what is charged now.
        assert vcpu_seconds(books) == {"1": 2400, "2": 1800}
        assert books.catch_up(worker, CONTEXT) == {}

    def test_what_is_charged_as_it_was_keeps_the_names_that_its_node_had(self, books: Books) -> None:
        before = ("h2", "x")
        books.hear_all([node(1, 0, place=before), charged(2, 10, SMALL, place=before)])
        books.hear(node(3, 20, place=before, generation=3, next_host="h1", next_node="a"))
        books.hear(node(1, 20, generation=3, previous_host="h2", previous_node="x"))
        worker = Worker([])
        worker.last, worker.first, worker.instances = 2, 3, [(1, 10, SMALL)]
        assert books.catch_up(worker, CONTEXT, [PLACE]) == {PLACE: [(2, 2)]}
        segments = books.usage(*HOUR)["p"]["instances"][uuid(1)]["segments"]
        assert [(each["from"][14:16], each["node"]) for each in segments] == [("10", "x"), ("20", "a")]

    def test_a_period_whose_end_is_lost_is_not_closed(self, books: Books) -> None:
        books.hear_all([node(1, 0), closed(2, 60, 0, 60), closed(4, 180, 120, 180)])
        worker = Worker([])
        worker.last, worker.first = 4, 5
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 3)]}
        assert books.closed(at(0), at(60)) == []
        assert books.closed(at(60), at(120)) == [PLACE]
        assert books.closed(at(120), at(180)) == []

    def test_an_end_that_is_lost_is_at_the_latest_when_the_events_are_known_again(self, books: Books) -> None:
        books.hear_all([STORY[0], STORY[1], charged(4, 30, SMALL, number=2)])
        worker = Worker([])
        worker.last, worker.first, worker.instances = 4, 5, [(2, 30, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 3)]}
        assert vcpu_seconds(books) == {"1": 1200, "2": 1800}

    @pytest.mark.parametrize(
        ("period", "minutes"), [(at(50), 40), (at(5), 10), ("", 10)], ids=["later", "earlier", "unknown"]
    )
    def test_an_end_that_is_lost_to_a_node_that_is_empty_is_before_the_open_period(
        self, books: Books, period: str, minutes: int
    ) -> None:
        """Not before the last event that is known."""
        books.hear_all([*STORY[:2], charged(3, 20, LARGE, number=2)])
        worker = Worker([])
        worker.last, worker.first, worker.period = 5, 6, period
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(4, 5)]}
        known = {"1": 60 * minutes}
        assert {name: n for name, n in vcpu_seconds(books).items() if name == "1"} == known
        # What comes behind the hole changes nothing of it.
        books.hear(charged(6, 58, SMALL, number=3))
        assert {name: n for name, n in vcpu_seconds(books).items() if name == "1"} == known

    def test_a_change_that_is_lost_counts_from_when_it_is_so(self, books: Books) -> None:
        books.hear_all(STORY[:2])
        worker = Worker([])
        worker.last, worker.first, worker.instances = 3, 4, [(1, 20, LARGE)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 3)]}
        assert vcpu_seconds(books) == {"1": 600 + 4 * 2400}

    def test_each_loss_is_one_of_its_own(self, books: Books) -> None:
        story = [charged(number, 5 * number, LARGE if number % 2 else SMALL) for number in range(1, 9)]
        books.hear_all(each for each in story if each["payload"]["sequence"] not in (3, 7))
        worker = Worker([])
        worker.last, worker.first, worker.instances = 4, 5, [(1, 20, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 3)]}
        assert books.missing() == {PLACE: [(7, 7)]}
        worker.last, worker.first, worker.instances = 8, 9, [(1, 40, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(7, 7)]}
        assert books.missing() == {}

    def test_a_lost_number_that_comes_after_all_counts(self, books: Books) -> None:
        books.hear_all([*STORY[:2], STORY[4]])
        worker = Worker([])
        worker.last, worker.first, worker.instances = 5, 6, [(2, 30, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(3, 4)]}
        assert books.hear(STORY[2]) == "new"
        assert vcpu_seconds(books) == {"1": 600 + 4 * 1800, "2": 1800}


class TestHistories:
    HISTORY = node(4, 25, ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=3)
    LATER = (HISTORY, charged(5, 40, ledger=LATER_LEDGER))

    @pytest.mark.parametrize("heard", [5, 3])
    def test_a_history_of_which_nothing_was_heard_is_found(self, books: Books, heard: int) -> None:
        books.hear_all(STORY[:heard])
        worker = Worker([*STORY[:3], *self.LATER], ledger=LATER_LEDGER)
        assert books.catch_up(worker, CONTEXT) == {}
        assert books.missing() == {}
        assert vcpu_seconds(books) == {"1": 600 + 4 * 1200}

    def test_one_whose_beginning_is_lost_starts_from_what_is_charged_now(self, books: Books) -> None:
        books.hear_all(STORY)
        worker = Worker([self.LATER[1]], ledger=LATER_LEDGER)
        worker.instances = [(2, 30, SMALL), (3, 0, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {}
        assert books.missing() == {}
        assert [reason for _, reason in books.odd] == [
            f"nothing announces the ledger {LATER_LEDGER} of the host h1: it is another database"
        ]
        # Up to its first event the earlier one has told what was charged.
        assert vcpu_seconds(books) == {"1": 600 + 4 * 1200, "2": 1800, "3": 1200}

    def test_a_start_in_a_history_may_know_what_was_before_it(self, books: Books) -> None:
        books.hear_all([STORY[0], self.HISTORY])
        worker = Worker([], ledger=LATER_LEDGER)
        worker.last, worker.first, worker.instances = 5, 6, [(2, 10, SMALL)]
        assert books.catch_up(worker, CONTEXT) == {PLACE: [(2, 3), (5, 5)]}
        assert vcpu_seconds(books) == {"2": 3000}

    def test_a_name_that_the_ledger_does_not_have_never_was(self) -> None:
        class Nobody(Worker):
            def get_notifications(self, *_: Any, **__: Any) -> dict[str, Any]:
                raise NodeNotFound(host="h1", node="a")

        state: dict[str, Any] = {}
        books = Books(state)
        books.hear_all(STORY)
        books.hear(node(9, 30, place=("h1", "b"), ledger=LATER_LEDGER, previous_ledger_id=LEDGER, previous_sequence=8))
        assert PLACE in books.missing()
        assert books.catch_up(Nobody([]), CONTEXT, [PLACE]) == {}
        for again in (books, Books(state)):
            assert PLACE not in again.missing()
            assert again.usage(*HOUR) == {}


class TestErrors:
    def test_what_the_api_raises_is_raised_and_what_was_heard_stays(self, books: Books) -> None:
        worker = Worker(STORY, most=2)

        def ask(*args: Any, **options: Any) -> dict[str, Any]:
            if len(worker.calls) == 1:
                raise TimeoutError
            return Worker.get_notifications(worker, *args, **options)

        worker.get_notifications = ask  # type: ignore[method-assign]
        with pytest.raises(TimeoutError):
            books.catch_up(worker, CONTEXT, [PLACE])
        assert books.hear(STORY[1]) == "copy"
        assert books.hear(STORY[2]) == "new"

    @pytest.mark.parametrize("spoil", [{"since": "then"}, {"charged": None}, {"instance_id": 7}, {"occurred_at": ""}])
    def test_an_answer_that_is_none_is_refused_and_changes_nothing(self, spoil: dict[str, Any]) -> None:
        state: dict[str, Any] = {}
        books = Books(state)
        worker = Worker(STORY[3:])
        worker.instances = [(2, 30, SMALL)]

        def ask(*args: Any, **options: Any) -> dict[str, Any]:
            answer = Worker.get_instances(worker, *args, **options)
            return {**answer, "instances": [{**answer["instances"][0], **spoil}]}

        worker.get_instances = ask  # type: ignore[method-assign]
        before = dict(state)
        with pytest.raises(ValueError):
            books.catch_up(worker, CONTEXT, [PLACE])
        assert state == before

    def test_a_history_without_end_is_refused(self, books: Books) -> None:
        worker = Worker(STORY[3:], most=1)
        worker.instances = [(1, 30, SMALL), (2, 30, SMALL)]

        def meanwhile() -> None:
            worker.ledger = f"ledger-{len(worker.calls)}"

        worker.before_instances = meanwhile
        with pytest.raises(ValueError, match="again and again"):
            books.catch_up(worker, CONTEXT, [PLACE])

    def test_pages_that_do_not_go_on_are_refused(self, books: Books) -> None:
        worker = Worker(STORY[3:])

        def ask(*_: Any, **__: Any) -> dict[str, Any]:
            return {"ledger_id": LEDGER, "sequence": 5, "instances": [], "next": uuid(1)}

        worker.get_instances = ask  # type: ignore[method-assign]
        with pytest.raises(ValueError, match="does not go on"):
            books.catch_up(worker, CONTEXT, [PLACE])
