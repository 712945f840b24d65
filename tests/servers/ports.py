# SPDX-License-Identifier: Apache-2.0
"""TCP ports for the servers of this run."""

from __future__ import annotations

import contextlib
import random
import socket

# The ports are below the range of Linux's ephemeral ports. A client that keeps connecting to a stopped server on a port in that
# range may get the same port as its source, and then it is connected to itself.
_FIRST, _BEHIND = 20000, 32000


class Ports:
    """``count`` consecutive ports of 127.0.0.1, from ``first``, reserved until ``close()``.

    No other run and no other process of this run gets these ports, even while their server is not started or is
    stopped. Until the server listens, connections are refused. The ports are free again when this process ends in any
    way. Linux only, and for servers that set SO_REUSEADDR, as RabbitMQ, Erlang's port mapper and PostgreSQL do.
    """

    def __init__(self, count: int = 1) -> None:
        # The random choice makes conflicts between simultaneous runs rare.
        draw = random.SystemRandom()
        self._held: list[socket.socket] = []
        while not self._held:
            self.first = draw.randrange(_FIRST, _BEHIND - count)
            self._held = hold(range(self.first, self.first + count))

    def close(self) -> None:
        """Release the ports. No effect the second time."""
        for one in self._held:
            one.close()


def is_listening(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def hold(ports: range) -> list[socket.socket]:
    """A socket bound to each port on 127.0.0.1, or an empty list if any of the ports is in use."""
    with contextlib.ExitStack() as stack:
        held = []
        for port in ports:
            one = stack.enter_context(socket.socket())
            try:
                # Without SO_REUSEADDR, bind also fails when another process holds the port in the same way.
                one.bind(("127.0.0.1", port))
            except OSError:
                return []
            # From here on, SO_REUSEADDR lets one more socket with the same option bind the port: the server's.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.append(one)
        stack.pop_all()
    return held
