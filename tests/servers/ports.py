# SPDX-License-Identifier: Apache-2.0
"""TCP ports for servers that this run starts."""

from __future__ import annotations

import random
import socket

# Below the range that Linux takes source ports from. A client that keeps connecting to a stopped server on a port inside
# that range may be given the same port as its source, and is then connected to itself.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """A port on 127.0.0.1 that nothing listens on. Drawn at random, so that two runs side by side rarely meet."""
    draw = random.SystemRandom()
    while True:
        port = draw.choice(_PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def is_listening(port: int) -> bool:
    """Whether something accepts connections on that port of 127.0.0.1."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
