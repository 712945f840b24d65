# SPDX-License-Identifier: Apache-2.0
"""The bus port: what the worker needs from a message bus. A Bus has two sides, a Receiver and a Sender.

A delivery belongs to the bus until it is received, then to the worker until it is settled, once, by exactly one outgoing item
(Reply, DeadLetter or Settlement). A delivery that was received and not settled is delivered again, in order, to the worker that
serves the host next.

            received                  settled, or its message is published and confirmed
    waiting ---------> unsettled ------------------------------------------------------> gone
       ^                   |
       +-------------------+   connection lost, worker stopped or killed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import inf
from typing import Any

import msgspec
from oslo_config import cfg

from tracker_worker.wire.message import JSON, ReplyTo

SHARED = ""
"""The source of a delivery from the topic's own queue, which reaches any one worker."""
FANOUT = "*"
"""The source of a delivery that reaches every worker."""

PING = "oslo_rpc_server_ping"
"""The method of a probe; every worker has it, and as a cast it does nothing."""


class Delivery(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One message as it arrived.

    ``source`` is the host whose queue the message came from, SHARED or FANOUT. ``deadline`` is the time on the monotonic
    clock, in seconds, from which no caller waits for a reply; None: the message has no expiration. ``token`` is for the bus
    itself. ``header_table`` holds the sender's application headers, as the encoded AMQP table arrived (without its length
    prefix); ``headers`` is the decoded mapping, empty where the table cannot be decoded. ``properties`` are the others.
    """

    body: bytes
    source: str
    content_type: str | None = None
    headers: Mapping[str, Any] = msgspec.field(default_factory=dict)
    header_table: bytes = b""
    properties: Mapping[str, Any] = msgspec.field(default_factory=dict)
    exchange: str = ""
    routing_key: str = ""
    deadline: float | None = None
    token: Any = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Publish the reply to a call. The bus settles the delivery when the broker has confirmed the reply, or has returned
    the reply because no queue takes it. ``method`` is what was called, for an error of the bus's own. If the deadline of
    the delivery has passed, the bus does not publish the reply."""

    delivery: Delivery
    reply_to: ReplyTo
    body: bytes
    method: str = ""


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Publish the message, byte for byte and with its properties, to the dead-letter queue with ``reason``. The delivery is
    settled when the broker has confirmed the message."""

    delivery: Delivery
    reason: str


class Settlement(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Settle the delivery; nothing is published for it."""

    delivery: Delivery


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """Publish a notification to one topic, as one message for each of ``bodies``, in this order. The bus reports ``key`` once:
    to ``Listener.confirmed`` when the broker has confirmed all messages, or to ``Listener.refused`` when it does not take one
    of them. After a lost connection the bus publishes again what is not confirmed."""

    key: Any
    topic: str
    priority: str
    bodies: tuple[bytes, ...]
    content_type: str = JSON


Outgoing = Reply | DeadLetter | Settlement | Publication


