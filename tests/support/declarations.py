# SPDX-License-Identifier: Apache-2.0
"""A broker that only takes declarations, and records them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amqp.exceptions import AccessRefused, ChannelError, NotFound, PreconditionFailed


class Broker:
    """A connection that records the declarations on its channels.

    ``there`` holds the exchanges that exist before; ``refused`` holds queues that exist with other arguments; ``forbidden``
    holds queues that the user may not declare, and whether they exist.
    """

    def __init__(
        self,
        *,
        there: Mapping[str, Any] | None = None,
        refused: tuple[str, ...] = (),
        forbidden: Mapping[str, bool] | None = None,
    ) -> None:
        self.exchanges: dict[str, Any] = dict(there or {})
        self.queues: list[dict[str, Any]] = []
        self.bindings: list[tuple[str, str, str]] = []
        self.refused = refused
        self.forbidden = dict(forbidden or {})

    def channel(self) -> _Channel:
        return _Channel(self)


class _Channel:
    """A channel that the broker closes when it refuses a declaration, as in AMQP. A caller with ``nowait`` gets the error from
    its next synchronous call.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._closed = False
        self._refusal: ChannelError | None = None

    def exchange_declare(self, name: str, type: str, *, passive: bool = False, **options: Any) -> None:
        assert not self._closed
        if passive:
            if name not in self._broker.exchanges:
                self._closed = True
                raise NotFound(name)
            return
        assert name not in self._broker.exchanges
        self._broker.exchanges[name] = {"type": type, **options}

    def queue_declare(self, name: str, *, nowait: bool = False, passive: bool = False, **options: Any) -> None:
        if passive:
            if not self._broker.forbidden.get(name):
                self._closed = True
                raise NotFound(name)
            return
        if not self._closed and name in self._broker.forbidden:
            self._closed = True
            self._refusal = AccessRefused(name)
        if not self._closed and name in self._broker.refused:
            self._closed = True
            self._refusal = PreconditionFailed(name)
        declared = {"queue": name, **options}
        if self._goes_on(nowait) and declared not in self._broker.queues:
            self._broker.queues.append(declared)

    def queue_bind(self, name: str, exchange: str, routing_key: str, *, nowait: bool = False) -> None:
        assert exchange in self._broker.exchanges
        binding = (name, exchange, routing_key)
        if self._goes_on(nowait) and binding not in self._broker.bindings:
            self._broker.bindings.append(binding)

    def _goes_on(self, nowait: bool) -> bool:
        if self._refusal is not None and not nowait:
            raise self._refusal
        assert self._refusal is not None or not self._closed
        return not self._closed

    def close(self) -> None:
        self._closed = True
