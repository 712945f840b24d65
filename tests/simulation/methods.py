# SPDX-License-Identifier: Apache-2.0
"""What the broker does for each method that a worker uses, but for basic.publish and basic.ack, which come all the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.simulation import wire
from tests.simulation.channel import ChannelProblem, ServerChannel
from tests.simulation.queues import Exchange, Queue

if TYPE_CHECKING:
    from tests.simulation.session import Session

_HEARTBEAT_SECONDS = 60  # the client asks for less


def _start_ok(session: Session, number: int, *_: Any) -> None:
    session.say(0, (10, 30), "BlB", (2047, wire.FRAME_MAX, _HEARTBEAT_SECONDS))


def _open(session: Session, number: int, *_: Any) -> None:
    session.say(0, (10, 41), "s", ("",))


def _close(session: Session, number: int, *_: Any) -> None:
    session.say(0, (10, 51))
    session.hang_up()


def _nothing(session: Session, number: int, *_: Any) -> None:
    """There is nothing to do."""


def _open_channel(session: Session, number: int, *_: Any) -> None:
    session.channels[number] = ServerChannel(session, number)
    session.say(number, (20, 11), "S", ("",))


def _close_channel(session: Session, number: int, *_: Any) -> None:
    session.channels.pop(number).drop()
    session.say(number, (20, 41))


def _closed_channel(session: Session, number: int, *_: Any) -> None:
    del session.channels[number]


def _declare_exchange(
    session: Session,
    number: int,
    _ticket: int,
    name: str,
    kind: str,
    passive: bool,
    durable: bool,
    auto_delete: bool,
    _internal: bool,
    nowait: bool,
    _arguments: Any,
) -> None:
    exchanges = session.broker.exchanges
    if name not in exchanges:
        if passive:
            raise _missing("exchange", name)
        exchanges[name] = Exchange(name, kind, durable=durable, auto_delete=auto_delete)
    if not nowait:
        session.say(number, (40, 11))


def _declare_queue(
    session: Session,
    number: int,
    _ticket: int,
    name: str,
    passive: bool,
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    nowait: bool,
    arguments: dict[str, Any],
) -> None:
    broker, owner = session.broker, session if exclusive else None
    queue = broker.queues.get(name)
    if queue is None:
        if passive:
            raise _missing("queue", name)
        options = {"durable": durable, "auto_delete": auto_delete, "owner": owner, "arguments": arguments}
        queue = Queue(name, maker=session.client, **options)
        broker.queues[name] = queue
    elif queue.owner not in (None, session):
        raise ChannelProblem(405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}'")
    elif not passive and queue.declared_with() != (durable, owner, auto_delete, arguments):
        raise ChannelProblem(406, f"PRECONDITION_FAILED - inequivalent arg for queue '{name}' in vhost '/'")
    if not nowait:
        queue.expire(broker.stage.now)
        session.say(number, (50, 11), "sll", (name, len(queue.ready), len(queue.consumers)))


def _bind(
    session: Session, number: int, _ticket: int, name: str, exchange: str, key: str, nowait: bool, _arguments: Any
) -> None:
    queue, found = _found(session, name), session.broker.exchanges.get(exchange)
    if found is None:
        raise _missing("exchange", exchange)
    session.broker.bind(queue, found, key)
    if not nowait:
        session.say(number, (50, 21))


def _delete(session: Session, number: int, _ticket: int, name: str, _unused: bool, _empty: bool, nowait: bool) -> None:
    queue = session.broker.queues.get(name)
    if queue is not None:
        session.broker.delete(queue)
    if not nowait:
        session.say(number, (50, 41), "l", (0,))


def _limit(session: Session, number: int, _size: int, count: int, _global: bool) -> None:
    session.channels[number].limit = count
    session.say(number, (60, 11))


def _consume(
    session: Session,
    number: int,
    _ticket: int,
    name: str,
    tag: str,
    _no_local: bool,
    _no_ack: bool,
    _exclusive: bool,
    nowait: bool,
    _arguments: Any,
) -> None:
    queue = _found(session, name)
    if not nowait:
        session.say(number, (60, 21), "s", (tag,))
    session.channels[number].consume(queue, tag)


def _get(session: Session, number: int, _ticket: int, name: str, no_ack: bool) -> None:
    queue = _found(session, name)
    queue.expire(session.broker.stage.now)
    if queue.ready:
        session.channels[number].hand_out(queue, queue.ready.popleft(), no_ack=no_ack)
    else:
        session.say(number, (60, 72), "s", ("",))


def _reject(session: Session, number: int, tag: int, requeue: bool) -> None:
    session.channels[number].reject(tag, requeue)


def _select(session: Session, number: int, nowait: bool) -> None:
    session.channels[number].confirms = True
    if not nowait:
        session.say(number, (85, 11))


def _found(session: Session, name: str) -> Queue:
    queue = session.broker.queues.get(name)
    if queue is None:
        raise _missing("queue", name)
    return queue


def _missing(what: str, name: str) -> ChannelProblem:
    return ChannelProblem(404, f"NOT_FOUND - no {what} '{name}' in vhost '/'")


METHODS: dict[tuple[int, int], tuple[str, Callable[..., None]]] = {
    (10, 11): ("", _start_ok),
    (10, 31): ("", _nothing),  # tune-ok
    (10, 40): ("", _open),
    (10, 50): ("", _close),
    (10, 51): ("", _nothing),  # close-ok
    (20, 10): ("", _open_channel),
    (20, 40): ("", _close_channel),
    (20, 41): ("", _closed_channel),
    (40, 10): ("BssbbbbbF", _declare_exchange),
    (50, 10): ("BsbbbbbF", _declare_queue),
    (50, 20): ("BsssbF", _bind),
    (50, 40): ("Bsbbb", _delete),
    (60, 10): ("lBb", _limit),
    (60, 20): ("BssbbbbF", _consume),
    (60, 70): ("Bsb", _get),
    (60, 90): ("Lb", _reject),
    (85, 10): ("b", _select),
}
"""Class and number of the method -> the format of its arguments ("": they do not matter), and what happens."""
