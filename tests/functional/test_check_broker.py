# SPDX-License-Identifier: Apache-2.0
"""Wrong set-ups of the broker: each is found by ``check``, and the cure that it names makes it go away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.installation import Installation, account
from tests.servers import RabbitMQServer
from tests.support import raw, stock
from tests.support.deadline import wait_until

# Stock clients leave sockets open when they reconnect.
pytestmark = [pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"), pytest.mark.long]

MakeInstallation = Callable[..., Installation]
USER = "restricted"
# The permissions of doc/admin/install.md (configure, write, read).
CONFIGURE = r"^(openstack|tracker(\..+|_fanout.*|_ledger.+)?|reply_ledger_.+|notifications\..+)$"
WRITE = r"^(amq\.default|openstack|tracker(\..+|_fanout_.+)?|notifications\..+)$"
READ = r"^(openstack|tracker(\..+|_fanout.*|_ledger.+)?|reply_ledger_.+)$"


@pytest.fixture
def make(tmp_path: Path, rabbitmq: RabbitMQServer, broker_vhost: str) -> Iterator[MakeInstallation]:
    """Makes installations on a virtual host of the test."""
    with ExitStack() as stack:

        def made(name: str = "one", **arguments: Any) -> Installation:
            directory = tmp_path / name
            directory.mkdir()
            installation = Installation(directory, rabbitmq, **{"transport_url": broker_vhost, **arguments})
            stack.callback(installation.close)
            return installation

        yield made


@pytest.fixture
def user(rabbitmq: RabbitMQServer) -> Iterator[str]:
    """The name of a user whom the test makes."""
    yield USER
    rabbitmq.ctl("delete_user", USER)


# --- login and rights ------------------------------------------------------------------------------------------------


def test_a_wrong_password_is_an_error_until_the_user_has_it(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str, user: str
) -> None:
    installation = make(transport_url=account(rabbitmq, broker_vhost, user, ".*", ".*", ".*"))
    assert installation.checker.problems("broker") == []
    rabbitmq.ctl("change_password", user, "another")
    cure = installation.checker.one(
        "broker", "error", f"refuses user {user}", "[DEFAULT] transport_url", "not checked: "
    )
    assert cure == f"rabbitmqctl change_password {user}"
    installation.apply(f"{cure} secret")  # it asks for the password
    assert installation.checker.problems("broker") == []


def test_a_virtual_host_that_is_not_there_is_an_error_and_then_one_without_rights(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str, user: str
) -> None:
    installation = make(transport_url=f"{account(rabbitmq, broker_vhost, user)}-new")
    installation.apply(installation.checker.one("broker", "error", f"no virtual host {installation.vhost}"))
    cure = installation.checker.one("broker", "error", f"user {user} has no rights at all", installation.vhost)
    assert f" rabbitmq permissions --role worker --host h1 --user {user} --vhost {installation.vhost} | sh" in cure
    installation.apply(cure)
    assert installation.checker.problems("broker") == []
    rabbitmq.ctl("delete_vhost", installation.vhost)


MISSING = {
    "requests": (
        (CONFIGURE, "^(amq\\.default|tracker.*|notifications\\..+)$", READ),
        "write to the exchange openstack",
    ),
    "replies": ((CONFIGURE, "^(openstack|tracker.*|notifications\\..+)$", READ), "write to the exchange amq.default"),
    "binding": ((CONFIGURE, WRITE, "^(tracker.*|reply_ledger_.+)$"), "bind the queue tracker.h1"),
    "notifications": (
        (CONFIGURE, "^(amq\\.default|openstack|tracker.*)$", READ),
        "bind the queue notifications.info (write) to the exchange openstack (read)",
    ),
    "host queue": ((CONFIGURE, WRITE, "^(openstack|tracker_.*|reply_ledger_.+)$"), "read from the queue tracker.h1"),
    "marker": (
        (CONFIGURE, WRITE, "^(openstack|tracker(\\..+|_fanout.*)?|reply_ledger_.+)$"),
        "read from the queue tracker_ledger.h1",
    ),
    "marker's lock": (
        ("^(openstack|tracker(\\..+|_fanout.*)?|reply_ledger_.+|notifications\\..+)$", WRITE, READ),
        "configure the queue tracker_ledger_lock.h1",
    ),
    "new queues": (("^(openstack|tracker_.+|reply_ledger_.+)$", WRITE, READ), "configure the queue tracker.h1"),
    "exchange": (("^(tracker.*|reply_ledger_.+|notifications\\..+)$", WRITE, READ), "configure the exchange openstack"),
    "ping": ((CONFIGURE, WRITE, "^(openstack|tracker.*)$"), "read from queues reply_ledger_<random>"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_a_right_that_is_missing_is_an_error_until_it_is_given(
    missing: str, make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str, user: str
) -> None:
    rights, words = MISSING[missing]
    installation = make(transport_url=account(rabbitmq, broker_vhost, user, *rights))
    if missing not in ("new queues", "exchange"):
        with raw.connect(broker_vhost) as connection:
            connection.channel.exchange_declare("openstack", "topic", durable=False, auto_delete=False)
    queues = rabbitmq.ctl("list_queues", "-p", installation.vhost)
    installation.cured("broker_rights", "error", f"user {user}", f"virtual host {installation.vhost}", words)
    assert rabbitmq.ctl("list_queues", "-p", installation.vhost) == queues  # none was made


def test_a_topic_that_is_missing_in_the_topic_permissions_is_an_error(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str, user: str
) -> None:
    installation = make(transport_url=account(rabbitmq, broker_vhost, user, CONFIGURE, WRITE, READ))
    topics = r"^(tracker|tracker\.h1)$"
    rabbitmq.ctl("set_topic_permissions", "-p", installation.vhost, user, "openstack", topics, topics)
    with raw.connect(broker_vhost) as connection:
        connection.channel.exchange_declare("openstack", "topic", durable=False, auto_delete=False)
    words = "write to the exchange openstack with the key notifications.info"
    installation.cured("broker_rights", "error", words, "bind the queue notifications.info")


def test_the_permissions_of_the_documents_are_enough_before_and_beside_a_worker(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str, user: str
) -> None:
    installation = make(transport_url=account(rabbitmq, broker_vhost, user, CONFIGURE, WRITE, READ))
    topics = r"^(notifications\..+|tracker|tracker\.h1)$"
    rabbitmq.ctl("set_topic_permissions", "-p", installation.vhost, user, "openstack", topics, topics)
    assert installation.checker.problems("broker_rights") == []
    installation.begin()
    assert installation.checker.problems("broker_rights") == []


# --- what exists otherwise -------------------------------------------------------------------------------------------


def declare(url: str, name: str, **options: Any) -> None:
    with raw.connect(url) as connection:
        connection.channel.queue_declare(name, **{"durable": True, "auto_delete": False, **options})


def test_a_durable_exchange_and_clients_with_default_options_are_an_error(
    make: MakeInstallation, broker_vhost: str
) -> None:
    with raw.connect(broker_vhost) as connection:
        connection.channel.exchange_declare("openstack", "topic", durable=True, auto_delete=False)
    installation = make()
    installation.cured("declarations", "error", "the exchange openstack is durable", "amqp_durable_queues is false")


def test_an_exchange_that_is_not_durable_serves_clients_with_durable_options(
    make: MakeInstallation, broker_vhost: str
) -> None:
    with raw.connect(broker_vhost) as connection:
        connection.channel.exchange_declare("openstack", "topic", durable=False, auto_delete=False)
    installation = make(options={"oslo_messaging_rabbit": {"amqp_durable_queues": True}})
    assert installation.checker.problems("declarations") == []


def test_an_exchange_of_another_type_is_an_error(make: MakeInstallation, broker_vhost: str) -> None:
    with raw.connect(broker_vhost) as connection:
        connection.channel.exchange_declare("openstack", "direct", durable=False, auto_delete=False)
        installation = make()
        cure = installation.checker.one(
            "declarations", "error", "the exchange openstack exists with another type (direct)"
        )
        assert cure == f"rabbitmqadmin --vhost={installation.vhost} delete exchange name=openstack"
        connection.channel.exchange_delete("openstack")
    assert installation.checker.problems("declarations") == []


def test_a_queue_that_a_stock_server_has_left_is_an_error_until_it_is_deleted(
    make: MakeInstallation, broker_vhost: str
) -> None:
    declare(broker_vhost, "tracker.h1", durable=False)
    make().cured("declarations", "error", "the queue tracker.h1", "durable (false)", "host h1 is not served")


def test_a_host_queue_of_another_type_is_an_error_until_the_option_says_so(
    make: MakeInstallation, broker_vhost: str
) -> None:
    declare(broker_vhost, "tracker.h1", arguments={"x-single-active-consumer": True})
    installation = make()
    cure = installation.checker.one("declarations", "error", "host h1 is not served", "[bus] queue_type (now quorum)")
    assert cure == "[bus] queue_type = classic"
    installation.apply(cure)
    assert installation.checker.problems("declarations") == []


def test_a_dead_letter_queue_of_another_type_is_a_warning(make: MakeInstallation, broker_vhost: str) -> None:
    declare(broker_vhost, "tracker.dead", arguments={"x-max-length": 5})
    make().cured("declarations", "warning", "the dead-letter queue tracker.dead")


@pytest.mark.parametrize(
    ("made", "options", "words"),
    [
        ({}, {}, "durable (true)"),
        ({"durable": False}, {"amqp_durable_queues": True}, "durable (false)"),
        ({}, {"rabbit_quorum_queue": True}, "x-queue-type (none)"),
        ({"durable": False, "arguments": {"x-max-length": 5}}, {}, "x-max-length (5)"),
    ],
)
def test_a_notification_queue_with_other_options_than_the_consumers_is_a_warning(
    made: dict[str, Any], options: dict[str, bool], words: str, make: MakeInstallation, broker_vhost: str
) -> None:
    declare(broker_vhost, "notifications.info", **made)
    installation = make(options={"oslo_messaging_rabbit": options})
    installation.apply(installation.checker.one("declarations", "warning", "notifications.info", words))
    if "rabbit_quorum_queue" in options:  # which made its queues durable, too
        installation.apply(installation.checker.one("declarations", "warning", "durable (true)"))
    assert installation.checker.problems("declarations") == []


# --- consumers and messages ------------------------------------------------------------------------------------------


def test_a_host_whose_worker_is_gone_is_an_error_until_one_is_started(
    make: MakeInstallation, client: stock.Client
) -> None:
    installation = make()
    installation.begin()
    assert installation.terminate() == 0
    client.cast("h1", "update_available_resource")
    client.cast("h1", "update_available_resource")
    with raw.connect(f"{installation.server.url.rpartition('//')[0]}/{installation.vhost}") as connection:
        wait_until(lambda: connection.count("tracker.h1") == 2, "the casts")
    installation.cured("host_consumers", "error", "without a consumer", "tracker.h1 (2 messages in it)")


def test_notifications_without_a_consumer_are_a_warning_until_the_topic_is_taken_out(
    make: MakeInstallation, broker_vhost: str
) -> None:
    installation = make(options={"notifications": {"topics": "notifications, billing"}})
    installation.begin()
    with raw.connect(broker_vhost) as connection:
        wait_until(lambda: connection.count("billing.info") == 1, "the notification")
    with stock.listener(broker_vhost):
        cure = installation.checker.one(
            "notification_consumers", "warning", "topic billing", "billing.info (1 message in it)"
        )
        assert cure == "[notifications] topics = notifications"
        installation.apply(cure)
        assert installation.checker.problems("notification_consumers") == []


def test_dead_letters_are_a_warning_until_they_are_replayed_or_removed(
    make: MakeInstallation, broker_vhost: str
) -> None:
    installation = make()
    installation.begin()
    with raw.connect(broker_vhost) as connection:
        connection.publish("tracker.h1", raw.packed({"no": "request"}))
        wait_until(lambda: connection.count(raw.DEAD_LETTERS) == 1, "the dead letter")
        cure = installation.checker.one(
            "dead_letters", "warning", "1 dead letter in the queue tracker.dead", "purge --all --yes"
        )
        assert cure.endswith(" dead-letter replay --all")
        installation.apply(cure.replace("replay --all", "purge --all --yes"))  # it would be parked again
        assert installation.checker.problems("dead_letters") == []


def test_an_alarm_of_the_broker_is_an_error_until_it_has_room(make: MakeInstallation, rabbitmq: RabbitMQServer) -> None:
    installation = make()
    rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1000000")
    try:
        cure = installation.checker.one("broker_alarm", "error", "alarm: low on memory")
        assert cure == "rabbitmqctl set_vm_memory_high_watermark 0.6"
        installation.apply(cure)
        assert installation.checker.problems("broker_alarm") == []
    finally:
        rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")


# --- one host, one ledger --------------------------------------------------------------------------------------------


def test_a_host_of_another_ledger_is_an_error_until_it_is_adopted(make: MakeInstallation) -> None:
    one, two = make("one"), make("two")
    one.begin()
    two.start()
    two.wait_for_log("host adopt h1")
    cure = two.checker.one("other_ledger", "error", "host h1", "tracker_ledger.h1", "[database] connection")
    assert one.checker.problems("other_ledger") == []
    assert one.terminate() == 0
    two.apply(cure)
    two.wait_ready()
    assert two.checker.problems("other_ledger") == []
    one.checker.one("other_ledger", "error", "host h1")


def test_an_earlier_copy_of_the_ledger_is_an_error_until_it_is_adopted(make: MakeInstallation) -> None:
    one, two = make("one"), make("two")
    one.begin()
    assert one.terminate() == 0
    (two.directory / "state").mkdir(mode=0o700)
    two.database.write_bytes(one.database.read_bytes())
    for _ in range(2):
        one.begin()
        assert one.terminate() == 0
    two.cured("other_ledger", "error", "earlier copy")


def test_a_marker_that_was_emptied_is_a_warning_until_the_host_is_adopted(
    make: MakeInstallation, rabbitmq: RabbitMQServer
) -> None:
    installation = make()
    installation.begin()
    assert installation.terminate() == 0
    rabbitmq.ctl("purge_queue", "-p", installation.vhost, "tracker_ledger.h1")
    installation.cured("other_ledger", "warning", "host h1", "the queue tracker_ledger.h1 is empty")


def test_a_marker_that_is_often_looked_at_is_a_warning_and_none_beside_a_worker(make: MakeInstallation) -> None:
    installation = make()
    installation.begin()
    for _ in range(7):
        assert installation.checker.problems("other_ledger") == []
    assert installation.terminate() == 0
    wait_until(lambda: bool(installation.checker.problems("other_ledger")), "a worn marker")
    installation.cured("other_ledger", "warning", "was looked at ", " times")
