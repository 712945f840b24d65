# SPDX-License-Identifier: Apache-2.0
"""The rights of a role cover what it uses, and nothing else. The patterns are compared as RabbitMQ compares them."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from tests.support.channels import SETTINGS
from tracker_worker.bus.amqp import topology
from tracker_worker.bus.amqp.rights import BILLING, NOTHING, OPERATOR, ROLES, SCHEDULER, WORKER, Rights, rights_of
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.errors import ConfigurationError
from tracker_worker.notifications.dialects.table import CLOUDEVENTS, COMPUTE, PLAIN

# Names in which everything has a meaning in a pattern.
ODD = replace(
    SETTINGS,
    exchange="nova+cells",
    topic="tracker.v1",
    dead_letter_queue="dead|letters",
    notification_topics={"notes.a": PLAIN, "notes(b)": COMPUTE, "events$": CLOUDEVENTS},
)
HOST = "rack{1}.example.org"
OTHER = "rack{1}xexample.org"


def rights(role: str, settings: BrokerSettings = ODD, hosts: tuple[str, ...] = (HOST,)) -> Rights:
    return rights_of(role, settings, hosts, ["reply_", "answer^"])


def allows(pattern: str, *names: str) -> bool:
    """Whether the pattern, which RabbitMQ searches in a name, matches all the names."""
    return all(re.search(pattern, name) for name in names)


def refuses(pattern: str, *names: str) -> bool:
    return not any(re.search(pattern, name) for name in names)


def test_a_worker_may_use_everything_that_it_declares() -> None:
    given = rights(WORKER)
    served = topology.served(ODD, [HOST], "0" * 32)
    published = topology.published(ODD)
    own = [topology.ledger_queue(ODD, HOST), topology.ledger_lock_queue(ODD, HOST)]

    assert allows(given.configure, ODD.exchange, "tracker.v1_fanout", *(q.name for q in [*served, *published, *own]))
    assert allows(given.read, *(queue.name for queue in served), *(queue.exchange for queue in served))
    bound = [queue for queue in [*served, *published] if queue.exchange]
    assert allows(given.write, "amq.default", ODD.exchange, *(queue.name for queue in bound))
    keys = [queue.routing_key for queue in bound if queue.exchange == ODD.exchange]
    assert allows(given.bind, *keys)
    assert allows(given.publish, *keys)
    assert given.exchange == "nova+cells"


def test_a_worker_may_use_nothing_of_another_host() -> None:
    given = rights(WORKER)
    others = [
        make(ODD, OTHER).name for make in (topology.host_queue, topology.ledger_queue, topology.ledger_lock_queue)
    ]
    for pattern in (given.configure, given.write, given.read, given.publish, given.bind):
        assert refuses(pattern, *others, f"tracker.v1.{HOST}.x", f"tracker_v1.{HOST}", "")
    assert refuses(given.read, "notes.a.info", "dead|letters")


def test_a_scheduler_may_send_requests_and_read_its_answers() -> None:
    given = rights(SCHEDULER, hosts=())
    for pattern in (given.configure, given.write):
        assert allows(pattern, ODD.exchange, "tracker.v1_fanout", "reply_1", "answer^2")
        assert refuses(pattern, "amq.default", "tracker.v1", f"tracker.v1.{HOST}", "notes.a.info", "dead|letters")
    assert allows(given.read, "reply_1", "answer^2")
    assert refuses(given.read, ODD.exchange, f"tracker.v1.{HOST}", "notes.a.info")
    assert allows(given.publish, "tracker.v1", f"tracker.v1.{HOST}", f"tracker.v1.{OTHER}")
    assert refuses(given.publish, "notes.a.info", "tracker_v1", "tracker.v1.", "events$.info")
    assert given.bind == NOTHING
    assert refuses(rights(SCHEDULER).publish, f"tracker.v1.{OTHER}")


def test_billing_may_hear_notifications_and_nothing_else() -> None:
    given = rights(BILLING, hosts=())
    heard = ["notes.a.info", "notes(b).info", "events$.info", "notes.a.sample", "tracker.v1_watch_1"]
    assert allows(given.configure, ODD.exchange, *heard)
    assert allows(given.read, ODD.exchange, *heard)
    assert allows(given.write, *heard)
    assert refuses(given.write, ODD.exchange, "amq.default")
    assert given.publish == NOTHING
    assert allows(given.bind, "notes.a.info", "notes.a.#")
    requests = ["#", "*", f"tracker.v1.{HOST}", "tracker.v1", "*.info", "notesxa.info"]
    for pattern in (given.configure, given.read, given.bind):
        assert refuses(pattern, *requests)


def test_an_operator_may_do_what_the_commands_do_and_consume_no_requests() -> None:
    given = rights(OPERATOR, hosts=())
    assert allows(given.read, "dead|letters", "tracker.v1_watch_1", "reply_1", topology.ledger_queue(ODD, HOST).name)
    assert allows(given.configure, ODD.dead_letter_lock, topology.ledger_lock_queue(ODD, HOST).name)
    assert allows(given.publish, "tracker.v1", f"tracker.v1.{HOST}", "notes.a.info")
    for pattern in (given.configure, given.read, given.bind):
        assert refuses(pattern, "tracker.v1", f"tracker.v1.{HOST}")
    assert refuses(given.configure, "dead|letters")


@pytest.mark.parametrize("role", ROLES)
def test_every_pattern_is_anchored(role: str) -> None:
    given = rights(role)
    for pattern in (given.configure, given.write, given.read, given.publish, given.bind):
        assert pattern.startswith("^")
        assert pattern.endswith("$")


@pytest.mark.parametrize("topic", ["tracker", "tracker_ledger", "tracker.a"])
@pytest.mark.parametrize("role", ROLES)
def test_a_topic_of_notifications_that_names_queues_of_hosts_has_no_rights(role: str, topic: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"\[notifications\] topics: .* topic {topic} "):
        rights(role, replace(SETTINGS, topic="tracker", notification_topics={topic: PLAIN}))
