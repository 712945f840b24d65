# SPDX-License-Identifier: Apache-2.0
"""Whatever happens in a cloud, and whatever becomes of its notifications, the books say what was charged.

The histories are made by the worker's own domain. BILLING_RUNS (25) says how many there are of each kind, BILLING_SEED (0)
which is the first one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Any

import pytest

from tests.support.billing.api import StandInAPI
from tests.support.billing.cloud import Cloud
from tests.support.billing.tape import Message, Place
from tests.support.billing.truth import Totals
from tests.support.builders import NOW
from tracker_worker.billing import Books, Usage
from tracker_worker.billing.times import seconds, text
from tracker_worker.domain import closing
from tracker_worker.domain.values import SECOND

RUNS = int(os.environ.get("BILLING_RUNS", "25"))
SEED = int(os.environ.get("BILLING_SEED", "0"))
CONTEXT = {"user_id": "billing"}
BEGIN = text(NOW // SECOND - 3600)
FOREVER = "2027-01-01"

pytestmark = pytest.mark.timeout(120 + RUNS)


@pytest.fixture(autouse=True)
def _several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance is told in several notifications."""
    monkeypatch.setattr(closing, "MOST_SEGMENTS", 2)


def runs(**options: Any) -> Iterator[Cloud]:
    """Clouds. What fails with one of them names its seed."""
    for seed in range(SEED, SEED + RUNS):
        try:
            yield Cloud(Random(seed), **options)
        except GeneratorExit:
            print(f"BILLING_SEED={seed}")
            raise


class Busy(StandInAPI):
    """A cloud in which things happen while it is asked."""

    acts = 0

    def meanwhile(self) -> None:
        if self.acts and self.cloud.random.random() < 0.5:
            self.acts -= 1
            self.cloud.act()


