# SPDX-License-Identifier: Apache-2.0
"""Collect the evidence: from stock clients that record their answers, a listener, the queues and the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.invariants.record import (
    ERROR,
    RESULT,
    SENT,
    UNKNOWN,
    Evidence,
    Request,
    line,
)
from tests.invariants.stored import books, opened, recorded
from tests.support import stock
from tests.support.deadline import wait_until
from tracker_worker.errors import TrackerError
from tracker_worker.wire.versions import needed

# isort: split
# Import these after tests.support.stock, which selects threads for oslo.messaging.
import oslo_messaging
from oslo_messaging._drivers import amqp as driver

from tests.invariants.listening import TOPIC, Listener, dead_letters

# A binding is made again within 10 s, and an exchange when the next client publishes.
_NO_QUEUE_SECONDS = 60
_SEND_AGAIN_SECONDS = 0.2

_sending = threading.local()
_add_unique_id = driver._add_unique_id


def _note_unique_id(message: dict[str, Any]) -> None:
    _add_unique_id(message)
    if (copied := getattr(_sending, "copied", None)) is not None:
        message[driver.UNIQUE_ID] = copied
    _sending.unique_id = message[driver.UNIQUE_ID]


# Only this function knows the id that a stock client sends: oslo.messaging does not return it. With _sending.copied, the next
# message is a copy of an earlier one.
driver._add_unique_id = _note_unique_id


class Log:
    """The recorded requests of clients, in memory and (with ``path``) as JSON lines. Thread-safe."""

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.Lock()
        self._requests: list[Request] = []
        self._file = path.open("a", encoding="utf-8") if path is not None else None

    def add(self, request: Request) -> Request:
        with self._lock:
            self._requests.append(request)
            if self._file is not None:
                self._file.write(line(request) + "\n")
                self._file.flush()
        return request

    @property
    def requests(self) -> list[Request]:
        with self._lock:
            return list(self._requests)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class RecordingClient:
    """A stock client that records every request in ``log``.

    Its methods return the record instead of raising the errors of the worker or the broker. A request that the broker
    returns, because it has no queue for it, is sent again, as a copy of the first. Thread-safe, as the client is.
    """

    def __init__(self, client: stock.Client, log: Log, name: str = "") -> None:
        self._client = client
        self._log = log
        self._name = name

    def call(self, host: str | None, method: str, /, **arguments: Any) -> Request:
        """Call a host's topic, or (None) the shared topic."""
        return self._send(host, method, arguments, call=True)

    def cast(self, host: str | None, method: str, /, **arguments: Any) -> Request:
        return self._send(host, method, arguments, call=False)

    def insist(self, host: str | None, method: str, /, **arguments: Any) -> Request:
        """Repeat a call that gets no answer, as a scheduler would. Each repetition is another message."""
        for _ in range(9):
            request = self.call(host, method, **arguments)
            if request.outcome != UNKNOWN and request.error != "store_unavailable":
                return request
        raise AssertionError(f"{method} on {host} is never answered; at last: {request}")

    def _send(self, host: str | None, method: str, arguments: Mapping[str, Any], *, call: bool) -> Request:
        request = self._attempt(host, method, arguments, call=call)
        if not _was_returned(request):
            return self._add(request)
        # Recorded once, however often it is returned: before a return, the client may have sent it over a lost connection.
        self._add(request)
        deadline = time.monotonic() + _NO_QUEUE_SECONDS
        _sending.copied = request.unique_id
        try:
            while _was_returned(request):
                assert time.monotonic() < deadline, (
                    f"for {_NO_QUEUE_SECONDS} s there was no queue for {method} to {host}"
                )
                threading.Event().wait(_SEND_AGAIN_SECONDS)
                request = self._attempt(host, method, arguments, call=call)
        finally:
            _sending.copied = None
        return self._add(request)

    def _add(self, request: Request) -> Request:
        return self._log.add(request) if request.unique_id else request

    def _attempt(self, host: str | None, method: str, arguments: Mapping[str, Any], *, call: bool) -> Request:
        _sending.unique_id = None
        sent_at = time.monotonic()
        outcome: dict[str, Any]
        try:
            if call:
                outcome = {
                    "outcome": RESULT,
                    "reply": self._client.prepare(host, version=needed(method, arguments)).call(
                        stock.CONTEXT, method, **arguments
                    ),
                }
            else:
                self._client.prepare(host, version=needed(method, arguments)).cast(stock.CONTEXT, method, **arguments)
                outcome = {"outcome": SENT}
        except (*stock.UNANSWERED, stock.RETURNED) as error:
            outcome = {"outcome": UNKNOWN, "error": type(error).__name__}
        except TrackerError as error:
            outcome = {"outcome": ERROR, "error": error.code, "facts": error.kwargs}
        except oslo_messaging.RemoteError as error:
            outcome = {"outcome": ERROR, "error": str(error.exc_type)}
        except (RuntimeError, oslo_messaging.NoSuchMethod, oslo_messaging.UnsupportedVersion) as error:
            outcome = {"outcome": ERROR, "error": type(error).__name__}
        return Request(
            # None: the request failed before it had an id, so it was not sent.
            unique_id=_sending.unique_id or "",
            host=host,
            method=method,
            args=arguments,
            call=call,
            sent_at=sent_at,
            ended_at=time.monotonic(),
            client=self._name,
            **outcome,
        )


def _was_returned(request: Request) -> bool:
    return request.error == stock.RETURNED.__name__


def wait_relayed(database_url: str, listening: Listener, **others: Listener) -> None:
    """Wait until every notification has arrived and the relay has stored its confirm, on each topic.

    ``others`` has the listeners of further topics. The worker must be running, and no client may send requests.
    """
    with opened(database_url) as store:

        def lacks() -> list[str]:
            heard = {
                topic: {(one.place, one.sequence) for one in each.heard}
                for topic, each in {TOPIC: listening, **others}.items()
            }
            found = []
            for one in store.backlog():
                place = one.host, one.node
                missing = [number for number in range(1, one.sequence + 1) if (place, number) not in heard[one.topic]]
                if one.cursor != one.sequence or missing:
                    found.append(
                        f"{one.host}/{one.node} on {one.topic}: cursor {one.cursor} of {one.sequence}, {len(missing)} not "
                        f"heard: {missing[:5]}"
                    )
            return found

        wait_until(lambda: not lacks(), lambda: f"every notification is relayed; behind are {lacks()}", seconds=60)


def evidence(
    *,
    requests: Sequence[Request],
    listening: Listener,
    transport_url: str,
    database_url: str,
    others: Mapping[str, Listener] | None = None,
) -> Evidence:
    """Collect all evidence. The worker must be stopped and every notification relayed.

    ``others`` has the listeners of further topics, whose queues may have refused notifications for a while.
    """
    with opened(database_url) as store:
        return Evidence(
            requests=requests,
            heard=listening.heard,
            parked=dead_letters(transport_url),
            nodes=books(store),
            inbox=recorded(store, sorted({request.unique_id for request in requests})),
            others={topic: listening.heard for topic, listening in (others or {}).items()},
        )
