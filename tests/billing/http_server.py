# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that stands for one to which a consumer posts."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """One request. The names of ``headers`` are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class StandIn:
    """Keeps what is posted to paths that begin with ``path``, and answers 204; any other request is answered with 404."""

    def __init__(self, path: str) -> None:
        self.posted: list[Posted] = []
        posted = self.posted

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                accepted = self.path.startswith(path)
                if accepted:
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    posted.append(Posted(path=self.path, headers=headers, body=body))
                self.send_response(204 if accepted else 404)
                self.end_headers()

            def log_message(self, *_arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
