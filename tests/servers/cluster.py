# SPDX-License-Identifier: Apache-2.0
"""Three private RabbitMQ nodes in one cluster, of which a test may kill any."""

from __future__ import annotations

import signal

from .ports import free_port, is_listening
from .rabbitmq import RabbitMQServer

_NODES = 3


class RabbitMQCluster(RabbitMQServer):
    """The nodes are numbered from 0. ``ctl`` asks node 0. Not thread-safe; what it starts is gone after ``close()``."""

    cluster = True

    def __init__(self) -> None:
        super().__init__()
        # pifpaf counts the ports up from the first.
        while any(is_listening(port) for port in self.ports):
            self.port = free_port()
        self._nodes = [f"{self.name}-{number + 1}@localhost" for number in range(_NODES)]
        self.node = self._nodes[0]

    @property
    def ports(self) -> list[int]:
        return [self.port + number for number in range(_NODES)]

    @property
    def url(self) -> str:
        """An oslo.messaging transport URL with every node."""
        return self.url_from(0)

    def url_from(self, first: int) -> str:
        """The same, beginning with that node, which is where clients try first."""
        ports = self.ports[first:] + self.ports[:first]
        return "rabbit://" + ",".join(f"{self.user}:{self.password}@127.0.0.1:{port}" for port in ports) + "//"

    def kill_node(self, number: int) -> None:
        """SIGKILL one node. Returns when its processes are gone."""
        self._end(signal.SIGKILL, self._nodes[number])

    def close(self) -> None:
        """Stop everything and remove the directory. Harmless when nothing was started."""
        try:
            if self._driver is not None:
                for number in range(_NODES):
                    self.kill_node(number)
        finally:
            super().close()
