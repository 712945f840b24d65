# SPDX-License-Identifier: Apache-2.0
"""A TLS front for a server on this machine that uses no TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

_PIECE = 65536
_SELF_SIGNED = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=broker -addext subjectAltName=IP:127.0.0.1"


@contextmanager
def tls_front(target_port: int, directory: Path) -> Iterator[tuple[int, Path]]:
    """Run a TLS front during the body. Yields its port on 127.0.0.1 and the file with the certificate that clients trust."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        ("openssl", *_SELF_SIGNED.split(), "-keyout", key, "-out", certificate),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    front = _Front(target_port, context)
    front.start()
    try:
        yield front.port.result(), certificate
    finally:
        front.stop()


class _Front:
    """One thread serves all connections: two threads must not read and write one TLS connection at the same time."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target_port = target_port
        self._context = context
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.port: Future[int] = Future()
        self._thread = threading.Thread(target=asyncio.run, args=(self._run(),), name="tls-front", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)
        self.port.set_result(server.sockets[0].getsockname()[1])
        await self._stopping.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            inner, inner_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
            ends.append(inner_writer)
            await asyncio.gather(_pass(reader, inner_writer), _pass(inner, writer))
        finally:
            for end in ends:
                end.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # one end has closed, so the other is closed too
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
