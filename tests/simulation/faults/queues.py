# SPDX-License-Identifier: Apache-2.0
"""What happens to queues, exchanges and bindings."""

from __future__ import annotations

from random import Random

from tests.simulation.broker import DEAD_LETTERS, TOPIC
from tests.simulation.faults.draw import span
from tests.simulation.queues import Queue
from tests.simulation.world import World


def full(world: World, random: Random) -> str | None:
    """The queues of one topic, or one of them, or that of dead letters, take nothing more."""
    queues = _published(world)
    if not queues:
        return None
    name = random.choice(queues).name
    if random.random() < 0.5:
        name = name.partition(".")[0] if name != DEAD_LETTERS else name
    concerned = [queue for queue in queues if queue.name == name or queue.name.startswith(f"{name}.")]
    seconds = span(random)
    for queue in concerned:
        queue.full = True

    def end() -> None:
        for queue in concerned:
            queue.full = False

    world.until_healed(seconds, end)
    return f"{name} for {seconds:.2f} s"


def stuck(world: World, random: Random) -> str | None:
    """A queue has lost the majority of its nodes: what is published to it is neither confirmed nor refused."""
    queues = [queue for queue in _published(world) if not queue.stuck]
    if not queues:
        return None
    queue, seconds = random.choice(queues), span(random)
    queue.stuck = True
    world.until_healed(seconds, lambda: world.broker.unstick(queue))
    return f"{queue.name} for {seconds:.2f} s"


def delete(world: World, random: Random) -> str | None:
    """A queue is deleted, with what is in it."""
    queues = [queue for queue in world.broker.queues.values() if not queue.name.startswith(f"{TOPIC}_ledger_lock")]
    if not queues:
        return None
    queue = random.choice(queues)
    world.broker.delete(queue)
    return queue.name


def delete_exchange(world: World, random: Random) -> str | None:
    """An exchange is deleted, with its bindings."""
    exchanges = world.broker.exchanges
    if not exchanges:
        return None
    name = random.choice(list(exchanges))
    del exchanges[name]
    return name


def unbind(world: World, random: Random) -> str | None:
    """A binding of one queue is removed."""
    bound = [
        (exchange, queue)
        for exchange in world.broker.exchanges.values()
        for queues in exchange.bindings.values()
        for queue in queues.values()
    ]
    if not bound:
        return None
    exchange, queue = random.choice(bound)
    exchange.unbind(queue)
    return f"{queue.name} from {exchange.name}"


def replies(world: World, random: Random) -> str | None:
    """The reply queue of a client is gone for a while, or full."""
    missing, name, seconds = world.broker.missing_replies, random.choice(list(world.broker.replies)), span(random)
    is_full = random.random() < 0.5
    missing[name] = is_full
    world.until_healed(seconds, lambda: missing.pop(name, None))
    return f"{name} is {'full' if is_full else 'gone'} for {seconds:.2f} s"


def disorder(world: World, random: Random) -> str | None:
    """What comes back to a queue next comes back in another order."""
    world.broker.disorder_next = True
    return "of what comes back next"


def _published(world: World) -> list[Queue]:
    """The queues of notifications and dead letters."""
    broker = world.broker
    return [
        queue
        for queue in broker.queues.values()
        if queue.name == DEAD_LETTERS or queue.name.partition(".")[0] in broker.topics
    ]
