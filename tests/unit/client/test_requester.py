# SPDX-License-Identifier: Apache-2.0
"""The requests of the pipelined client across a lost connection."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from oslo_config import cfg

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tracker_worker.bus.settings import read_connection
from tracker_worker.client.requester import NoReply, OutgoingRequest, Requester
from tracker_worker.conf.opts import register_client_opts
from tracker_worker.wire.message import MSGPACK, ReplyTo
from tracker_worker.wire.reply import answer, encode_reply


class Channel:
    """Records the bodies that are published."""

    def __init__(self) -> None:
        self.published: list[bytes] = []

    def basic_publish(self, message: Any, **_arguments: Any) -> None:
        self.published.append(message.body)


@pytest.fixture
def requester() -> Iterator[Requester]:
    """Not started: a test calls what its thread would call."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    register_client_opts(conf)
    conf.set_override("transport_url", "rabbit://broker/")
    made = Requester(read_connection(conf))
    made._channel = Channel()
    yield made
    made.stop(0)


def reply(msg_id: str) -> Any:
    """A message of the reply queue."""
    reply_to = ReplyTo("replies", msg_id, MSGPACK)
    body = encode_reply(answer(reply_to, {"state": "begun"}), reply_to)
    return SimpleNamespace(properties={"content_type": MSGPACK}, body=body)


def test_a_call_without_a_reply_is_sent_again_on_the_next_connection(requester: Requester) -> None:
    requester.send(OutgoingRequest(host="h1", body=b"request", timeout_seconds=60, done=lambda _: None, msg_id="m-1"))
    requester.work()
    requester.lost()
    requester._channel = channel = Channel()
    requester.work()
    assert channel.published == [b"request"]


def test_a_call_whose_reply_waited_in_the_queue_is_answered_once_and_not_sent_again(requester: Requester) -> None:
    """The reply may be read together with the broker's answer to the consumer, before the requests are sent again."""
    answers: list[dict[str, Any] | NoReply] = []
    requester.send(OutgoingRequest(host="h1", body=b"request", timeout_seconds=60, done=answers.append, msg_id="m-1"))
    requester.work()
    requester.lost()
    requester._channel = channel = Channel()
    requester._replied(reply("m-1"))
    requester.work()
    requester._replied(reply("m-1"))
    assert channel.published == []
    assert [found["result"] for found in answers if isinstance(found, dict)] == [{"state": "begun"}]
    assert len(answers) == 1


def test_nothing_is_kept_of_answered_calls_until_their_deadlines(requester: Requester) -> None:
    kept = []
    for number in range(1000):
        holder = Holder()
        kept.append(weakref.ref(holder))
        requester.send(
            OutgoingRequest(host="h1", body=b"", timeout_seconds=3600, done=holder.done, msg_id=f"m-{number}")
        )
        requester.work()
        requester._confirms.forget()  # as after the broker's confirm
        requester._replied(reply(f"m-{number}"))
        del holder
    assert [one() for one in kept] == [None] * 1000
    assert len(requester._deadlines._heap) <= 100


def test_a_call_whose_deadline_passes_ends_without_a_reply_while_others_wait() -> None:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    register_client_opts(conf)
    conf.set_override("transport_url", "rabbit://broker/")
    now = [100.0]
    requester = Requester(read_connection(conf), monotonic=lambda: now[0])
    requester._channel = Channel()
    ended: list[tuple[float, Any]] = []
    for seconds in (60, 5, 30):
        requester.send(
            OutgoingRequest(
                host="h1",
                body=b"",
                timeout_seconds=seconds,
                done=lambda how: ended.append((now[0], how)),
                msg_id=f"m-{seconds}",
            )
        )
    requester.work()
    for now[0] in (104.0, 105.0, 129.0, 130.0):
        requester.work()
    assert ended == [(105.0, NoReply.LATE), (130.0, NoReply.LATE)]
    requester.stop(0)
    assert len(ended) == 3


class Holder:
    """Can be seen to be gone."""

    def done(self, _how: Any) -> None:
        return
