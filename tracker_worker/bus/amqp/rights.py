# SPDX-License-Identifier: Apache-2.0
"""What the users of a virtual host may do, as RabbitMQ's regular expressions.

RabbitMQ asks for ``configure`` of a name to declare or delete it, for ``write`` to publish to an exchange or to bind a queue,
and for ``read`` to consume a queue or to bind to an exchange. On a topic exchange it also compares the routing key: that of a
message with the topic permission ``write``, that of a binding with ``read`` (RabbitMQ, access control). A passive declaration
needs no right.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracker_worker.bus.amqp import topology
from tracker_worker.bus.settings import BrokerSettings
from tracker_worker.errors import ConfigurationError

WORKER, SCHEDULER, BILLING, OPERATOR = ROLES = ("worker", "scheduler", "billing", "operator")

NOTHING = "^$"
"""RabbitMQ's pattern for no name at all."""
_DEFAULT_EXCHANGE = "amq.default"
# The characters that mean something in RabbitMQ's regular expressions (PCRE), outside of a class.
_SPECIAL = re.compile(r"[\\^$.\[\]|()?*+{}]")
_SOME = ".+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Patterns of names for a virtual host, and patterns of routing keys for the topic exchange ``exchange``."""

    configure: str
    write: str
    read: str
    exchange: str
    publish: str
    bind: str


def rights_of(role: str, settings: BrokerSettings, hosts: Sequence[str], reply_prefixes: Sequence[str]) -> Rights:
    """The least that a user needs for its role, one of ROLES.

    ``hosts`` are those that a worker serves, or that the others may send requests to; empty: every host, which no worker may
    have. ``reply_prefixes`` begin the names of clients' reply queues. Raises ConfigurationError: queues of notifications cannot
    be told from those of hosts.
    """
    _check_topics(settings)
    names = _Names(settings, hosts, reply_prefixes)
    if role == WORKER:
        return names.worker()
    return {SCHEDULER: names.scheduler, BILLING: names.billing, OPERATOR: names.operator}[role]()


def escaped(name: str) -> str:
    """A pattern for ``name`` itself."""
    return _SPECIAL.sub(r"\\\g<0>", name)


class _Names:
    """The names of a configuration, as patterns without the anchors."""

    def __init__(self, settings: BrokerSettings, hosts: Sequence[str], reply_prefixes: Sequence[str]) -> None:
        self._every_host = not hosts
        self._control = settings.exchange
        self.exchange = escaped(settings.exchange)
        self.fanout = escaped(topology.fanout_queue(settings, "").exchange)
        self.own_fanout = escaped(topology.fanout_queue(settings, "").name) + _SOME
        self.shared = escaped(topology.shared_queue(settings).name)
        self.hosts = self._of_hosts(topology.host_queue(settings, host).name for host in hosts or [""])
        self.markers = self._of_hosts(topology.ledger_queue(settings, host).name for host in hosts or [""])
        self.locks = self._of_hosts(topology.ledger_lock_queue(settings, host).name for host in hosts or [""])
        self.pings = escaped(topology.PING_REPLIES) + _SOME
        self.dead_letters = escaped(settings.dead_letter_queue)
        self.operators_lock = escaped(settings.dead_letter_lock)
        self.notifications = [f"{escaped(name)}\\.{_SOME}" for name in settings.notification_topics]
        self.watch = escaped(topology.watch_queue(settings, "")) + _SOME
        self.replies = [escaped(prefix) + _SOME for prefix in reply_prefixes]

    def _of_hosts(self, names: Iterable[str]) -> list[str]:
        return [escaped(name) + (_SOME if self._every_host else "") for name in names]

    def worker(self) -> Rights:
        own = [self.shared, *self.hosts]
        return self._rights(
            configure=[
                self.exchange,
                self.fanout,
                *own,
                self.own_fanout,
                *self.markers,
                *self.locks,
                self.pings,
                self.dead_letters,
                *self.notifications,
            ],
            write=[escaped(_DEFAULT_EXCHANGE), self.exchange, *own, self.own_fanout, *self.notifications],
            read=[self.exchange, self.fanout, *own, self.own_fanout, *self.markers, self.pings],
            publish=[*self.notifications, *own],
            bind=[*own, *self.notifications],
        )

    def scheduler(self) -> Rights:
        declared = [self.exchange, self.fanout, *self.replies]
        return self._rights(
            configure=declared, write=declared, read=self.replies, publish=[self.shared, *self.hosts], bind=[]
        )

    def billing(self) -> Rights:
        heard = [*self.notifications, self.watch]
        return self._rights(
            configure=[self.exchange, *heard],
            write=heard,
            read=[self.exchange, *heard],
            publish=[],
            bind=self.notifications,
        )

    def operator(self) -> Rights:
        """Everything that the commands of this program do on the broker: requests as a scheduler, ``watch``, dead letters,
        ``outbox replay`` and ``host adopt``."""
        used = [self.exchange, *self.replies, self.watch, *self.notifications]
        return self._rights(
            configure=[*used, self.fanout, *self.markers, *self.locks, self.operators_lock],
            write=[escaped(_DEFAULT_EXCHANGE), *used, self.fanout],
            read=[self.exchange, *self.replies, self.watch, *self.markers, self.dead_letters],
            publish=[self.shared, *self.hosts, *self.notifications],
            bind=self.notifications,
        )

    def _rights(
        self,
        *,
        configure: Sequence[str],
        write: Sequence[str],
        read: Sequence[str],
        publish: Sequence[str],
        bind: Sequence[str],
    ) -> Rights:
        return Rights(
            configure=_any_of(configure),
            write=_any_of(write),
            read=_any_of(read),
            exchange=self._control,
            publish=_any_of(publish),
            bind=_any_of(bind),
        )


def _any_of(patterns: Sequence[str]) -> str:
    different = list(dict.fromkeys(patterns))
    if not different:
        return NOTHING
    return f"^{different[0]}$" if len(different) == 1 else f"^({'|'.join(different)})$"


def _check_topics(settings: BrokerSettings) -> None:
    """Raises ConfigurationError: the pattern for the queues of a topic of notifications also names queues of requests."""
    taken = [f"{settings.topic}{ending}." for ending in ("", "_ledger", "_ledger_lock")]
    for topic in settings.notification_topics:
        if any(f"{topic}.".startswith(each) or each.startswith(f"{topic}.") for each in taken):
            raise ConfigurationError(
                f"[notifications] topics: no right can tell the queues of the topic {topic} from those of hosts, which begin "
                f"with {settings.topic}. ([tracker] topic)"
            )
