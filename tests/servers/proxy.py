# SPDX-License-Identifier: Apache-2.0
"""A TCP relay to a server on this machine that simulates network faults: connections that are cut, half open or slow."""

from __future__ import annotations

import contextlib
import socket
import threading

_CHUNK = 65536
_POLL_SECONDS = 0.05


class Proxy:
    """Listens on ``port`` of ``address`` from ``open`` to ``close``. Every method may be called from any thread."""

    def __init__(self, target_port: int, *, address: str = "127.0.0.1") -> None:
        self._target_port = target_port
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._refusing = False
        self._delay_seconds = 0.0
        self._fatal: bytes | None = None
        self._noticed: bytes | None = None
        self._listener = socket.create_server((address, 0))
        self.port: int = self._listener.getsockname()[1]
        self._closed = threading.Event()
        self._flowing = threading.Event()
        self._flowing.set()
        self._thread = threading.Thread(target=self._accept, name="proxy", daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Cut every connection and stop listening."""
        self._closed.set()
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        self.cut()

    def cut(self, *, refuse: bool = False) -> None:
        """End every connection. With ``refuse``, also refuse new connections until ``resume``."""
        with self._lock:
            self._refusing = refuse
            pairs = list(self._pairs)
        for pair in pairs:
            pair.cut()

    def stall(self, *, noticed: bool = False) -> None:
        """Make every present connection half open, or only those that were ``noticed``: it stays connected, but nothing passes
        in either direction, not even its end.

        New connections work.
        """
        with self._lock:
            for pair in self._pairs:
                if pair.noticed or not noticed:
                    pair.stalled = True

    def notice(self, text: bytes) -> None:
        """From now on, notice on which connections a client sends ``text``."""
        self._noticed = text

    def hold(self) -> None:
        """Keep back all data, of present and new connections, until ``resume``: nothing is lost, as when a network drops
        packets for a while, and no connection ends.
        """
        self._flowing.clear()

    def delay(self, seconds: float) -> None:
        """Delay all data by ``seconds`` in each direction."""
        self._delay_seconds = seconds

    def resume(self) -> None:
        """Let new connections work without refusal or delay, and pass on what ``hold`` has kept back."""
        self._flowing.set()
        self._refusing = False
        self._delay_seconds = 0.0

    def lose_answer_to(self, text: bytes) -> None:
        """Cut the next connection on which a client sends ``text`` when the server answers, and drop the answer.

        The server has then executed the request and the client does not know it.
        """
        self._fatal = text

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs.add(pair)
                pair.start()

    # --- for _Pair ----------------------------------------------------------------------------------------------------

    def _hold(self, ended: threading.Event) -> None:
        while not self._flowing.wait(_POLL_SECONDS) and not ended.is_set():
            pass
        if self._delay_seconds:
            self._closed.wait(self._delay_seconds)

    def _is_fatal(self, data: bytes) -> bool:
        with self._lock:
            if self._fatal is None or self._fatal not in data:
                return False
            self._fatal = None
            return True

    def _forget(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)


class _Pair:
    """One client's connection and the proxy's connection to the server, with a thread for each direction."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = threading.Event()
        self.stalled = False
        self.noticed = False
        self._doomed = False
        self._threads = [
            threading.Thread(target=self._pass, args=(client, server), name="proxy-up", daemon=True),
            threading.Thread(target=self._pass, args=(server, client), name="proxy-down", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def cut(self) -> None:
        """Returns when both connections are closed."""
        self._end()
        for thread in self._threads:
            thread.join()

    def _end(self) -> None:
        self._ended.set()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while (data := source.recv(_CHUNK)) and not self._ended.is_set():
                self._proxy._hold(self._ended)
                if self.stalled:
                    break
                if source is self._server and self._doomed:
                    self._end()
                    return
                if source is self._client and self._proxy._noticed is not None and self._proxy._noticed in data:
                    self.noticed = True
                if source is self._client and self._proxy._is_fatal(data):
                    self._doomed = True
                sink.sendall(data)
        except OSError:
            pass  # one end has closed, so the other is closed too
        if self.stalled:
            self._ended.wait()
        self._end()
        if source is self._client:
            self._threads[1].join()
            self._client.close()
            self._server.close()
            self._proxy._forget(self)
