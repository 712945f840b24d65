# SPDX-License-Identifier: Apache-2.0
"""What the broker says when it ends a connection or a channel: is a message the reason, and which one, or a queue?"""

from __future__ import annotations

import re
from collections.abc import Iterable

from amqp.exceptions import AMQPError

from tracker_worker.bus.amqp.outgoing import Message

# AMQP 0-9-1, constants: frame-error, syntax-error, unexpected-frame, internal-error; precondition-failed.
_CONNECTION_CODES = frozenset({501, 502, 505, 541})
_CHANNEL_CODES = frozenset({406, 501})
# The exchange is missing, or the user may not publish to it.
_PLACE_CODES = frozenset({403, 404})
# RabbitMQ names the deprecated feature with 541; plugins and services that forbid such queues use the other codes.
_QUEUE_CODES = frozenset({403, 406, 541})
_CONSUME = (60, 20)  # class basic, method consume
_TRANSIENT = re.compile(r"transient[_ -]non-?excl", re.IGNORECASE)
_TOO_LARGE = re.compile(r"message size (\d+)\D.*?larger.*?(\d+)", re.DOTALL)


def connection_ended_for_a_message(error: Exception | None) -> bool:
    """Whether the broker has closed the connection in a way that one message can cause. A lost socket is none: py-amqp's errors
    carry the method of a Close only if one was received."""
    if transient_queue_refused(error):
        return False  # with 541, although no message is the reason
    return isinstance(error, AMQPError) and bool(error.method_sig) and error.reply_code in _CONNECTION_CODES


def channel_ended_for_a_message(error: AMQPError) -> bool:
    return error.reply_code in _CHANNEL_CODES


def channel_ended_for_a_place(error: AMQPError) -> bool:
    return error.reply_code in _PLACE_CODES


def consumer_ended(error: AMQPError) -> bool:
    """Whether the broker has closed a channel because of a consumer on it."""
    return bool(error.method_sig == _CONSUME)


def consumer_refused(error: BaseException | None) -> bool:
    """Whether that was because the user may not read the queue. The text names the queue."""
    return isinstance(error, AMQPError) and consumer_ended(error) and error.reply_code == 403


def transient_queue_refused(error: BaseException | None) -> bool:
    """Whether the broker has refused a queue because it is neither durable nor exclusive. It ends the connection, or the
    channel."""
    return (
        isinstance(error, AMQPError)
        and error.reply_code in _QUEUE_CODES
        and _TRANSIENT.search(str(error.reply_text)) is not None
    )


def size_limit(error: AMQPError) -> int | None:
    """The broker's limit in bytes, if it has closed the channel for a message that is larger (RabbitMQ's max_message_size)."""
    found = _TOO_LARGE.search(str(error.reply_text)) if error.reply_code == 406 else None
    return None if found is None else int(found[2])


def first_larger(messages: Iterable[Message], limit: int) -> Message | None:
    """The message that the broker means: it handles the messages of a channel in order."""
    return next((message for message in messages if message.size > limit), None)
