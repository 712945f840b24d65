# SPDX-License-Identifier: Apache-2.0
"""The queues that a worker consumes: declared, bound and consumed at first, and again whenever something of it is gone.

What vanishes while the connection lives is noticed in three ways: the broker cancels the consumer of a deleted queue; a probe
is returned (see ``probes``); and exchanges and the connection's own fanout queue, to which nothing may be published for a
test, are declared and bound again every ten seconds. Declaring and binding what exists changes nothing.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from amqp.exceptions import ChannelError, NotFound, RecoverableConnectionError

from tracker_worker.bus.amqp import internals, refusals, topology
from tracker_worker.bus.amqp.durability import Durability
from tracker_worker.bus.amqp.topology import Queue
from tracker_worker.bus.base import FANOUT
from tracker_worker.threads import random_bytes

LOG = logging.getLogger(__name__)

SIDE_PREFETCH = 16
"""The prefetch of the shared and of the fanout queue; that of ``[bus]`` is shared out over the hosts."""
_CHECK_SECONDS = 10.0
# RabbitMQ itself consumes a queue again that was deleted and is declared before it has cancelled the consumer. Measured with
# RabbitMQ 3.10: such a consumer of a quorum queue gets nothing, while the broker counts its messages as delivered. A queue that
# is gone is therefore declared only when its consumer was cancelled, which takes well under a second.
_CANCEL_SECONDS = 5.0
# A queue that somebody deletes again and again is not declared more often than this.
_PAUSE_SECONDS = 1.0
# So many queues are named when they are consumed again.
_MOST_LINES = 20


class Served:
    """Belongs to the thread of the consuming connection; ``repair`` and ``serve`` may be called on any thread."""

    def __init__(
        self, durability: Durability, hosts: Sequence[str], *, random_bytes: Callable[[int], bytes] = random_bytes
    ) -> None:
        """``hosts`` are those that are served at first; the prefetch is shared out over them."""
        self._durability = durability
        self._settings = settings = durability.settings
        self._random_bytes = random_bytes
        self._wanted = tuple(sorted(hosts))
        self._hosts: tuple[str, ...] = ()  # whose queues the broker delivers, or will
        self.share = max(1, settings.prefetch // max(1, len(hosts)))
        self.sources: dict[str, str] = {}  # by consumer tag, which is the queue's name
        self._queues: dict[str, Queue] = {}
        self._connection: Any = None
        self._channel: Any = None
        self._idle: set[str] = set()  # queues without a consumer of ours: refused, or deleted
        self._refused: set[str] = set()  # refusals that were logged
        self._unreadable: set[str] = set()  # queues that the user may not read, as far as is known
        self._named: set[str] = set()  # those of which that was logged
        self._deleted: dict[
            str, float
        ] = {}  # since when they are known to be gone, while their consumers are not cancelled
        self._failure = ""  # that was logged
        self._limit = 0
        self._unanswered = 0
        self._answers: deque[Callable[[], None] | None] = deque()  # whom each answer of the broker concerns, in order
        self._asked = False
        self._check_at = 0.0
        self._not_before = 0.0

    def declare(self, connection: Any) -> None:
        """Declare everything on a new connection."""
        self._connection = connection
        self._settings = self._durability.settings
        self._hosts = self._wanted
        queues = topology.served(self._settings, self._hosts, self._random_bytes(16).hex())
        self._queues = {queue.name: queue for queue in queues}
        self.sources = {queue.name: queue.source for queue in queues}
        self._idle = set(self._queues)
        refused = topology.declare_served(connection, self._settings, queues, reported=self._refused)
        self._refused = {queue.name for queue in refused} | self._look_at_rights()

    def consume(self, channel: Any, now: float) -> None:
        """Have the broker deliver over this channel; ``now`` is in seconds on the monotonic clock. Does not wait for anything:
        a call of the library that waits reads all the deliveries that come first."""
        self._channel, self._limit, self._unanswered = channel, 0, 0
        self._answers.clear()
        self._consume(self._idle - self._refused)
        self._set_limit(self._limit)  # its answer comes when all queues are consumed
        self._check_at = now + _CHECK_SECONDS

    def answered(self) -> None:
        """The broker has answered a limit."""
        ask = self._answers.popleft()
        if ask is None:
            self._unanswered -= 1
        else:
            ask()

    def ask(self, answered: Callable[[], None]) -> None:
        """Call ``answered`` when everything that the broker has delivered by now has arrived."""
        self._answers.append(answered)
        internals.set_prefetch(self._channel, self._limit)

    def consuming(self) -> bool:
        """Whether the broker delivers."""
        return self._channel is not None and self._unanswered == 0

    def complete(self) -> bool:
        """Whether it delivers from every queue. Any thread."""
        return not self._idle and self._hosts == self._wanted

    def consumed(self) -> frozenset[str]:
        """The sources from whose queues it delivers. Any thread."""
        idle = set(self._idle)
        return frozenset(source for name, source in dict(self.sources).items() if name not in idle)

    def fanout_queue(self) -> str:
        """The name of the connection's own queue."""
        return next(name for name, source in self.sources.items() if source == FANOUT)

    def serve(self, hosts: Collection[str]) -> bool:
        """Serve exactly these hosts from now on. Returns whether the connection has to be replaced: it serves others."""
        self._wanted = tuple(sorted(hosts))
        return not set(hosts).issuperset(self._hosts)

    def repair(self) -> None:
        """Declare, bind and consume everything again soon. Returns immediately."""
        self._asked = True

    def due(self, now: float) -> bool:
        """Whether ``work`` has something to do at ``now`` (seconds on the monotonic clock)."""
        return self._check_is_due(now) or (self._connection is not None and self._hosts != self._wanted)

    def _check_is_due(self, now: float) -> bool:
        return now >= self._check_at or (self._asked and now >= self._not_before)

    def work(self, now: float) -> None:
        """Serve further hosts, and look after what may be gone. Waits for the broker's answers; what it refuses is logged,
        once."""
        self._add_hosts()
        if not self._check_is_due(now):
            return
        asked, self._asked = self._asked, False
        self._check_at = now + _CHECK_SECONDS
        if asked:
            self._not_before = now + _PAUSE_SECONDS
        try:
            gone = topology.declare_exchanges(self._connection, self._settings)
            for exchange in gone:
                LOG.warning("the exchange %s was gone, with its bindings: declared and bound again", exchange)
            everything = asked or bool(gone)
            if everything:
                self._find_deleted(now)
            idle = set(self._idle)  # while the broker is waited for, more may be cancelled: those have their turn later
            if idle:
                queues = [queue for name, queue in self._queues.items() if name in idle]
                self._refused = {
                    queue.name for queue in topology.declare_queues(self._connection, queues, reported=self._refused)
                } | self._look_at_rights()
            again = idle - self._refused
            self._consume(again)
            for name in sorted(again)[:_MOST_LINES]:
                LOG.info("the queue %s is consumed now", name)
            self._bind(everything)
            self._failure = ""
        except ChannelError as error:
            if str(error) != self._failure:
                LOG.error("exchanges and queues are not declared again: %s", error)
            self._failure = str(error)

    def _add_hosts(self) -> None:
        added = [host for host in self._wanted if host not in self._hosts]
        if not added or self._connection is None:
            return
        queues = {queue.name: queue for queue in (topology.host_queue(self._settings, host) for host in added)}
        refused = topology.declare_queues(self._connection, list(queues.values()), reported=self._refused)
        self._refused |= {queue.name for queue in refused}
        self._hosts = tuple(sorted((*self._hosts, *added)))
        self._queues.update(queues)
        self.sources.update((name, queue.source) for name, queue in queues.items())
        self._idle |= queues.keys()
        self._refused |= self._look_at_rights()
        self._consume(queues.keys() - self._refused)

    def _bind(self, everything: bool) -> None:
        """Bind queues that are consumed: all, or the connection's own."""
        there = self._queues.keys() - self._deleted.keys() - self._idle
        queues = [q for name, q in self._queues.items() if name in there and (everything or q.source == FANOUT)]
        try:
            topology.bind(self._connection, queues)
        except NotFound:  # one was deleted meanwhile: only after its consumer was cancelled is it declared
            self._asked = True

    def _find_deleted(self, now: float) -> None:
        """Find out which queues are gone whose consumers have yet to be cancelled. Raises RecoverableConnectionError: one has
        not been cancelled for five seconds."""
        consumed = [queue for name, queue in self._queues.items() if name not in self._idle]
        missing = {queue.name for queue in topology.missing(self._connection, consumed)} - self._idle
        self._deleted = {name: self._deleted.get(name, now) for name in missing}
        self._asked = self._asked or bool(missing)
        if any(since + _CANCEL_SECONDS <= now for since in self._deleted.values()):
            raise RecoverableConnectionError(f"deleted, but not cancelled: {', '.join(sorted(self._deleted))}")

    def adapt(self, error: Exception) -> bool:
        """The connection has ended with ``error``. See ``Durability.adapt``. A queue that the user may not read is left out of
        the next connection, so that it costs nobody else anything."""
        if refusals.consumer_refused(error):
            named = {name for name, source in self.sources.items() if source != FANOUT and f"'{name}'" in str(error)}
            self._unreadable |= named
            if new := named - self._named:
                self._named |= new
                LOG.warning(
                    "the queue %s is not consumed: %s; 'tracker-worker rabbitmq permissions --role worker' prints the rights",
                    ", ".join(sorted(new)),
                    error,
                )
                return True
        return self._durability.adapt(error, self._settings)

    def _look_at_rights(self) -> set[str]:
        """Returns the queues that the user still may not read."""
        for name in sorted(self._unreadable & self._queues.keys()):
            if topology.may_consume(self._connection, name):
                self._unreadable.discard(name)
                LOG.info("the queue %s may be read again", name)
        return set(self._unreadable)

    def forget(self) -> None:
        """The connection is lost."""
        self._deleted.clear()
        self._connection = self._channel = None
        self._hosts = ()
        self._asked = False

    def _consume(self, names: AbstractSet[str]) -> None:
        own = set(self._hosts)
        for name, queue in self._queues.items():
            if name in names:
                # Quorum queues refuse a limit for the whole channel. This one is per consumer, and holds for those that follow.
                limit = self.share if queue.source in own else SIDE_PREFETCH
                if limit != self._limit:
                    self._set_limit(limit)
                self._channel.basic_consume(name, consumer_tag=name, nowait=True, on_cancel=self._cancelled)
                self._idle.discard(name)

    def _set_limit(self, limit: int) -> None:
        self._limit = limit
        self._unanswered += 1
        self._answers.append(None)
        internals.set_prefetch(self._channel, limit)

    def _cancelled(self, name: str) -> None:
        queue = self._queues[name]
        LOG.warning(
            "the queue %s (exchange %s, key %s) was deleted; it will be declared, bound and consumed again",
            name,
            queue.exchange,
            queue.routing_key,
        )
        self._idle.add(name)
        self._deleted.pop(name, None)
        self._asked = True
