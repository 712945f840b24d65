# SPDX-License-Identifier: Apache-2.0
"""What the broker says to a publisher: which exchanges it may not write to, and that there is an alarm.

A message is published in a transaction that is rolled back, so that no queue ever gets it. A broker with an alarm says so as
soon as something was published, and reads nothing more of that connection: therefore it is one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import amqp
from amqp.exceptions import AccessRefused

from tracker_worker.bus.amqp import opening
from tracker_worker.bus.amqp.alarm import Alarm
from tracker_worker.cli.check.findings import Problem, error
from tracker_worker.cli.check.login import Attempt, log_in
from tracker_worker.cli.check.subjects import Broker, refusal
from tracker_worker.threads import monotonic, new_uuid

# A broker that has no alarm answers at once.
_ALARM_SECONDS = 1.0
_ALARM_CURES = {
    "memory": "rabbitmqctl set_vm_memory_high_watermark 0.6",
    "disk": "rabbitmqctl set_disk_free_limit 50MB",
}


def alarm_cure(reason: str = "") -> str:
    """What ends an alarm of this reason; without one, what tells the reason."""
    return next((cure for word, cure in _ALARM_CURES.items() if word in reason), "rabbitmq-diagnostics alarms")


def refused_to_publish(broker: Broker, places: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of ``places``, exchange and routing key, that the user may not write to. Empty while the broker has an alarm."""
    with _publisher(broker) as (connection, alarm):
        refused = []
        for exchange, key in places:
            try:
                answer = refusal(connection, _publish(exchange, key))
            except OSError:
                if alarm.state is None:
                    raise
                return []
            if isinstance(answer, AccessRefused):
                refused.append((exchange, key))
        return refused


def check_alarm(broker: Broker) -> Iterator[Problem]:
    """The broker takes messages."""
    with _publisher(broker) as (connection, alarm):
        try:
            refusal(connection, _publish("", f"tracker-check-{new_uuid().hex}"))
        except OSError:
            if alarm.state is None:
                raise
        if alarm.state is not None:
            yield error(
                f"the broker {broker.address} takes no messages (alarm: {alarm.state.reason}): replies and notifications wait",
                alarm_cure(alarm.state.reason),
            )


@contextmanager
def _publisher(broker: Broker) -> Iterator[tuple[Any, Alarm]]:
    """A connection of its own to the same address."""
    alarm, attempt = Alarm(monotonic), Attempt(broker.url)
    log_in(broker.settings, attempt, alarm)
    if attempt.stream is None:
        assert attempt.problem is not None
        raise attempt.problem
    attempt.stream.sock.settimeout(_ALARM_SECONDS)
    try:
        yield attempt.connection, alarm
    finally:
        opening.close(attempt.connection, attempt.stream, blocked=alarm.state is not None)


def _publish(exchange: str, key: str) -> Callable[[Any], object]:
    def publish(channel: Any) -> None:
        channel.tx_select()
        channel.basic_publish(amqp.Message(b""), exchange=exchange, routing_key=key)
        channel.tx_rollback()

    return publish