class RefusedDeadLetter(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A dead letter that the broker does not take. ``properties`` and ``headers`` are encoded as they would have gone out."""

    delivery: Delivery
    reason: str
    exchange: str
    routing_key: str
    properties: bytes
    headers: bytes
    broker_error: str


class RefusedPublication(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A notification that the broker does not take."""

    key: Any
    reason: str


Refusal = RefusedDeadLetter | RefusedPublication


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """The functions that the bus calls on its own threads. They return immediately and never raise.

    ``opened``: there is a new consuming connection, over which nothing has been handed over yet. ``lost``: that connection is
    gone, and nothing that came over it is handed over any more. All of it that is not settled will be delivered again, so that
    whoever has not decided it yet drops it. ``refused``: the broker does not take these messages, and the bus does not send
    them again; it leaves the delivery of a dead letter unsettled. ``emptied``: see ``Bus.report_empty``.
    """

    received: Callable[[Sequence[Delivery]], None]
    lost: Callable[[], None]
    confirmed: Callable[[Sequence[Any]], None]
    refused: Callable[[Sequence[Refusal]], None]
    died: Callable[[BaseException], None]
    emptied: Callable[[str], None] = lambda host: None
    opened: Callable[[], None] = lambda: None


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """The broker takes no messages: ``reason`` is its own word for the alarm, ``since`` the time on the monotonic clock, in
    seconds, at which the bus learned of it."""

    reason: str
    since: float


class Contact(msgspec.Struct, frozen=True, kw_only=True):
    """What the bus knows of its broker. Times are in seconds on the monotonic clock.

    ``brokers``: their addresses, without logins. ``consuming`` and ``publishing``: whether the connection is open. ``problem``:
    why a connection has ended or was not opened, as far as one is missing. ``consumed``: the sources from whose queues the
    broker delivers. ``heard``: by source, when something last came from its queue on the present connection; of FANOUT also
    when the queue was found to be there. ``probed_since``: since when nothing was in the way of probes; None: something is.
    ``holds_back``: the worker has received so much and not settled it that no further delivery may come. ``silent_since``: when
    the first probe was published that the broker has neither confirmed nor returned since its last answer to one; None: it has
    answered all."""

    brokers: tuple[str, ...] = ()
    consuming: bool
    publishing: bool
    problem: str = ""
    consumed: frozenset[str] = frozenset()
    heard: Mapping[str, float] = msgspec.field(default_factory=dict)
    probed_since: float | None = None
    holds_back: bool = False
    silent_since: float | None = None


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What the broker says about a host: its queue is served from the ledger ``ledger_id``, by a worker that began with
    ``token``."""

    ledger_id: str
    token: str


class MarkerUnavailable(Exception):
    """The marker of a host cannot be seen or written at this moment: look again."""


class MarkerUnwritten(MarkerUnavailable):
    """The broker has not taken the message, as far as is known. A host that had no marker has an empty one now, which keeps
    others away."""


class Markers(ABC):
    """The markers of hosts, for one thread and one block of ``Bus.markers``. Every method raises MarkerUnavailable."""

    @abstractmethod
    def look(self, host: str) -> Marker | None:
        """Return the marker and leave it as it is; None: the host has none, and no ledger owns it."""

    @abstractmethod
    def write(self, host: str, marker: Marker) -> None:
        """Replace the marker, and return once it was read back. The caller has ``locked`` the host. Raises MarkerUnwritten."""

    @abstractmethod
    def locked(self, host: str) -> AbstractContextManager[None]:
        """Keep others from writing the marker of the host until the end of the block."""

    @abstractmethod
    def consumers(self, host: str) -> int:
        """Return how many consumers the queue of the host has; 0 if it does not exist."""

    @abstractmethod
    def answers(self, host: str) -> bool:
        """Whether a worker that consumes the queue of the host answers a ping within two seconds."""


class Receiver(ABC):
    """The side that consumes."""

    @abstractmethod
    def settle(self, deliveries: Iterable[Delivery]) -> None:
        """These deliveries are finished and are not delivered again; for one that is settled already this does nothing. Any
        thread; returns immediately."""

    @abstractmethod
    def is_current(self, delivery: Delivery) -> bool:
        """Whether the delivery came over the connection that is open now; one that did not is delivered again, whatever
        happens to it here. Any thread; costs little."""


class Sender(ABC):
    """The side that publishes. What is sent while there is no broker is published when there is one again."""

    @abstractmethod
    def send(self, outgoing: Sequence[Outgoing]) -> None:
        """Publish and settle these items in this order. One thread at a time; returns immediately."""

    @abstractmethod
    def heartbeat(self, reply_to: ReplyTo, body: bytes) -> None:
        """Publish a heartbeat of a call that is still being processed; it may be lost. Any thread; returns immediately."""


class Bus(ABC):
    """Starts and stops both sides. ``receiver`` and ``sender`` belong to the last ``start``."""

    receiver: Receiver
    sender: Sender
    hold_seconds: float = inf
    """How long ``Listener.received`` may keep the thread that calls it."""

    @abstractmethod
    def start(self, hosts: Sequence[str], listener: Listener) -> None:
        """Begin to serve the hosts' queues in the background. The bus waits for a broker that cannot be reached. One thread."""

    @abstractmethod
    def serve(self, hosts: Collection[str]) -> None:
        """Of the hosts of ``start``, serve exactly these from now on, over later connections too, beside the shared queue and
        fanouts. Before ``start``: from the start on; without a call, all are served. Where a host is left out that is served
        now, the consuming connection is replaced, so that its deliveries return to their queue. Any thread; returns
        immediately."""

    @abstractmethod
    def markers(self) -> AbstractContextManager[Markers]:
        """The markers of hosts for a block, also before ``start``. Any thread. Raises MarkerUnavailable: no broker can be
        reached."""

    @abstractmethod
    def pause(self) -> None:
        """Hand over no further delivery. Any thread."""

    @abstractmethod
    def stop(self, timeout_seconds: float) -> None:
        """Publish and settle the waiting items for at most ``timeout_seconds``, and return unsettled deliveries to their
        queues. Does nothing if the bus is stopped. One thread."""

    @abstractmethod
    def connected(self) -> bool:
        """Whether the bus consumes the hosts' queues and can publish notifications at this moment. Any thread."""

    @abstractmethod
    def contact(self) -> Contact:
        """What the bus knows of its broker at this moment. Any thread; returns immediately."""

    @abstractmethod
    def blocked(self) -> Blocked | None:
        """The broker's alarm; None: the broker takes messages, as far as the bus knows. Any thread."""

    @abstractmethod
    def reload(self, conf: cfg.ConfigOpts) -> None:
        """Read user and password of ``[DEFAULT] transport_url`` again, from the files and the environment that ``conf`` was
        read from, and connect with them if they have changed. What cannot be read is logged, and the old ones hold. One
        thread."""

    @abstractmethod
    def report_empty(self, hosts: Sequence[str]) -> None:
        """Call ``Listener.emptied`` with each of these hosts once no message is ready in the host's queue and everything that
        was delivered from it before has been handed over. A queue that does not exist is empty; the bus need not serve the
        host. These hosts replace those of the call before. Any thread; returns immediately."""

    def figures(self) -> Mapping[str, int]:
        """What the bus counts, by names of ``counters.NAMES``. Any thread."""
        return {}

    def queues(self) -> Mapping[str, tuple[int, int]]:
        """What waits in the bus: name of the queue -> number of messages and of the bytes of their bodies. Any thread."""
        return {}

    @abstractmethod
    def probe(self, hosts: Sequence[str]) -> None:
        """Find out whether requests to these hosts, and to any host, still reach the worker that serves them: publish a cast to
        each that does nothing. What reaches no queue is logged, declared and bound again. Also look whether the queue of
        fanouts is there, from which a standby that gets nothing else learns that it is still heard. ``contact`` has what comes
        of it. Called every 2 s or more often. Any thread; returns immediately."""

    @abstractmethod
    def repair(self) -> None:
        """Declare and bind everything again soon, which changes nothing where nothing is gone. Any thread; returns
        immediately."""
