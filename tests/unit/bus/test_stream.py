# SPDX-License-Identifier: Apache-2.0
"""Reads and writes of a stream over a real socket: no byte is lost or repeated, and no caller waits."""

from __future__ import annotations

import random
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import pytest

from tracker_worker.bus.amqp.stream import Stream, WriteTurn

_SECONDS = 10
# This is more than a socket buffers while its other end does not read.
_MUCH = random.Random(1).randbytes(4_000_000)


class Case:
    """A stream that py-amqp would read and write through, and the broker's end of its socket."""

    def __init__(self) -> None:
        self.sock, self.broker = socket.socketpair()
        self.sock.settimeout(_SECONDS)
        self.broker.settimeout(_SECONDS)
        self.transport = SimpleNamespace(sock=self.sock)
        self.stream = Stream(SimpleNamespace(transport=self.transport))

    def write(self, data: bytes) -> None:
        self.transport._write(data)

    def taken(self, size: int) -> tuple[bytes, bool]:
        """Call ``take`` with a reader that uses ``size`` bytes. Return the offered bytes and the result of ``take``."""
        offered: list[bytes] = []

        def use(data: bytes, position: int) -> int:
            offered.append(data[position:])
            return position + size

        used = self.stream.take(use)
        (data,) = offered
        return data, used

    def push(self) -> bool:
        """Flush from a thread with the write turn while the connection's own thread sleeps. Return whether all bytes were
        sent.
        """
        woken: list[None] = []
        turn = WriteTurn(write=lambda: None, wake=lambda: woken.append(None), reads_in_time=lambda: True)
        turn.serve(self.stream)
        turn.begin_sleep()
        turn.flush_soon()
        return not woken

    def send_all(self) -> None:
        while self.stream.written:
            self.stream.send()

    def nothing_to_read(self) -> None:
        """Let every later read from the socket fail immediately."""
        self.sock.settimeout(0)

    def everything(self) -> bytes:
        """The bytes that arrive at the broker's end until the stream's end is closed."""
        found = bytearray()
        while piece := self.broker.recv(65536):
            found += piece
        return bytes(found)

    def close(self) -> None:
        self.sock.close()
        self.broker.close()


@pytest.fixture
def case() -> Iterator[Case]:
    with closing(Case()) as case:
        yield case


def test_the_socket_is_read_only_when_the_buffer_is_empty(case: Case) -> None:
    case.broker.sendall(b"abcdef")
    assert case.taken(2) == (b"abcdef", True)
    case.broker.sendall(b"ghi")
    assert case.taken(0) == (b"cdef", False)
    assert case.taken(4) == (b"cdef", True)
    assert not case.stream.unread()
    assert case.taken(3) == (b"ghi", True)
    case.nothing_to_read()
    with pytest.raises(BlockingIOError):
        case.taken(0)


def test_bytes_that_are_not_taken_are_left_to_py_amqp_in_order(case: Case) -> None:
    case.broker.sendall(b"abcdef")
    assert case.taken(1) == (b"abcdef", True)
    case.nothing_to_read()
    assert case.transport._quick_recv(2) == b"bc"
    assert case.taken(1) == (b"def", True)
    assert case.stream.unread()
    assert case.transport._quick_recv(100) == b"ef"
    assert not case.stream.unread()


def test_written_bytes_are_sent_before_the_stream_waits_for_a_read(case: Case) -> None:
    """The expected bytes may be the answer to the written bytes."""
    case.write(b"question")
    case.nothing_to_read()
    with pytest.raises(BlockingIOError):
        case.taken(0)
    assert case.broker.recv(100) == b"question"


def test_taking_buffered_bytes_sends_nothing(case: Case) -> None:
    case.broker.sendall(b"abc")
    case.taken(1)
    case.write(b"later")
    case.taken(1)
    case.broker.settimeout(0)
    with pytest.raises(BlockingIOError):
        case.broker.recv(100)


def test_a_closed_connection_gives_no_bytes(case: Case) -> None:
    case.broker.close()
    assert case.taken(0) == (b"", False)
    assert case.transport._quick_recv(1) == b""


