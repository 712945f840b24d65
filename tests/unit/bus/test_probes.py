# SPDX-License-Identifier: Apache-2.0
"""Probes: what they are, how many there are, and what follows from their answers. The clock is the test's."""

from __future__ import annotations

import time

import pytest

from tests.support.channels import SETTINGS
from tracker_worker.bus.amqp.internals import decode_content
from tracker_worker.bus.amqp.outgoing import Message
from tracker_worker.bus.amqp.probes import MOST_A_SECOND, Probes
from tracker_worker.wire.request import decode_request


class Case:
    def __init__(self) -> None:
        self.now = time.monotonic()
        self.sent: list[Message] = []
        self.repairs = 0
        self.probes = Probes(
            SETTINGS, submit=self.sent.append, unreachable=self._unreachable, monotonic=lambda: self.now
        )

    def _unreachable(self) -> None:
        self.repairs += 1

    def probe(self, *hosts: str, routed: bool | None = True, after: float = 2.0) -> list[str]:
        """Probe after so many seconds, and answer all probes; None: leave them unanswered. Returns their keys."""
        self.now += after
        self.sent.clear()
        self.probes.probe(hosts)
        for message in self.sent:
            if routed is not None:
                assert message.done is not None
                message.done(routed)
        return [message.routing_key for message in self.sent]


@pytest.fixture
def case() -> Case:
    return Case()


def test_a_probe_is_a_cast_to_the_clients_exchange_that_no_queue_keeps(case: Case) -> None:
    assert case.probe("h1") == ["tracker", "tracker.h1"]
    for message in case.sent:
        assert (message.exchange, message.mandatory, message.retry_before) == ("openstack", True, None)
        content = decode_content(message.properties)
        assert content.properties["expiration"] == "0"
        request = decode_request(message.body, content_type=content.properties["content_type"])
        assert (request.method, dict(request.args), request.reply_to) == ("oslo_rpc_server_ping", {}, None)
    assert len({message.body for message in case.sent}) == 2  # each has a unique id: it is no copy of another


def test_there_are_at_most_fifty_in_a_second_and_every_queue_has_its_turn(case: Case) -> None:
    hosts = [f"h{number}" for number in range(120)]
    sent = [case.probe(*hosts) for _ in range(5)]
    assert [len(keys) for keys in sent] == [MOST_A_SECOND] * 5
    for three in (sent[:3], sent[1:4], sent[2:]):
        assert len({key for keys in three for key in keys}) == 121
    assert case.probe(*hosts, after=0.5) == []
    assert len(case.probe(*hosts, after=0.5)) == MOST_A_SECOND


def test_more_calls_than_one_a_second_probe_no_queue_more_often(case: Case) -> None:
    sent = [key for _ in range(20) for key in case.probe("h1", after=0.1)]
    assert sent.count("tracker.h1") == sent.count("tracker") == 2


def test_while_the_broker_does_not_answer_probes_do_not_collect(case: Case) -> None:
    assert len(case.probe("h1", routed=None)) == 2
    assert [case.probe("h1", routed=None) for _ in range(4)] == [[]] * 4
    assert len(case.probe("h1", routed=None)) == 2


def test_a_returned_probe_is_named_and_causes_a_repair_each_time(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.probe("h1", routed=True)
    assert (case.repairs, caplog.text) == (0, "")
    for _ in range(5):
        case.probe("h1", routed=False)
    assert case.repairs == 10
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "exchange openstack with the key tracker.h1 does not reach the queue tracker.h1" in messages[1]


def test_a_queue_that_stays_out_of_reach_is_named_again_after_a_minute_and_a_new_loss_at_once(
    case: Case, caplog: pytest.LogCaptureFixture
) -> None:
    def named() -> int:
        return caplog.text.count("with the key tracker.h1 ")

    for _ in range(31):
        case.probe("h1", routed=False)
    assert named() == 2
    case.probe("h1", routed=True)
    case.probe("h1", routed=False)
    assert named() == 3


def test_nothing_is_remembered_of_hosts_that_are_not_probed_any_more(case: Case) -> None:
    case.probe(*(f"h{number}" for number in range(40)), routed=None)
    case.probe("h1")
    probes = case.probes
    assert set(probes._probed) | probes._unanswered | set(probes._warned) <= {"tracker", "tracker.h1"}


def test_the_broker_is_silent_since_the_first_probe_that_it_has_not_answered(case: Case) -> None:
    case.probe("h1")
    assert case.probes.silent_since() is None
    case.probe("h1", routed=None)
    since = case.now
    case.probe("h1", routed=None)
    assert case.probes.silent_since() == since
    case.now += 60
    case.probes.probe(["h1", "h2"])
    first, *second = case.sent
    assert first.done is not None
    case.now += 1
    first.done(True)  # it answers: what is missing has been missing since then
    assert case.probes.silent_since() == case.now
    for message in second:
        assert message.done is not None
        message.done(False)
    assert case.probes.silent_since() is None


def test_what_was_published_over_a_lost_connection_keeps_no_probe_from_being_published(case: Case) -> None:
    case.probe("h1", routed=None)
    assert case.probe("h1", routed=None) == []
    case.probes.forget()
    assert case.probes.silent_since() is None
    assert len(case.probe("h1")) == 2
