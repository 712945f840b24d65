# SPDX-License-Identifier: Apache-2.0
"""Queues that nobody reads, and messages that nobody could read."""

from __future__ import annotations

from collections.abc import Iterator

from tracker_worker.bus.amqp import topology
from tracker_worker.cli.check.findings import Problem, enumerated, error, warning
from tracker_worker.cli.check.subjects import Broker, Installation
from tracker_worker.conf import notifications
from tracker_worker.text import counted


def check_host_consumers(broker: Broker) -> Iterator[Problem]:
    """Each host of the configuration is served."""
    deaf, missing = [], []
    for host in broker.installation.conf.tracker.hosts:
        queue = topology.host_queue(broker.settings, host).name
        counts = broker.count(queue)
        if counts is None:
            missing.append(queue)
        elif counts.consumers == 0:
            deaf.append(f"{queue} ({counted(counts.messages, 'message')} in it)")
    serve = broker.installation.serve
    if deaf:
        queues = counted(len(deaf), "queue")
        yield error(f"{queues} of [tracker] hosts without a consumer, nobody serves them: {enumerated(deaf)}", serve)
    if missing:
        queues = counted(len(missing), "queue")
        yield error(
            f"{queues} of [tracker] hosts not there, requests are lost or fail: {enumerated(missing)}",
            serve,
        )


def check_notification_consumers(broker: Broker) -> Iterator[Problem]:
    """Each queue of notifications is read by somebody: otherwise it grows until the broker has no room."""
    for topic, dialect in broker.settings.notification_topics.items():
        deaf = []
        for priority in dict.fromkeys(dialect.queues.values()):
            queue = topology.notification_queue(broker.settings, topic, priority).name
            counts = broker.count(queue)
            if counts is not None and counts.consumers == 0:
                deaf.append(f"{queue} ({counted(counts.messages, 'message')} in it)")
        if deaf:
            option, others = _other_topics(broker, topic)
            yield warning(
                f"no consumer listens to topic {topic} of [notifications] {option}: {enumerated(deaf)}. Start the consumer; "
                "if there is to be none, take the topic out",
                f"[notifications] {option} = {others}".rstrip(),
            )


def _other_topics(broker: Broker, topic: str) -> tuple[str, str]:
    """The option that names a topic, and its value without the topic."""
    group = broker.installation.conf.notifications
    option = next(each for each in notifications.TOPICS if topic in group[each])
    return option, ", ".join(name for name in group[option] if name != topic)


def check_dead_letters(broker: Broker) -> Iterator[Problem]:
    """No cast was refused for good and is still to be looked at."""
    queue = broker.settings.dead_letter_queue
    counts = broker.count(queue)
    if counts is not None and counts.messages:
        how_many = counted(counts.messages, "dead letter")
        yield letters(broker.installation, how_many, f"the queue {queue} of [bus] dead_letter_queue")


def letters(installation: Installation, how_many: str, place: str) -> Problem:
    """The problem that casts were not done, and are kept in a place."""
    look, purge = (
        installation.command("dead-letter", "list"),
        installation.command("dead-letter", "purge", "--all", "--yes"),
    )
    return warning(
        f"{how_many} in {place}, casts that were not done: `{look}` names the reasons, `{purge}` removes them",
        installation.command("dead-letter", "replay", "--all"),
    )
