# SPDX-License-Identifier: Apache-2.0
"""Three private RabbitMQ nodes in one cluster. A test may kill any of them."""

from __future__ import annotations

import signal

from .rabbitmq import RabbitMQServer


class RabbitMQCluster(RabbitMQServer):
    """The nodes are numbered from 0. ``ctl`` calls node 0. Not thread-safe; ``close()`` ends every process and removes
    every file.
    """

    nodes = 3

    def __init__(self) -> None:
        super().__init__()
        self._names = [f"{self.name}-{number + 1}@localhost" for number in range(self.nodes)]
        self.node = self._names[0]

    @property
    def url(self) -> str:
        """An oslo.messaging transport URL with every node."""
        return self.url_from(0)

    def url_from(self, first: int) -> str:
        """A transport URL with every node that begins with node ``first``; clients connect to the first node first."""
        ports = self.ports[first:] + self.ports[:first]
        return "rabbit://" + ",".join(f"{self.user}:{self.password}@127.0.0.1:{port}" for port in ports) + "//"

    def kill_node(self, number: int) -> None:
        """Send SIGKILL to one node. Returns when its processes have ended."""
        self._end(signal.SIGKILL, self._names[number])

    def close(self) -> None:
        """Stop everything and remove the directory. No effect if nothing was started."""
        try:
            if self._driver is not None:
                for number in range(self.nodes):
                    self.kill_node(number)
        finally:
            super().close()
