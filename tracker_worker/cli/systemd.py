# SPDX-License-Identifier: Apache-2.0
"""Notifications to systemd, by the protocol of sd_notify(3)."""

from __future__ import annotations

import logging
import os
import socket

LOG = logging.getLogger(__name__)


def notify_systemd(state: str) -> None:
    """Send ``state`` to the socket that NOTIFY_SOCKET names ('@' at its beginning means the abstract name space); without
    NOTIFY_SOCKET do nothing. Never waits. A failure is logged: the worker serves without systemd too."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
            sock.connect("\0" + address[1:] if address.startswith("@") else address)
            sock.sendall(state.encode())
    except OSError as error:
        LOG.warning("systemd is not notified of %s: %s", state, error)
