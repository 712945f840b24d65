# SPDX-License-Identifier: Apache-2.0
"""The figures of a run of chaos."""

from __future__ import annotations

import pytest

from tests.chaos.report import Injected, Run, lines, overlong, silences, unavailability
from tests.invariants.record import RESULT, UNKNOWN, Request


def answer(host: str, at: float, outcome: str = RESULT) -> Request:
    return Request(
        unique_id=f"{host}-{at}",
        host=host,
        method="get_node",
        args={},
        call=True,
        sent_at=at - 0.1,
        ended_at=at,
        outcome=outcome,
    )


@pytest.mark.parametrize(
    ("span", "silence"),
    [((2.5, 4), [1, 6]), ((0.5, 1.5), [1]), ((1.5, 4), [1, 1, 6]), ((9.2, 9.5), [1]), ((20, 30), []), ((0, 0.5), [])],
)
def test_a_silence_lasts_from_the_answer_before_the_span_to_the_answer_after_it(
    span: tuple[float, float], silence: list[float]
) -> None:
    assert [after - before for before, after in silences([1, 2, 3, 9, 10], *span)] == silence


def test_the_unavailability_is_the_longest_silence_of_any_host() -> None:
    answers = [answer("h1", at) for at in (1, 2, 3, 4, 5)] + [answer("h2", at) for at in (1, 5)]
    lost = [answer("h2", 3, UNKNOWN)]

    found = unavailability([*answers, *lost], [Injected("kill", 2.5, 2.5, 3.5), Injected("stop", 4.5, 4.5, 4.6)])

    assert found == {"kill": 4, "stop": 4}


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ((5, 5), ["h1 answered no call for 16.0 s at the fault 'kill', which itself lasted for 0.0 s of them."]),
        ((5, 7), []),
    ],
)
def test_a_silence_of_more_than_15_s_is_a_violation_unless_the_cause_lasts(
    cause: tuple[float, float], told: list[str]
) -> None:
    answers = [answer("h1", at) for at in (1, 4, 20, 36)] + [answer("h2", at) for at in (1, 10, 20)]

    assert list(overlong(answers, [Injected("kill", *cause, 19)])) == told


def test_the_table_has_a_row_per_fault_and_a_line_per_store() -> None:
    requests = [answer("h1", 1), answer("h1", 4), answer("h1", 5, UNKNOWN)]
    runs = [
        Run("sqlite", requests, 7, [Injected("kill", 2, 2, 3), Injected("kill", 2, 2, 3)], []),
        Run("postgresql", requests, 8, [Injected("stop", 2, 2, 3)], ["something was lost"]),
    ]

    table = list(lines(runs))

    assert [line.split() for line in table[2:4]] == [
        ["kill", "2", "3.0", "s", "0", "-"],
        ["stop", "0", "-", "1", "3.0", "s"],
    ]
    assert table[4] == (
        "sqlite: 3 messages sent, 3 of them calls (1 without an answer), 7 notifications received, 2 faults injected, "
        "0 violations"
    )
    assert table[5].endswith("1 faults injected, 1 violations")