def now(cloud: Cloud) -> str:
    """The first second that has not begun."""
    return text(cloud.now // SECOND + 1)


def totals(usage: Usage) -> Totals:
    found = {
        (project, uuid): {"seconds": instance["seconds"], **instance["resource_seconds"]}
        for project, whole in usage.items()
        for uuid, instance in whole["instances"].items()
    }
    counted = {key: {name: n for name, n in amounts.items() if n} for key, amounts in found.items()}
    return {key: amounts for key, amounts in counted.items() if amounts}


def true(cloud: Cloud, begin: str, end: str) -> Totals:
    return cloud.truth.totals(seconds(begin), seconds(end))


def mangled(messages: Sequence[Message], random: Random) -> list[Message]:
    """Any permutation, half of it twice, one in twenty lost."""
    kept = [message for message in messages if random.random() > 0.05]
    kept += [message for message in kept if random.random() < 0.5]
    random.shuffle(kept)
    return kept


def names(cloud: Cloud, books: Books) -> list[Place]:
    """Every name that the cloud has, or that something is missing of."""
    return sorted({*cloud.tape.kept, *books.missing()})


def whole(cloud: Cloud) -> Books:
    """The books of everything, heard in its order. That a name was lost with a database is known when a worker says so."""
    books = Books({})
    books.hear_all(cloud.tape.heard)
    books.catch_up(StandInAPI(cloud), CONTEXT)
    assert books.missing() == {}
    return books


def closed_until(cloud: Cloud) -> str:
    return text(cloud.closed_until())


def check_same(books: Books, other: Books, begin: str, ends: Iterable[str]) -> None:
    for end in ends:
        if begin < end:
            assert books.usage(begin, end) == other.usage(begin, end)
            assert books.closed(begin, end) == other.closed(begin, end)


@pytest.mark.parametrize("changes_history", [False, True], ids=["one history", "several histories"])
def test_any_order_with_copies_and_losses_gives_the_same_books(changes_history: bool) -> None:
    for cloud in runs(changes_history=changes_history):
        cloud.run(60)
        expected = whole(cloud)
        assert totals(expected.usage(BEGIN, now(cloud))) == true(cloud, BEGIN, now(cloud))
        closed = closed_until(cloud)
        if closed > BEGIN:
            assert expected.closed(BEGIN, closed) == []

        books = Books({})
        books.hear_all(mangled(cloud.tape.heard, cloud.random))
        api = StandInAPI(cloud, most=cloud.random.choice((3, 500)))
        everything = sorted({*cloud.tape.kept, *books.missing(), *_places(cloud.tape.heard)})
        assert books.catch_up(api, CONTEXT, everything) == {}
        assert books.missing() == {}
        check_same(books, expected, BEGIN, [closed, now(cloud), FOREVER])
        assert books.usage(BEGIN, FOREVER, "exists") == expected.usage(BEGIN, FOREVER, "exists")


def _places(messages: Iterable[Message]) -> set[Place]:
    return {(message["payload"]["host"], message["payload"]["node"]) for message in messages}


def test_the_bill_from_exists_is_the_bill_from_events_when_everything_is_told() -> None:
    for cloud in runs():
        cloud.run(60)
        cloud.settle()
        books = whole(cloud)
        closed = closed_until(cloud)
        assert books.closed(BEGIN, closed) == []
        assert books.differences(BEGIN, closed) == []
        assert totals(books.usage(BEGIN, closed, "exists")) == true(cloud, BEGIN, closed)


@pytest.mark.parametrize("changes_history", [False, True], ids=["one history", "several histories"])
def test_a_late_start_under_load_is_right_from_its_time_on(changes_history: bool) -> None:
    """The consumer may have heard some of what came before it. The outbox keeps little or nothing of it."""
    for cloud in runs(changes_history=changes_history):
        random = cloud.random
        cloud.run(60)
        queue = cloud.tape.heard[random.randint(0, len(cloud.tape.heard)) :]
        state: dict[str, Any] = {}
        books = Books(state)
        heard = random.choice((0, random.randint(0, len(queue))))
        books.hear_all(queue[:heard])
        api = Busy(cloud, forgets=random.choice((0, 5, 1000)), most=random.choice((1, 2, 500)))
        api.acts, told = random.randint(0, 10), len(cloud.tape.heard)
        books.catch_up(api, CONTEXT, names(cloud, books))
        api.acts = 0
        books.catch_up(api, CONTEXT, names(cloud, books))
        api.forgets, start = 0, now(cloud)

        cloud.run(30)
        books = Books(state)
        books.hear_all(mangled(queue[heard:] + cloud.tape.heard[told:], random))
        books.catch_up(api, CONTEXT, names(cloud, books))
        assert books.missing() == {}
        assert totals(books.usage(now(cloud), FOREVER)) == true(cloud, now(cloud), FOREVER)
        if not changes_history:
            assert totals(books.usage(start, now(cloud))) == true(cloud, start, now(cloud))


@pytest.mark.parametrize("changes_history", [False, True], ids=["one history", "several histories"])
def test_what_is_forgotten_changes_nothing_of_what_comes_after_it(changes_history: bool) -> None:
    for cloud in runs(changes_history=changes_history):
        random = cloud.random
        state: dict[str, Any] = {}
        books, api, told, begin = Books(state), StandInAPI(cloud), 0, BEGIN
        for _ in range(6):
            cloud.run(10)
            new, told = cloud.tape.heard[told:], len(cloud.tape.heard)
            again = random.sample(cloud.tape.heard, min(3, told))
            books.hear_all([*mangled(new, random), *again])
            knows = changes_history or random.random() < 0.7
            if knows:
                books.catch_up(api, CONTEXT, names(cloud, books))
            # A database does not go back to before what is forgotten.
            before = min(cloud.now, cloud.image_at) // SECOND - random.choice((0, 600, 3600))
            books.forget(text(before))
            begin = max(begin, text(before))
            books = Books(state) if random.random() < 0.3 else books
        books.catch_up(api, CONTEXT, names(cloud, books))
        expected = whole(cloud)
        check_same(books, expected, begin, [closed_until(cloud), now(cloud), FOREVER])
        books.forget(FOREVER)
        charged = sum(len(ledger.allocations) for ledger in cloud.ledgers())
        parts = [name for name in state if not name.startswith('["odd"')]
        assert len(parts) <= 1 + (3 if changes_history else 2) * len(_places(cloud.tape.heard)) + charged