def test_pushed_bytes_are_sent_once(case: Case) -> None:
    assert case.push()
    case.write(b"abc")
    assert case.push()
    assert case.push()
    case.write(b"def")
    case.send_all()
    case.sock.close()
    assert case.everything() == b"abcdef"


def test_bytes_that_the_socket_does_not_take_are_kept_in_order_for_later(case: Case) -> None:
    case.write(_MUCH)
    assert not case.push()
    case.write(b"more")
    assert not case.push()
    with ThreadPoolExecutor(1) as reader:
        arrived = reader.submit(case.everything)
        case.send_all()
        case.write(b"the last")
        assert case.push()
        case.sock.close()
        assert arrived.result(_SECONDS) == _MUCH + b"more" + b"the last"


def test_pushing_piece_by_piece_loses_and_repeats_no_byte(case: Case) -> None:
    pieces = [_MUCH[start : start + 1000] for start in range(0, 1_000_000, 1000)]
    with ThreadPoolExecutor(1) as reader:
        arrived = reader.submit(case.everything)
        for piece in pieces:
            case.write(piece)
            case.push()
        case.send_all()
        case.sock.close()
        assert arrived.result(_SECONDS) == b"".join(pieces)


def test_a_push_never_blocks_although_the_socket_would(case: Case) -> None:
    case.write(_MUCH)
    began = time.monotonic()
    assert not case.push()
    assert not case.push()
    assert time.monotonic() - began < _SECONDS / 2


def test_a_push_to_a_closed_peer_does_not_raise_and_a_send_does(case: Case) -> None:
    case.broker.close()
    case.write(b"abc")
    assert not case.push()
    with pytest.raises(OSError):
        case.send_all()


def test_a_push_to_a_closed_socket_does_not_raise_and_a_send_does(case: Case) -> None:
    case.sock.close()
    case.write(b"abc")
    assert not case.push()
    with pytest.raises(OSError):
        case.send_all()


def test_a_push_sends_nothing_over_tls() -> None:
    """The push would write the bytes to the socket unencrypted."""
    with closing(Case()) as case:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with context.wrap_socket(case.sock, do_handshake_on_connect=False, server_hostname="broker") as wrapped:
            case.transport.sock = wrapped
            case.stream = Stream(SimpleNamespace(transport=case.transport))
            case.write(b"abc")
            assert not case.push()
            case.broker.settimeout(0)
            with pytest.raises(BlockingIOError):
                case.broker.recv(100)


def test_who_waits_for_an_answer_sends_meanwhile_and_reads_although_not_everything_is_sent(case: Case) -> None:
    """A broker that reads nothing may have something to say."""
    case.write(_MUCH)
    case.broker.sendall(b"said")
    assert case.transport._quick_recv(4) == b"said"
    assert case.stream.written
    with ThreadPoolExecutor(1) as broker:
        answered = broker.submit(_answer_after, case.broker, len(_MUCH))
        assert case.transport._quick_recv(6) == b"answer"
        assert answered.result(_SECONDS) == _MUCH


def _answer_after(broker: socket.socket, size: int) -> bytes:
    heard = bytearray()
    while len(heard) < size:
        heard += broker.recv(65536)
    broker.sendall(b"answer")
    return bytes(heard)


def test_a_limit_holds_for_all_waits_together_and_its_error_names_the_phase(case: Case) -> None:
    with ThreadPoolExecutor(1) as broker:
        dripping = broker.submit(_drip, case.broker)
        with pytest.raises(TimeoutError, match="the login"):
            _read_within(0.3, case)
        case.sock.shutdown(socket.SHUT_RDWR)
        assert dripping.result(_SECONDS) < 1000


def _read_within(seconds: float, case: Case) -> None:
    with case.stream.limit(seconds, "the login"):
        for _ in range(1000):
            case.transport._quick_recv(1)


def _drip(broker: socket.socket) -> int:
    """Send a byte now and then until the other end is closed. Return how many."""
    for sent in range(1000):
        try:
            broker.sendall(b"x")
        except OSError:
            return sent
        time.sleep(0.02)
    return 1000
