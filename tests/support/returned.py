# SPDX-License-Identifier: Apache-2.0
"""Makes stock clients of this process learn in time that the broker has returned a request, because it has no queue for it.

oslo.messaging 18.3 raises MessageUndeliverable as soon as it reads the return. The broker's confirm of the returned message
is still to come, and py-amqp takes it for the confirm of the next message on the same channel: from then on, each request
seems to be accepted before it is. Here, the error is raised after the confirm.
"""

from __future__ import annotations

import threading
from typing import Any

from tests.support.messaging import oslo_messaging

# isort: split
# Import this after tests.support.messaging, which selects threads for oslo.messaging.
from oslo_messaging._drivers.impl_rabbit import Connection

_sending = threading.local()
_topic_send = Connection.topic_send
_on_return = Connection.on_return


def install() -> None:
    """Change the driver. Has no effect the second time."""
    Connection.topic_send = _send
    Connection.on_return = staticmethod(_note)


def _send(self: Connection, *args: Any, **kwargs: Any) -> None:
    _sending.returns = []
    try:
        _topic_send(self, *args, **kwargs)
        if _sending.returns:
            raise oslo_messaging.MessageUndeliverable(*_sending.returns[0])
    finally:
        _sending.returns = None


def _note(*returned: Any) -> None:
    # The thread that publishes reads the return and the confirm itself.
    if getattr(_sending, "returns", None) is None:
        _on_return(*returned)
    _sending.returns.append(returned)
