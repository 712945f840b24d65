# SPDX-License-Identifier: Apache-2.0
"""The password of the broker is changed: HUP makes the worker use the new one, without a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.support import stock
from tests.support.worker_process import NODE, WorkerProcess

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

USER = "rotated"


@pytest.fixture
def user(rabbitmq: RabbitMQServer, broker_vhost: str) -> Iterator[str]:
    """A user of the virtual host, with the password ``first``."""
    rabbitmq.ctl("add_user", USER, "first")
    rabbitmq.ctl("set_permissions", "-p", broker_vhost.rpartition("/")[2], USER, ".*", ".*", ".*")
    yield USER
    rabbitmq.ctl("delete_user", USER)


def url_with(password: str, url: str) -> str:
    return f"rabbit://{USER}:{password}@{url.rpartition('@')[2]}"


@pytest.fixture
def worker(make_worker: MakeWorker, broker_vhost: str, user: str) -> WorkerProcess:
    rabbit = {"rabbit_interval_max": 30, "rabbit_retry_interval": 20}
    options = {"oslo_messaging_rabbit": rabbit}
    worker = make_worker(hosts={HOST: {"n1": NODE}}, transport_url=url_with("first", broker_vhost), options=options)
    worker.start()
    worker.wait_ready()
    return worker


def test_a_new_password_is_used_after_hup_although_the_old_one_was_refused(
    worker: WorkerProcess, rabbitmq: RabbitMQServer, broker_vhost: str, client: stock.Client
) -> None:
    rabbitmq.ctl("change_password", USER, "second$")
    rabbitmq.ctl("close_all_connections", "--vhost", broker_vhost.rpartition("/")[2], "a test")
    for name in ("tracker-consumer", "tracker-publisher"):
        worker.wait_for_log(f"{name}: no connection", times=2)
    # A restart is needed for the other virtual host, and not for the password.
    worker.configure({"DEFAULT": {"transport_url": url_with("second$$", broker_vhost) + "?ssl=false"}})

    began = time.monotonic()
    worker.reload()
    assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
    assert time.monotonic() - began < 10
    assert "second" not in worker.log()
    assert "needs a restart" not in worker.log()


def test_a_transport_url_that_cannot_be_used_changes_nothing_at_hup(
    worker: WorkerProcess, broker_vhost: str, client: stock.Client
) -> None:
    worker.configure({"DEFAULT": {"transport_url": "rabbit://u:sec#ret@nowhere/"}})
    worker.reload()
    assert "transport_url" in worker.log()
    worker.configure({"DEFAULT": {"transport_url": url_with("first", broker_vhost) + "-other"}})
    worker.reload()

    assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
    assert worker.log().count("needs a restart") == 1
    assert "sec" not in worker.log().replace("second", "")
    assert worker.log().count("tracker-consumer: connected") == 1
