# SPDX-License-Identifier: Apache-2.0
"""What happens to the broker as a whole, and what it does to connections and messages."""

from __future__ import annotations

from random import Random

from tests.simulation.channel import ChannelProblem
from tests.simulation.faults.draw import running, span
from tests.simulation.world import World

# What a broker says when it ends something for another reason than a message, and because of a message that it cannot read.
_CHANNEL_CODES = (
    (311, "CONTENT_TOO_LARGE"),
    (403, "ACCESS_REFUSED"),
    (404, "NOT_FOUND - no exchange 'openstack' in vhost '/'"),
    (406, "PRECONDITION_FAILED"),
    (501, "FRAME_ERROR"),
)
_CONNECTION_CODES = (
    (320, "CONNECTION_FORCED - broker forced connection closure"),
    (501, "FRAME_ERROR"),
    (505, "UNEXPECTED_FRAME"),
    (541, "INTERNAL_ERROR"),
)
_APART_SECONDS = 10.0
"""What the broker ends twice in a row may be ended because of a message: between two of these faults there is more time."""


def restart(world: World, random: Random) -> str | None:
    broker = world.broker
    if not broker.up:
        return None
    keeps, seconds = random.random() < 0.7, span(random, 10.0)
    broker.go_down(keeps=keeps)
    world.until_healed(seconds, broker.come_up)
    return f"for {seconds:.2f} s, {'with what is durable' if keeps else 'and everything is gone'}"


def late_confirms(world: World, random: Random) -> str | None:
    broker, seconds = world.broker, span(random)
    broker.confirm_seconds = random.choice((0.05, 0.5, 5.0))

    def end() -> None:
        broker.confirm_seconds = 0.0

    world.until_healed(seconds, end)
    return f"by up to {broker.confirm_seconds} s, for {seconds:.2f} s"


def close(world: World, random: Random) -> str | None:
    """The broker closes a channel or a connection of a worker."""
    broker, site = world.broker, running(world, random)
    if site is None or site.bus is None or world.stage.now < broker.closed_at + _APART_SECONDS:
        return None
    sessions = [sock.session for sock in site.bus.network.sockets if sock.session.open and sock.session.channels]
    if not sessions:
        return None
    broker.closed_at = world.stage.now
    session = random.choice(sessions)
    if random.random() < 0.5:
        code, text = random.choice(_CONNECTION_CODES)
        session.close(code, text)
        return f"a connection of {site.name} with {code}"
    numbers = [number for number, channel in session.channels.items() if not channel.closed]
    code, text = random.choice(_CHANNEL_CODES)
    lasting = (site.bus.receiver._socket, site.bus.sender._socket) if site.bus._started else ()
    if not numbers or session not in [sock.session for sock in lasting if sock is not None]:
        return None  # what a connection for a moment says is right, and does not end its channel
    session.close_channel(random.choice(numbers), ChannelProblem(code, text))
    return f"a channel of {site.name} with {code}"


def poison(world: World, random: Random) -> str | None:
    """There is something in a notification that the broker cannot read: it closes each connection that brings it."""
    broker, seconds = world.broker, span(random, 60.0)
    if broker.poison_next or broker.poison is not None:
        return None
    broker.poison_next = True

    def end() -> None:
        broker.poison_next, broker.poison = False, None

    world.until_healed(seconds, end)
    return f"the next notification, for {seconds:.2f} s"


def small_messages(world: World, random: Random) -> str | None:
    """The broker takes no large messages; any notification is smaller."""
    broker, seconds = world.broker, span(random)
    before, broker.most_bytes = broker.most_bytes, random.randint(5_000, 20_000)

    def end() -> None:
        broker.most_bytes = before

    world.until_healed(seconds, end)
    return f"of at most {broker.most_bytes} bytes, for {seconds:.2f} s"
