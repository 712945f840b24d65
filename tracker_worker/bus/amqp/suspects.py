# SPDX-License-Identifier: Apache-2.0
"""Which message is it for which the broker ends the connection?

The broker ends a connection or a channel for a message that it cannot read, without saying which one it was. Every message that
it had not confirmed is a suspect then, and suspects are tried in small groups on the next connection, a failing group one by
one. Between two groups everything else is published, one round. A marker, which the broker confirms immediately because no
queue gets it, ends each group and each round: when the broker has confirmed it, everything before is cleared.

    round of others, marker -> group, marker -> round of others, marker -> ...

A message is guilty when the broker ends the connection while it is the only message after a marker that was confirmed: it
failed alone, and another message was confirmed in between. A connection that is lost in another way proves nothing.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from tracker_worker.bus.amqp.outgoing import Message

GROUP = 32
GROUP_BYTES = 1024 * 1024


class Suspects:
    """The suspects, in order: ``group`` are tried now and not cleared yet, ``unsent`` are those of them that are to be written
    next, and ``groups`` are tried later. Used under the write turn."""

    def __init__(self) -> None:
        self.group: list[Message] = []
        self.unsent: deque[Message] = deque()
        self.groups: deque[list[Message]] = deque()

    def __iter__(self) -> Iterator[Message]:
        return itertools.chain(self.group, *self.groups)

    def ended(self, unconfirmed: Sequence[Message]) -> Message | None:
        """The broker has ended the connection because of one of these messages. Returns the guilty one once it is known."""
        if not self.group:
            self._accuse(unconfirmed)
            return None
        failed = [message for message in self.group if message in unconfirmed]
        unsent = list(self.unsent)
        self.clear()
        if unsent:
            self.groups.appendleft(unsent)
        if len(failed) == 1:
            return failed[0]
        self.groups.extendleft([message] for message in reversed(failed))
        return None

    def interrupted(self, unconfirmed: Sequence[Message]) -> None:
        """The connection is lost for another reason: the group is tried again."""
        again = [message for message in self.group if message in unconfirmed or message in self.unsent]
        self.clear()
        if again:
            self.groups.appendleft(again)

    def _accuse(self, messages: Iterable[Message]) -> None:
        group: list[Message] = []
        size = 0
        for message in messages:
            if message.retry_before is None:
                continue  # it is not sent again
            if group and (len(group) >= GROUP or size + message.size > GROUP_BYTES):
                self.groups.append(group)
                group, size = [], 0
            group.append(message)
            size += message.size
        if group:
            self.groups.append(group)

    def forget(self, culprit: Message) -> None:
        """The culprit is known otherwise."""
        for group in self.groups:
            if culprit in group:
                group.remove(culprit)

    def clear(self) -> None:
        """The marker after the group is confirmed."""
        self.group = []
        self.unsent.clear()

    def next_group(self) -> list[Message]:
        """The group that is tried next; empty if there is none."""
        self.group = self.groups.popleft() if self.groups else []
        self.unsent.extend(self.group)
        return self.group
