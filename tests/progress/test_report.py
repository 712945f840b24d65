# SPDX-License-Identifier: Apache-2.0
"""The report finds each thing that a run must not show."""

from __future__ import annotations

import pytest

from tests.progress.report import Answer, conflict_violations, counters, longest_gaps, violations

LOG = "2026-01-15 12:00:00.000 1 INFO tracker_worker.service.worker [-] counters: "
GOOD = "{'conflicts': 17, 'locked_decisions': 2, 'most_lost_races': 2, 'audits_dropped': 0}\n"


def answer(host: str | None, began_at: float, ended_at: float | None, failure: str | None = None) -> Answer:
    return Answer(host, "get_node", began_at, ended_at, failure)


def test_the_longest_gap_of_a_host_is_between_two_answers_or_before_the_first() -> None:
    answers = [answer("h1", 0, 1), answer("h1", 0, 4), answer("h1", 4, 5), answer("h2", 0, 2.5), answer(None, 0, 1.5)]
    assert longest_gaps(answers) == {"h1": 3, "h2": 2.5}
    assert list(violations(answers, ["h1", "h2"])) == [
        "host h1 was without an answer for 3.0 s",
        "host h2 was without an answer for 2.5 s",
    ]


def test_a_host_that_was_never_answered_and_one_that_was_never_asked_are_violations() -> None:
    found = list(violations([answer("h1", 0, None)], ["h1", "h2"]))
    assert found == [
        "host h1 was without an answer for inf s",
        "host h2 was without an answer for inf s",
        "1 calls of get_node were not answered",
    ]


def test_errors_are_violations_also_on_the_shared_topic() -> None:
    answers = [answer("h1", 0, 1), answer(None, 0, 1, "StoreUnavailable"), answer(None, 0, None)]
    assert list(violations(answers, ["h1"])) == [
        "1 calls of get_node were not answered",
        "1 calls of get_node failed: StoreUnavailable",
    ]


def test_slow_calls_on_the_shared_topic_are_violations() -> None:
    answers = [answer("h1", 0, 1), answer(None, 0, 9), answer(None, 1, 4), answer(None, 1, 2)]
    assert list(violations(answers, ["h1"])) == ["2 calls of get_node on the shared topic took up to 9.0 s"]


def test_the_counters_are_those_of_the_last_line() -> None:
    log = f"{LOG}{{'conflicts': 1}}\nsomething else\n{LOG}{GOOD}"
    assert counters(log)["conflicts"] == 17
    assert list(conflict_violations("a", log)) == []


@pytest.mark.parametrize(
    ("log", "violation"),
    [
        ("no such line\n", "a: the worker's log has no line with its counters"),
        (LOG + GOOD.replace("_races': 2", "_races': 3"), "a: a conflict was resolved in the attempt number 4 only"),
        (LOG + "{'conflicts': 0, 'locked_decisions': 0}", "a: there is no counter most_lost_races"),
    ],
)
def test_counters_that_are_missing_or_too_high_are_violations(log: str, violation: str) -> None:
    assert list(conflict_violations("a", log)) == [violation]
