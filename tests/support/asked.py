# SPDX-License-Identifier: Apache-2.0
"""The command that a worker makes of a request, without a bus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tracker_worker.domain.policy import Policy
from tracker_worker.service.requests.methods import resolve
from tracker_worker.wire.request import Request
from tracker_worker.wire.versions import VERSION


def asked(host: str, method: str, args: Mapping[str, Any], policy: Policy) -> Any:
    """What ``method`` asks of a host. Raises TrackerError: the arguments are wrong."""
    request = Request(
        method=method,
        args=args,
        version=VERSION,
        namespace=None,
        context={},
        unique_id=None,
        reply_to=None,
        monitor_seconds=None,
    )
    return resolve(request, source=host, served=[host], policy=policy).action
