# SPDX-License-Identifier: Apache-2.0
"""The page itself: one HTML document that needs nothing from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

from tracker_worker.service.health.response import Response

_BLOCK = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)


@cache
def page() -> Response:
    """The page. Its content security policy lets the browser run the page's own script and style, ask the worker that has sent
    it, and nothing else: what names and reasons contain is text, whatever it looks like."""
    text = resources.files(__package__).joinpath("page.html").read_text("utf-8")
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for kind, content in _BLOCK.findall(text):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        hashes[kind].append(f"'sha256-{digest}'")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        f"style-src {' '.join(hashes['style'])}; script-src {' '.join(hashes['script'])}"
    )
    headers = {"Content-Security-Policy": policy, "Referrer-Policy": "no-referrer"}
    return Response(200, "text/html; charset=utf-8", text.encode(), headers)
