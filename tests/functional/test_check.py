# SPDX-License-Identifier: Apache-2.0
"""``tracker-worker check`` beside a worker, and with servers that are dead or silent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.functional.installation import Installation
from tests.servers import PostgreSQLServer, RabbitMQServer
from tests.servers.proxy import Proxy
from tests.support import raw, stock
from tests.support.checking import SECONDS
from tests.support.deadline import wait_until

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

MakeInstallation = Callable[..., Installation]


@pytest.fixture
def make(tmp_path: Path, rabbitmq: RabbitMQServer, broker_vhost: str) -> Iterator[MakeInstallation]:
    """Makes installations on a virtual host of the test."""
    with ExitStack() as stack:

        def made(**arguments: Any) -> Installation:
            installation = Installation(tmp_path, rabbitmq, **{"transport_url": broker_vhost, **arguments})
            stack.callback(installation.close)
            return installation

        yield made


def on_broker(server: RabbitMQServer, vhost: str) -> list[str]:
    """Everything that the broker keeps for a virtual host, and how many messages and consumers each queue has."""
    listings = [
        ("list_queues", "name", "durable", "auto_delete", "arguments"),
        ("list_exchanges", "name", "type", "durable", "auto_delete", "arguments"),
        ("list_bindings",),
    ]
    found = ["\n".join(sorted(server.ctl(name, "-p", vhost, *words).splitlines())) for name, *words in listings]
    # What list_queues says of messages in quorum queues lags behind.
    with raw.connect(f"{server.url.rpartition('/')[0].rpartition('/')[0]}/{vhost}") as connection:
        for line in found[0].splitlines()[1:]:
            name = line.partition("\t")[0]
            if not name.startswith("tracker_fanout_"):  # another connection's
                counts = connection.channel.queue_declare(name, passive=True)
                found.append(f"{name}: {counts.message_count}, {counts.consumer_count}")
    return found


def in_directory(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_nothing_is_found_beside_a_worker_and_its_consumer_and_nothing_is_left_behind(
    make: MakeInstallation, rabbitmq: RabbitMQServer, listener: stock.Listener, client: stock.Client
) -> None:
    installation = make()
    installation.begin()
    listener.wait_for("h1", "n1", 1)
    before = on_broker(rabbitmq, installation.vhost)
    for _ in range(3):
        assert installation.problems() == []
    done = installation.checker.run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("\n0 errors, 0 warnings\n")
    assert on_broker(rabbitmq, installation.vhost) == before
    assert client.call("h1", "get_node")["generation"] == 1
    assert [line for line in installation.log().splitlines() if " WARNING " in line or " ERROR " in line] == []


def test_nothing_is_changed_where_no_worker_runs(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    installation = make()
    installation.begin()
    with raw.connect(broker_vhost) as connection:
        wait_until(lambda: connection.count("notifications.info") == 1, "the notification")
    assert installation.terminate() == 0
    before, files = on_broker(rabbitmq, installation.vhost), in_directory(installation.directory / "state")
    assert {finding["name"] for finding in installation.problems()} == {
        "host_consumers",
        "notification_consumers",
        "hosts",
    }
    assert on_broker(rabbitmq, installation.vhost) == before
    assert in_directory(installation.directory / "state") == files


def test_an_installation_without_any_worker_yet_is_told_how_to_begin(
    make: MakeInstallation, rabbitmq: RabbitMQServer
) -> None:
    installation = make()
    before = on_broker(rabbitmq, installation.vhost)
    assert [(each["level"], each["name"]) for each in installation.problems()] == [
        ("error", "host_consumers"),
        ("warning", "database"),
    ]
    assert on_broker(rabbitmq, installation.vhost) == before
    assert not (installation.directory / "state").exists()
    installation.cured("host_consumers", "error", "tracker.h1", "not there")
    assert installation.checker.problems("schema") == []


def test_an_option_that_means_nothing_is_one_warning_of_serve(make: MakeInstallation, listener: stock.Listener) -> None:
    installation = make(options={"tracker": {"host": "h7"}})
    installation.begin()
    (line,) = [line for line in installation.log().splitlines() if " WARNING " in line]
    assert "[tracker] host in" in line
    assert line.endswith("did you mean hosts?")
    listener.wait_for("h1", "n1", 1)
    installation.cured("options", "error", "did you mean hosts?")
    # Now that it has a meaning, what it means can be seen to be wrong.
    installation.checker.one("host_consumers", "error", "tracker.h7")


def test_a_broker_that_does_not_run_is_an_error_and_the_database_is_checked(
    make: MakeInstallation, rabbitmq: RabbitMQServer, listener: stock.Listener
) -> None:
    installation = make()
    installation.begin()
    rabbitmq.stop_app()
    try:
        found = {finding["name"]: finding for finding in installation.checker.findings()}
    finally:
        rabbitmq.start_app()
    assert found["broker"]["level"] == "error"
    assert f"127.0.0.1:{rabbitmq.port}/{installation.vhost}" in found["broker"]["message"]
    assert found["broker"]["cure"] == "systemctl start rabbitmq-server"
    assert [found[name]["level"] for name in ("schema", "clock", "hosts", "outbox_age", "database")] == ["ok"] * 5
    assert "host_consumers" not in found
    assert installation.checker.problems("broker") == []


def test_a_broker_that_swallows_everything_costs_ten_seconds_at_most(
    make: MakeInstallation, rabbitmq: RabbitMQServer, broker_vhost: str
) -> None:
    proxy = Proxy(rabbitmq.port)
    proxy.open()
    try:
        installation = make(transport_url=broker_vhost.replace(f":{rabbitmq.port}/", f":{proxy.port}/"))
        installation.begin()
        proxy.hold()
        began = time.monotonic()
        found = {finding["name"]: finding for finding in installation.checker.findings()}
        assert time.monotonic() - began < SECONDS
        assert found["broker"]["level"] == "error"
        assert "not checked: broker_alarm, host_consumers" in found["broker"]["message"]
        assert found["database"]["level"] == "ok"
    finally:
        proxy.close()


def test_a_second_broker_that_does_not_run_is_a_warning(make: MakeInstallation, broker_vhost: str) -> None:
    login, _, place = broker_vhost.removeprefix("rabbit://").rpartition("@")
    address, _, vhost = place.partition("/")
    installation = make(transport_url=f"rabbit://{login}@127.0.0.1:1,{login}@{address}/{vhost}")
    assert installation.checker.one("broker", "warning", "127.0.0.1:1/") == "systemctl start rabbitmq-server"
    installation.configure({"DEFAULT": {"transport_url": broker_vhost}})
    assert installation.checker.problems("broker") == []


def test_broker_and_database_that_are_both_silent_are_both_told_in_time(
    make: MakeInstallation,
    rabbitmq: RabbitMQServer,
    broker_vhost: str,
    postgresql: PostgreSQLServer,
    postgresql_url: str,
) -> None:
    proxy = Proxy(rabbitmq.port)
    proxy.open()
    try:
        proxy.hold()
        installation = make(
            transport_url=broker_vhost.replace(f":{rabbitmq.port}/", f":{proxy.port}/"),
            options={"database": {"connection": postgresql_url}},
        )
        with postgresql.frozen():
            began = time.monotonic()
            found = [(each["level"], each["name"]) for each in installation.problems()]
            assert time.monotonic() - began < SECONDS
        assert found == [("error", "broker"), ("error", "database")]
    finally:
        proxy.close()
