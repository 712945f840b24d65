# SPDX-License-Identifier: Apache-2.0
"""The faults around the processes: queues, bindings, exchanges, alarms of the broker, the network, the log's reader."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from tests.chaos.arena import HOSTS, SLOW, Arena
from tests.chaos.fault import Fault, Inject, passes
from tests.support import raw
from tests.support.deadline import wait_until
from tests.support.log_pipe import LogPipe
from tests.support.stock import TOPIC

_FULL_MESSAGES = 10
# With the first topic alone, a notification arrives within a fraction of a second; test machines are busy.
_BILLED_SECONDS = 15
# Within 10 s a worker binds its queues again; test machines are busy.
_BOUND_SECONDS = 20


def _full_topic(arena: Arena, draw: random.Random) -> None:
    """Let the queues of the second topic fill up and refuse for some seconds: billing must hear everything meanwhile."""
    policy = ("--vhost", arena.virtual_host, "full")
    pattern = rf"^{SLOW}\."
    arena.slow.pause()
    # One after the other: a queue that gets a length before it refuses drops its oldest messages.
    for limits in ({"overflow": "reject-publish"}, {"overflow": "reject-publish", "max-length": _FULL_MESSAGES}):
        arena.rabbitmq.ctl("set_policy", *policy, pattern, json.dumps(limits), "--apply-to", "queues")
    try:
        with raw.connect(arena.transport_url) as connection:
            wait_until(lambda: connection.count(f"{SLOW}.info") >= _FULL_MESSAGES, f"{SLOW}.info is full")
        passes(draw.uniform(2, 8))
        arena.wait_billed(_BILLED_SECONDS)
    finally:
        arena.rabbitmq.ctl("clear_policy", *policy)
        arena.slow.resume()


def _unbind(queues: Callable[[random.Random], str]) -> Inject:
    """Take a queue's binding away, and wait until a worker has bound the queue again."""

    def inject(arena: Arena, draw: random.Random) -> None:
        queue = queues(draw)
        with raw.connect(arena.transport_url) as connection:
            connection.channel.queue_unbind(queue, raw.EXCHANGE, queue)
        wait_until(lambda: _is_bound(arena, queue), f"{queue} is bound again", seconds=_BOUND_SECONDS)

    return inject


def _is_bound(arena: Arena, queue: str) -> bool:
    """Whether a message to ``queue``'s routing key has a queue: it expires there at once."""
    with raw.connect(arena.transport_url) as connection:
        return connection.is_routed(queue)


def _delete_exchange(arena: Arena, _draw: random.Random) -> None:
    """Delete the clients' exchange, and with it every binding. The next client makes the exchange again."""
    with raw.connect(arena.transport_url) as connection:
        connection.channel.exchange_delete(raw.EXCHANGE)
    for queue in (TOPIC, *(f"{TOPIC}.{host}" for host in HOSTS)):
        wait_until(lambda queue=queue: _is_bound(arena, queue), f"{queue} is bound again", seconds=_BOUND_SECONDS)


def _alarm(command: str, on: tuple[str, ...], off: tuple[str, ...]) -> Inject:
    """Set off one of the broker's alarms: it reads nothing from connections that publish, clients' and workers'."""

    def inject(arena: Arena, draw: random.Random) -> None:
        arena.rabbitmq.ctl(command, *on)
        try:
            passes(draw.uniform(3, 20))
        finally:
            arena.rabbitmq.ctl(command, *off)

    return inject


def _drop_packets(arena: Arena, draw: random.Random) -> None:
    arena.network.drop(draw.uniform(1, 4))


def _unread_log(arena: Arena, draw: random.Random) -> None:
    """Let nobody read the log of the active worker for some seconds. Its standby is restarted meanwhile."""
    unread, other = draw.sample(arena.workers, 2)
    assert unread.terminate() == 0
    pipe = LogPipe(unread.log_path)
    pipe.start(unread)
    unread.wait_ready()
    assert other.terminate() == 0
    pipe.hold()
    try:
        arena.wait_answered()
        passes(draw.uniform(2, 10))
        arena.wait_answered()
        other.start()
        other.wait_ready()
    finally:
        pipe.release()


FAULTS = (
    Fault("second topic full", _full_topic, 4),
    Fault("host queue unbound", _unbind(lambda draw: f"{TOPIC}.{draw.choice(list(HOSTS))}"), 4),
    Fault("shared queue unbound", _unbind(lambda draw: TOPIC), 2),
    Fault("exchange deleted", _delete_exchange, 4),
    Fault("disk alarm", _alarm("set_disk_free_limit", ("999GB",), ("50MB",)), 3),
    Fault("memory alarm", _alarm("set_vm_memory_high_watermark", ("absolute", "1000000"), ("0.4",)), 3),
    Fault("packets dropped for 1 to 4 s", _drop_packets, 5),
    Fault("log unread", _unread_log, 4),
)
