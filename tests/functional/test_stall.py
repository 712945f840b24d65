# SPDX-License-Identifier: Apache-2.0
"""The network between worker and broker stalls for a few seconds: packets vanish, and no connection ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from tests.functional.conftest import HOST, MakeWorker
from tests.servers import RabbitMQServer
from tests.servers.proxy import Proxy
from tests.support import stock
from tests.support.builders import instance_dict
from tests.support.worker_process import NODE

# Stock clients leave sockets open when they reconnect.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

_OUTER, _INNER = "198.18.77.1", "198.18.77.2"  # RFC 2544: for measurements of networks
STALL_SECONDS = 4


class Network:
    """A network namespace with one link to this one."""

    def __init__(self) -> None:
        self.name = f"tracker{os.getpid()}"
        self._link = f"tr{os.getpid()}"

    def open(self) -> None:
        self._ip(f"netns add {self.name}")
        self._ip(f"link add {self._link}o type veth peer name {self._link}i netns {self.name}")
        self._ip(f"addr add {_OUTER}/30 dev {self._link}o")
        self._ip(f"link set {self._link}o up")
        for command in (f"addr add {_INNER}/30 dev {self._link}i", f"link set {self._link}i up", "link set lo up"):
            self._ip(f"-n {self.name} {command}")

    def stall(self) -> None:
        """Lose every packet in both directions until ``resume``."""
        self._ip(f"link set {self._link}o down")

    def resume(self) -> None:
        self._ip(f"link set {self._link}o up")

    def close(self) -> None:
        self._ip(f"netns del {self.name}")

    def _ip(self, arguments: str) -> None:
        subprocess.run(["ip", *arguments.split()], check=True, capture_output=True, text=True)


@pytest.fixture
def network() -> Iterator[Network]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root may make a network namespace")
    network = Network()
    try:
        network.open()
    except subprocess.CalledProcessError as error:
        with suppress(subprocess.CalledProcessError):
            network.close()
        pytest.skip(f"no network namespace here: {error.stderr}")
    with closing(network):
        yield network


def test_a_stall_of_the_network_ends_no_connection(
    make_worker: MakeWorker, network: Network, rabbitmq: RabbitMQServer, broker_vhost: str, client: stock.Client
) -> None:
    with closing(Proxy(rabbitmq.port, address=_OUTER)) as proxy, stock.listener(broker_vhost) as listener:
        proxy.open()
        url = broker_vhost.replace(f"127.0.0.1:{rabbitmq.port}/", f"{_OUTER}:{proxy.port}/")
        worker = make_worker(
            hosts={HOST: {"n1": NODE}}, transport_url=url, within=("ip", "netns", "exec", network.name)
        )
        worker.start()
        worker.wait_ready()
        assert client.call(HOST, "begin_resource_claim", instance=instance_dict())["state"] == "begun"

        network.stall()
        # The worker publishes during the stall: what it sends is not acknowledged.
        worker.write_inventory({HOST: {"n1": {**NODE, "vcpus": 3}}})
        worker.reload()
        worker.wait_for_log("NodeUpdated", times=2)
        threading.Event().wait(STALL_SECONDS)
        network.resume()

        assert client.call(HOST, "oslo_rpc_server_ping") == "pong"
        assert [one.payload["vcpus"] for one in listener.wait_for(HOST, "n1", 3)][-1] == 3
        for name in ("tracker-consumer", "tracker-publisher"):
            assert worker.log().count(f"{name}: connected") == 1
