# SPDX-License-Identifier: Apache-2.0
"""The broker closes the channel of the consumers while the answer on another channel is waited for: py-amqp raises there."""

from __future__ import annotations

from typing import Any

import pytest
from amqp.exceptions import AccessRefused, NotFound, RecoverableConnectionError, error_for_code

from tests.support.channels import SETTINGS
from tracker_worker.bus.amqp import refusals, topology

QUEUE = topology.host_queue(SETTINGS, "h1")
DECLARE, CONSUME = (50, 10), (60, 20)


class Channel:
    """Every request is answered with ``error``."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def queue_declare(self, *arguments: Any, **options: Any) -> Any:
        raise self._error

    basic_consume = queue_declare

    def close(self) -> None:
        """py-amqp has opened it again."""


class Connection:
    def __init__(self, code: int, method: tuple[int, int]) -> None:
        self._error = error_for_code(code, f"access to queue '{QUEUE.name}'", method, Exception)

    def channel(self) -> Channel:
        return Channel(self._error)


@pytest.mark.parametrize("code", [403, 404])
def test_the_end_of_the_consumers_ends_the_connection_whoever_hears_of_it(code: int) -> None:
    with pytest.raises(RecoverableConnectionError) as raised:
        topology.empty(Connection(code, CONSUME), [QUEUE])
    assert refusals.consumer_refused(raised.value) == (code == 403)
    assert QUEUE.name in str(raised.value)


def test_it_may_also_come_while_the_other_channel_is_closed() -> None:
    class Closing:
        def channel(self) -> Any:
            return self

        def queue_declare(self, *arguments: Any, **options: Any) -> Any:
            return type("Answer", (), {"message_count": 0})

        def close(self) -> None:
            raise error_for_code(403, f"access to queue '{QUEUE.name}'", CONSUME, Exception)

    with pytest.raises(RecoverableConnectionError):
        topology.empty(Closing(), [QUEUE])


def test_what_is_wrong_with_the_channel_itself_is_its_own_matter() -> None:
    assert topology.empty(Connection(403, DECLARE), [QUEUE]) == []
    assert not refusals.consumer_refused(AccessRefused("no", DECLARE))


def test_queues_are_looked_at_on_one_channel_until_one_of_them_ends_it() -> None:
    queues = [topology.host_queue(SETTINGS, f"h{number}") for number in range(1, 7)]
    answers = {"h1": 0, "h2": 3, "h3": "no queue 'h3'", "h4": 0, "h5": "the node of queue 'h5' is down", "h6": 0}
    channels = []

    class Broker:
        def channel(self) -> Any:
            channels.append(self)
            return self

        def queue_declare(self, name: str, *, passive: bool) -> Any:
            answer = answers[name.removeprefix("tracker.")]
            if isinstance(answer, str):
                raise error_for_code(404, answer, DECLARE, Exception)
            return type("Answer", (), {"message_count": answer})

        def close(self) -> None:
            pass

    assert [queue.source for queue in topology.empty(Broker(), queues)] == ["h1", "h3", "h4", "h6"]
    assert len(channels) == 3


def test_a_queue_may_be_consumed_if_only_the_priority_is_refused() -> None:
    assert topology.may_consume(Connection(406, CONSUME), QUEUE.name)
    assert topology.may_consume(Connection(404, CONSUME), QUEUE.name)
    assert not topology.may_consume(Connection(403, CONSUME), QUEUE.name)
    assert not refusals.consumer_refused(NotFound("gone", CONSUME))
