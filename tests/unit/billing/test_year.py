# SPDX-License-Identifier: Apache-2.0
"""A long time of a cloud, in which the length of its periods is changed: every way of billing it gives the same bill.

BILLING_ACTS (600) says how much happens: 100000 acts take some 440 days. BILLING_SEED (0) draws what.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from datetime import UTC, datetime
from random import Random

import pytest

from tests.support.billing.api import StandInAPI
from tests.support.billing.cloud import Cloud
from tests.unit.billing.test_random import BEGIN, CONTEXT, check_same, closed_until, mangled, names, totals, true, whole
from tracker_worker.billing import Books
from tracker_worker.billing.times import seconds
from tracker_worker.domain.values import SECOND

ACTS = int(os.environ.get("BILLING_ACTS", "600"))
SEED = int(os.environ.get("BILLING_SEED", "0"))
_HOUR = 3600 * SECOND
_PARTS = ("day", "month", "hour")
"""The lengths of periods, one after the other. Acts are divided alike among them."""

pytestmark = pytest.mark.timeout(120 + ACTS // 10)


@pytest.mark.parametrize("late", [False, True], ids=["hand-overs are told at once", "hand-overs are told late"])
def test_the_bill_is_exact_whatever_it_is_made_from(late: bool) -> None:
    cloud = Cloud(Random(SEED), late=late)
    random, outages = cloud.random, max(12, ACTS // 1000)
    for period in _PARTS:
        cloud.change_period(period)
        for _ in range(outages // len(_PARTS)):
            cloud.run(ACTS // outages)
            cloud.be_down(random.randint(0, 30 * _HOUR))
    cloud.change_period("hour")
    cloud.settle()
    end = closed_until(cloud)
    books = whole(cloud)
    assert books.closed(BEGIN, end) == []
    bill = totals(books.usage(BEGIN, end))

    assert bill == true(cloud, BEGIN, end)
    assert totals(books.usage(BEGIN, end, "exists")) == bill
    assert books.differences(BEGIN, end) == []
    other = Books({})
    other.hear_all(mangled(cloud.tape.heard, random))
    other.catch_up(StandInAPI(cloud), CONTEXT, names(cloud, other))
    check_same(other, books, BEGIN, [end])
    if not late:
        assert _by_project(totals(books.usage(BEGIN, _text(cloud)))) == _summed(cloud)
    print(f"{len(cloud.tape.heard)} notifications of {(seconds(end) - seconds(BEGIN)) / 86400:.1f} days")


def _text(cloud: Cloud) -> str:
    return datetime.fromtimestamp(cloud.summed_until, UTC).isoformat()


def _summed(cloud: Cloud) -> dict[str, Counter[str]]:
    return {project: +sums for project, sums in cloud.totals.items() if +sums}


def _by_project(bill: dict[tuple[str, str], dict[str, int]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for (project, _), amounts in bill.items():
        found[project].update({name: amount for name, amount in amounts.items() if name != "seconds"})
    return dict(found)
