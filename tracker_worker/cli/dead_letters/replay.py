# SPDX-License-Identifier: Apache-2.0
"""Sending dead-lettered messages again to the exchange and the routing key that they were first sent to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from amqp.exceptions import ChannelError

from tracker_worker.cli.dead_letters.message import DeadMessage, sendable_properties
from tracker_worker.cli.dead_letters.places import DeadLetters
from tracker_worker.cli.failures import TIMEOUT, CommandFailed
from tracker_worker.cli.publishing import CONFIRM_SECONDS, Answer, ConfirmedPublisher, NoAnswer, Unsendable


@dataclass(frozen=True, slots=True)
class Outcome:
    """``kept`` is why the message stays in the dead-letter queue; None means that it was sent and removed."""

    message: DeadMessage
    kept: str | None


def send_again(letters: DeadLetters, chosen: Sequence[DeadMessage], *, calls: bool) -> Iterator[Outcome]:
    """Send each message, and remove it from ``letters`` when the broker has confirmed that another queue has it.

    The next message is sent after the previous one was removed: an interruption leaves at most one message that was sent
    and not removed. Without ``calls``, calls are kept. When a message cannot be delivered, the later messages to the same
    target are kept too, because they must not overtake it.

    Raises CommandFailed: the broker does not answer; and what a lost connection raises.
    """
    publisher = ConfirmedPublisher(letters.connection)
    failures: dict[str, str] = {}  # by target
    for message in chosen:
        kept = objection(message, calls=calls)
        if kept is None:
            kept = failures.get(message.target) or _send(publisher, message)
            if kept is None:
                letters.remove(message)
            else:
                failures[message.target] = kept
        yield Outcome(message, kept)


def objection(message: DeadMessage, *, calls: bool) -> str | None:
    """Return why a message must not be sent, or None."""
    if message.call and not calls:
        return "it is a call, whose caller has given up: purge it, or replay it by its number or id"
    if not message.target.strip("/"):
        return "its headers do not say where it was first sent"
    return None


def _send(publisher: ConfirmedPublisher, message: DeadMessage) -> str | None:
    """Return why no queue has the message, or None when the broker has confirmed it."""
    assert message.body is not None
    try:
        published = publisher.publish(
            message.body, sendable_properties(message), exchange=message.exchange, routing_key=message.routing_key
        )
        publisher.wait()
    except NoAnswer:
        raise CommandFailed(
            f"the broker has not confirmed {message.id} within {CONFIRM_SECONDS} s; it is kept, perhaps sent too",
            code=TIMEOUT,
        ) from None
    except Unsendable as error:
        return str(error)
    except ChannelError as error:  # the exchange does not exist, or the user may not publish to it
        return f"the broker refuses it: {error}"
    if published.answer is Answer.RETURNED:
        return f"no queue takes {message.target}: no worker has declared it"
    return None if published.answer is Answer.CONFIRMED else "the broker refuses it: the queue is full, or has failed"
