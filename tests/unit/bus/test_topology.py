# SPDX-License-Identifier: Apache-2.0
"""The worker's declarations, compared with the declarations of stock programs with the same options (tests/wire/golden,
declares_*).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from tests.support.channels import SETTINGS
from tests.support.declarations import Broker
from tests.wire.golden import declare_names, load_declares
from tests.wire.stock import configuration
from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import BrokerSettings, read_settings
from tracker_worker.conf import register_opts
from tracker_worker.notifications.dialects.table import COMPUTE, PLAIN

HOST = "compute-1"
# Stock programs never declare these queues of the worker.
OWN = {"tracker", f"tracker.{HOST}", "tracker.dead"}


def settings_of(name: str) -> BrokerSettings:
    """A worker's settings with the options of a recording."""
    conf = configuration("rabbit://guest:guest@127.0.0.1:1//", **load_declares(name)["options"])
    register_opts(conf)
    return read_settings(conf)


def recorded(name: str, operation: str) -> list[dict[str, Any]]:
    """The declarations of all recorded stock programs except the server: a worker runs together with these programs."""
    programs = load_declares(name)["programs"]
    return [
        one for program in programs if program != "rpc_server" for one in programs[program] if one["op"] == operation
    ]


def declared(settings: BrokerSettings) -> Broker:
    broker = Broker()
    topology.declare_served(broker, settings, topology.served(settings, [HOST], "0" * 32))
    topology.declare_notifications(broker, settings)
    return broker


@pytest.mark.parametrize("name", declare_names())
def test_the_worker_declares_exchanges_as_stock_programs_do(name: str) -> None:
    ours = declared(settings_of(name)).exchanges

    for stock in recorded(name, "exchange_declare"):
        assert ours[stock["exchange"]] == {key: stock[key] for key in ("type", "durable", "auto_delete")}


@pytest.mark.parametrize("name", declare_names())
def test_the_worker_declares_notification_queues_as_stock_programs_do(name: str) -> None:
    broker = declared(settings_of(name))
    ours = {queue["queue"]: queue for queue in broker.queues}

    stock = next(one for one in recorded(name, "queue_declare") if one["queue"] == "notifications.info")

    for priority in ("info", "warn"):
        queue = f"notifications.{priority}"
        assert ours[queue] == {
            "queue": queue,
            **{key: stock[key] for key in ("durable", "exclusive", "auto_delete", "arguments")},
        }
        assert (queue, "openstack", queue) in broker.bindings


@pytest.mark.parametrize("name", declare_names())
def test_no_stock_client_declares_a_queue_of_the_worker(name: str) -> None:
    assert not OWN & {one["queue"] for one in recorded(name, "queue_declare")}


@pytest.mark.parametrize("name", declare_names())
def test_the_worker_has_the_bindings_of_a_stock_server(name: str) -> None:
    def neutral(bindings: set[tuple[str, str, str]]) -> set[tuple[str, str]]:
        # A fanout exchange ignores the routing key.
        return {
            (re.sub(r"_[0-9a-f]{32}$|_<random>$", "", queue), "" if exchange.endswith("_fanout") else key)
            for queue, exchange, key in bindings
            if not queue.startswith("notifications.")
        }

    server = load_declares(name)["programs"]["rpc_server"]
    stock = {(one["queue"], one["exchange"], one["routing_key"]) for one in server if one["op"] == "queue_bind"}

    assert neutral(set(declared(settings_of(name)).bindings)) == neutral(stock)


@pytest.mark.parametrize(
    ("queue_type", "typed"),
    [("quorum", {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}), ("classic", {})],
)
def test_queues_of_the_worker_are_durable_and_a_host_queue_has_one_active_consumer(
    queue_type: str, typed: dict[str, Any]
) -> None:
    queues = {queue["queue"]: queue for queue in declared(replace(SETTINGS, queue_type=queue_type)).queues}

    for name in OWN:
        assert queues[name]["durable"]
        assert not queues[name]["exclusive"]
        assert not queues[name]["auto_delete"]
    assert queues["tracker"]["arguments"] == queues["tracker.dead"]["arguments"] == typed
    # The worker parks messages itself: a dead-letter exchange would also get calls that have expired.
    assert queues[f"tracker.{HOST}"]["arguments"] == {"x-single-active-consumer": True, **typed}


def test_a_fanout_queue_is_exclusive_to_its_connection() -> None:
    first, second = (topology.fanout_queue(SETTINGS, unique) for unique in ("1", "2"))

    assert first.name != second.name
    assert (first.exclusive, first.durable, first.auto_delete) == (True, False, True)


def test_an_existing_exchange_is_not_declared_again() -> None:
    there = {"openstack": "somebody's", "tracker_fanout": "somebody's"}
    broker = Broker(there=there)

    topology.declare_served(broker, SETTINGS, topology.served(SETTINGS, [HOST], "1"))

    assert broker.exchanges == there


def test_a_queue_with_wrong_properties_is_logged_with_the_delete_command_and_kept(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker(refused=(f"tracker.{HOST}",))

    queues = topology.served(SETTINGS, [HOST, "compute-2"], "1")
    refused = topology.declare_served(broker, SETTINGS, queues)

    assert [queue.name for queue in refused] == [f"tracker.{HOST}"]
    assert f"rabbitmqctl delete_queue tracker.{HOST}" in caplog.text
    assert ("tracker.compute-2", "openstack", "tracker.compute-2") in broker.bindings

    caplog.clear()
    assert topology.declare_queues(broker, queues, reported={f"tracker.{HOST}"}) == refused
    assert caplog.text == ""
    broker.refused = ()
    assert topology.declare_queues(broker, queues, reported={f"tracker.{HOST}"}) == []
    assert (f"tracker.{HOST}", "openstack", f"tracker.{HOST}") in broker.bindings


def test_an_exchange_that_is_gone_is_declared_and_named() -> None:
    broker = Broker(there={"openstack": "somebody's"})
    assert topology.declare_exchanges(broker, SETTINGS) == ["tracker_fanout"]
    assert topology.declare_exchanges(broker, SETTINGS) == []


def test_a_notification_queue_with_other_options_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(refused=("notifications.info",))

    topology.declare_notifications(broker, SETTINGS)

    assert ("notifications.info", "openstack", "notifications.info") in broker.bindings
    assert "used as it is" in caplog.text


def test_queues_that_may_not_be_declared_are_bound_if_they_are_there_and_named_if_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    there = [f"tracker.{HOST}", "tracker", "tracker.dead", "notifications.info"]
    broker = Broker(forbidden={**dict.fromkeys(there, True), "tracker.compute-2": False})

    refused = topology.declare_served(broker, SETTINGS, topology.served(SETTINGS, [HOST, "compute-2"], "1"))
    topology.declare_notifications(broker, SETTINGS)

    assert [queue.name for queue in refused] == ["tracker.compute-2"]
    assert "queue tracker.compute-2 cannot be declared and is not served" in caplog.text
    bound = {name for name, _, _ in broker.bindings}
    assert bound == {f"tracker.{HOST}", "tracker", "tracker_fanout_1", "notifications.info", "notifications.warn"}
    assert {queue["queue"] for queue in broker.queues} == {"tracker_fanout_1", "notifications.warn"}


def test_every_topic_has_a_queue_for_each_priority_of_its_dialect() -> None:
    broker = Broker()

    topics = {"one": PLAIN, "two": PLAIN, "three": COMPUTE}

    topology.declare_notifications(broker, replace(SETTINGS, notification_topics=topics))

    assert [queue["queue"] for queue in broker.queues] == ["one.info", "one.warn", "two.info", "two.warn", "three.info"]
