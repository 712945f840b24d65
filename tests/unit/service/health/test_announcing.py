# SPDX-License-Identifier: Apache-2.0
"""What the health logs: problems that nobody else logs, once each, and their end."""

from __future__ import annotations

import pytest

from tracker_worker.service.health.announcing import Announcer
from tracker_worker.service.health.figures import Figures
from tracker_worker.service.health.problems import Problem, problems

LOGGER = "tracker_worker.service.health.announcing"


def test_a_problem_that_nobody_else_logs_is_one_line_at_its_beginning_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = [100.0]
    announcer = Announcer(lambda: now[0])
    with caplog.at_level("INFO", LOGGER):
        for seconds in (5, 6, 7):
            now[0] += 1
            announcer.note([Problem("deaf", f"for {seconds} s nothing has arrived", logged=False)])
        now[0] += 1
        announcer.note([])
        announcer.note([])
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "not ready (deaf): for 5 s nothing has arrived"),
        ("INFO", "the problem deaf is over after 3.0 s"),
    ]


def test_what_is_logged_elsewhere_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    found = problems(Figures(store_error="no answer", stands=12.0), turn_seconds=10)
    assert {problem.code: problem.logged for problem in found} == {"stalled": False, "store_unavailable": True}
    with caplog.at_level("INFO", LOGGER):
        Announcer(lambda: 0.0).note(found)
    assert ["stalled" in record.getMessage() for record in caplog.records] == [True]
