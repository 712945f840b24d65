# SPDX-License-Identifier: Apache-2.0
"""TCP ports for servers that this run starts."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range that Linux takes source ports from. A client that keeps connecting to a stopped server on a port inside
# that range may be given the same port as its source, and is then connected to itself.
_FIRST, _BEHIND = 20000, 32000


class Ports:
    """``count`` consecutive ports of 127.0.0.1, from ``first``, that nobody else gets before ``close()``: no other run
    and no other process of this run, not even while the server that they are for is not yet started, or stopped.

    Nothing listens on them meanwhile: who connects is refused. They are free again when this process ends, however it
    does. Linux only, and for servers that set SO_REUSEADDR, as RabbitMQ, Erlang's port mapper and PostgreSQL do.
    """

    def __init__(self, count: int = 1) -> None:
        # Drawn at random, so that runs side by side are rarely in each other's way.
        draw = random.SystemRandom()
        self._held: list[socket.socket] = []
        while not self._held:
            self.first = draw.randrange(_FIRST, _BEHIND - count)
            self._held = hold(range(self.first, self.first + count))

    def close(self) -> None:
        """Give them back. Harmless when that has been done."""
        for one in self._held:
            one.close()


def is_listening(port: int) -> bool:
    """Whether something accepts connections on that port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def hold(ports: range) -> list[socket.socket]:
    """A socket bound to each of them on 127.0.0.1, or none at all when any of them is somebody's."""
    with contextlib.ExitStack() as stack:
        held = []
        for port in ports:
            one = stack.enter_context(socket.socket())
            try:
                # Without SO_REUSEADDR this fails also when another process holds the port as we do.
                one.bind(("127.0.0.1", port))
            except OSError:
                return []
            # With it, from now on, one more may be bound there, if that one has it too: the server.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.append(one)
        stack.pop_all()
    return held
