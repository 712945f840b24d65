# SPDX-License-Identifier: Apache-2.0
"""The log of decisions: one record for each, on one line."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

import pytest
from oslo_log.formatters import JSONFormatter

from tests.support.builders import NOW, begin, host_ledger, play, uuid
from tracker_worker.domain.commands import Command
from tracker_worker.domain.decision import Decision
from tracker_worker.notifications.asked import Asked
from tracker_worker.service.loop.decision_log import LOG, log_decisions


@dataclass(frozen=True)
class Request:
    asked: Asked


def asks(request_id: str) -> Request:
    return Request(Asked(project_id="p-1", user_id="alice", request_id=request_id, duration_ms=0.8))


def decided(*command: Command) -> list[tuple[Command, Decision, Request | None]]:
    host = host_ledger()
    return [(one, play(host, one, NOW), asks(f"req-{number}")) for number, one in enumerate(command, 1)]


def test_each_decision_of_a_batch_is_a_record_with_amounts_by_class(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOG.name):
        log_decisions(decided(begin(1), begin(2)))

    first, second = caplog.messages
    assert first.startswith(f"ClaimBegun instance={uuid(1)} node=")
    assert "figures={'VCPU': " in first
    assert first.endswith("limit_source=unlimited project=p-1 user=alice request=req-1 ms=0.8")
    assert second.endswith("request=req-2 ms=0.8")


def test_what_a_caller_sends_makes_no_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    ((command, decision, _),) = decided(begin(1))
    with caplog.at_level(logging.INFO, LOG.name):
        log_decisions([(command, decision, asks("req\nClaimBegun\x1b[31m\u2028\ud800"))])

    (text,) = caplog.messages
    assert text.endswith(r"request=req\nClaimBegun\x1b[31m\u2028\ud800 ms=0.8")
    assert text.isprintable()


def test_a_log_in_json_has_figures_and_who_asked_as_fields(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, LOG.name):
        log_decisions(decided(begin(1)), fields=True)

    (record,) = caplog.records
    extra = json.loads(JSONFormatter().format(record))["extra"]
    assert extra["figures"]["VCPU"] == 2
    assert extra["who"] == {"project_id": "p-1", "user_id": "alice", "request_id": "req-1", "roles": []}
    assert extra["duration_ms"] == 0.8


def test_a_decision_that_changed_nothing_is_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    host = host_ledger()
    play(host, begin(1))
    repeated = [(begin(1), play(host, begin(1)), None)]
    with caplog.at_level(logging.INFO, LOG.name):
        log_decisions(repeated)
    assert caplog.messages == []
    with caplog.at_level(logging.DEBUG, LOG.name):
        log_decisions(repeated)
    assert len(caplog.messages) == 1
