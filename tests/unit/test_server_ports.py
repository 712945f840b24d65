# SPDX-License-Identifier: Apache-2.0
"""Simultaneous test runs, and the processes of one run, never start servers on each other's ports."""

from __future__ import annotations

import socket
from contextlib import closing

from tests.servers.ports import Ports, hold, is_listening


def test_a_port_is_reserved_until_it_is_released() -> None:
    with closing(Ports(2)) as held:
        both = range(held.first, held.first + 2)
        assert (hold(both[:1]), hold(both[1:])) == ([], [])

    again = hold(both)
    assert [one.getsockname()[1] for one in again] == list(both)
    for one in again:
        one.close()


def test_a_port_stays_reserved_while_its_server_runs_and_after_its_stop() -> None:
    with closing(Ports()) as held:
        for _ in range(2):
            with socket.create_server(("127.0.0.1", held.first)):
                assert is_listening(held.first)
                assert hold(range(held.first, held.first + 1)) == []
            assert not is_listening(held.first)
            assert hold(range(held.first, held.first + 1)) == []


def test_a_block_of_ports_is_not_reserved_if_one_of_its_ports_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hold(range(port - 2, port + 1)) == []
