# SPDX-License-Identifier: Apache-2.0
"""The ranges of known numbers behave as a set."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tracker_worker.billing.numbers import Numbers

NUMBER = st.integers(1, 30)


@given(st.lists(NUMBER), NUMBER, NUMBER, st.none() | NUMBER)
def test_ranges_are_a_set(added: list[int], after: int, last: int, removed: int | None) -> None:
    numbers, expected = Numbers(), set[int]()
    for number in added:
        assert numbers.add(number) == (number not in expected)
        expected.add(number)
    if removed is not None:
        numbers.remove_upto(removed)
        expected = {number for number in expected if number > removed}
    assert list(numbers.upto()) == sorted(expected)
    assert list(numbers.upto(last)) == sorted(number for number in expected if number <= last)
    assert numbers.highest == max(expected, default=0)
    assert numbers.above(after) == sum(number > after for number in expected)
    assert all((number in numbers) == (number in expected) for number in range(32))
    assert numbers.has(after, last) == all(number in expected for number in range(after, last + 1))
    missing = [number for number in range(after + 1, last + 1) if number not in expected]
    gaps = numbers.gaps(after, last)
    assert [number for first, end in gaps for number in range(first, end + 1)] == missing
    assert all(end + 1 < first for (_, end), (first, _) in itertools.pairwise(gaps))


def test_a_number_far_away_costs_nothing() -> None:
    numbers = Numbers()
    numbers.add(1)
    numbers.add(2**62)
    assert numbers.gaps(0, 2**62) == [(2, 2**62 - 1)]
