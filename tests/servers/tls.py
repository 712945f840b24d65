# SPDX-License-Identifier: Apache-2.0
"""TLS in front of a server on this machine that speaks in the clear."""

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
    """Its port on 127.0.0.1, and the file with the certificate by which clients know it; both are good for the body."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    subprocess.run(
        ("openssl", *_SELF_SIGNED.split(), "-keyout", key, "-out", certificate),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    front = _Front(target_port, context)
    front.thread.start()
    try:
        yield front.port.result(), certificate
    finally:
        front.loop.call_soon_threadsafe(front.loop.stop)
        front.thread.join()


class _Front:
    """One thread for all connections: a TLS connection must not be read and written by two at once."""

    def __init__(self, target_port: int, context: ssl.SSLContext) -> None:
        self._target_port = target_port
        self._context = context
        self.loop = asyncio.new_event_loop()
        self.port: Future[int] = Future()
        self.thread = threading.Thread(target=self._run, name="tls-front", daemon=True)

    def _run(self) -> None:
        server = self.loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context))
        self.port.set_result(server.sockets[0].getsockname()[1])
        self.loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        await asyncio.gather(_pass(reader, inner_writer), _pass(inner_reader, writer))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # either end has gone: so does the other
        while data := await reader.read(_PIECE):
            writer.write(data)
            await writer.drain()
    writer.close()
