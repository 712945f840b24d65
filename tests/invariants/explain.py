# SPDX-License-Identifier: Apache-2.0
"""Search an order of the requests for an instance that explains its replies and notifications.

For each instance of a host, most of the sent messages must have had their effect exactly once, and each notification
must be the effect of exactly one message (or of time, for a claim that expired). A message that was sent after another
message was answered, or after it in the same queue, takes effect later. The search orders the messages so that each
message gets its recorded reply and causes its recorded notification. The rules (``rules.py``) are written from the
interfaces and share no code with the worker. If no such order exists, an effect was lost, done twice, granted beyond
its limits, or answered wrongly; the search then ignores one of these at a time, to name the violation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.invariants import books, rules
from tests.invariants.books import Replay
from tests.invariants.messages import Message
from tests.invariants.record import RESULT, Heard, Place
from tests.invariants.rules import Deleted, Overlooked, State
from tests.invariants.stream import Streams

_MOST_STATES = 200_000
_FREE = frozenset({books.EXPIRED})
_ABOUT_INSTANCES = frozenset(
    {
        books.BEGUN,
        books.REJECTED,
        books.FINISHED,
        books.RENEWED,
        books.ABORTED,
        books.EXPIRED,
        books.UPDATED,
        books.RELEASED,
    }
)


def explain(sent: Sequence[Message], told: Streams, replays: Mapping[Place, Replay]) -> Iterator[str]:
    """Yield one sentence for each instance whose history has no explanation."""
    asked: dict[tuple[str | None, str], list[Message]] = defaultdict(list)
    for message in sent:
        if message.instance is not None and (not message.parked or message.copies > 1):
            asked[message.request.about, message.instance].append(message)
    happened: dict[tuple[str | None, str], dict[str, list[Heard]]] = defaultdict(lambda: defaultdict(list))
    for (host, node), story in told.items():
        for one in story:
            if one.event_type in _ABOUT_INSTANCES:
                happened[host, one.payload["instance_id"]][node].append(one)
    for key in asked.keys() | happened.keys():
        host, uuid = key
        nodes = {node for place_host, node in told if place_host == host}
        case = _Case(host or "", uuid, asked[key], happened[key], nodes, replays)
        if (violation := case.violation()) is not None:
            yield violation


class _TooMany(Exception):
    """The search has too many states."""


@dataclass(slots=True)
class _Case:
    host: str
    uuid: str
    messages: list[Message]
    events: Mapping[str, list[Heard]]
    nodes: set[str]
    replays: Mapping[Place, Replay]
    _order: list[str] = field(init=False)
    _before: list[int] = field(init=False)
    _behind: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.messages.sort(key=lambda message: message.request.sent_at)
        self._order = sorted(self.events)
        many = range(len(self.messages))
        self._before = [self._mask(lambda i, j=j: self.messages[i].precedes(self.messages[j])) for j in many]
        self._behind = [self._mask(lambda j, i=i: self.messages[i].precedes(self.messages[j])) for i in many]

    def _mask(self, chosen: Callable[[int], bool]) -> int:
        return sum(1 << index for index in range(len(self.messages)) if chosen(index))

    def violation(self) -> str | None:
        try:
            if self._possible(Overlooked()):
                return None
            return self._why()
        except _TooMany:
            return f"Instance {self.uuid} on {self.host} has too many requests at the same time to be explained."

    def _why(self) -> str:
        """Name the one violation without which an order exists."""
        if self._possible(Overlooked(limits=True)):
            return f"Instance {self.uuid} on {self.host} was granted or refused against its limits: {self._limits()}."
        for message in self.messages:
            if message.request.outcome == RESULT and self._possible(Overlooked(reply=message.request.unique_id)):
                return f"{message} was told {message.request.reply}, which is not what happened."
        for message in self.messages:
            if self._possible(Overlooked(loss=message.request.unique_id)):
                if message.request.call:
                    return f"{message} was told {self._told(message)}, but its effect is missing."
                return f"{message} has had no effect and is not in the dead-letter queue."
        for node in self._order:
            for one in self.events[node]:
                if self._possible(Overlooked(event=one.message_id)):
                    return (
                        f"{one.event_type} of instance {self.uuid} at {self.host}/{node} sequence {one.sequence} is "
                        "the effect of no request, or of one that had its effect before."
                    )
        for message in self.messages:
            if self._possible(Overlooked(place=message.request.unique_id)):
                return (
                    f"{message} took effect out of its turn: another message that came before it in time came after it."
                )
        story = ", ".join(
            f"{node}:{one.sequence} {one.event_type}" for node in self._order for one in self.events[node]
        )
        asked = ", ".join(f"{message.request.method} -> {self._told(message)}" for message in self.messages)
        return (
            f"Instance {self.uuid} on {self.host}: no order of its requests ({asked}) explains what happened ({story})."
        )

    @staticmethod
    def _told(message: Message) -> str:
        request = message.request
        return request.error or (f"{request.reply}" if request.outcome == RESULT else request.outcome)

    def _limits(self) -> str:
        decided = [
            f"{one.event_type} at {node} sequence {one.sequence} with "
            f"{dict(self.replays[self.host, node].usage.get(one.sequence - 1, {}))} used"
            for node in self._order
            for one in self.events[node]
            if one.event_type in (books.BEGUN, books.REJECTED)
        ]
        asked = [
            f"{message.request.unique_id} with limits {message.request.args.get('limits')}"
            for message in self.messages
            if message.request.method == "begin_resource_claim"
        ]
        return f"{', '.join(decided)}; asked by {', '.join(asked)}"

    def _possible(self, overlooked: Overlooked) -> bool:
        """Search depth first over (processed messages, explained events on each node)."""
        must = self._mask(
            lambda i: (
                self.messages[i].definite
                and not self.messages[i].parked
                and self.messages[i].request.unique_id != overlooked.loss
            )
        )
        ends = tuple(len(self.events[node]) for node in self._order)
        start: tuple[int, tuple[int, ...], State] = (0, (0,) * len(self._order), None)
        stack, seen = [start], {self._key(start)}
        while stack:
            done, positions, held = stack.pop()
            if positions == ends and done & must == must:
                return True
            for following in self._following(done, positions, held, must, overlooked):
                if (key := self._key(following)) not in seen:
                    seen.add(key)
                    stack.append(following)
            if len(seen) > _MOST_STATES:
                raise _TooMany
        return False

    @staticmethod
    def _key(state: tuple[int, tuple[int, ...], State]) -> tuple[int, tuple[int, ...], str]:
        """What else of the state follows from the explained events."""
        done, positions, held = state
        match held:
            case None:
                return done, positions, ""
            case Deleted():
                return done, positions, "deleted"
            case _:
                return done, positions, f"{held.built} {held.facts.get('os_type')}"

    def _following(
        self, done: int, positions: tuple[int, ...], held: State, must: int, overlooked: Overlooked
    ) -> Iterator[tuple[int, tuple[int, ...], State]]:
        free = self._mask(lambda i: self.messages[i].request.unique_id == overlooked.place)
        waiting = {
            node: self.events[node][position]
            for node, position in zip(self._order, positions, strict=True)
            if position < len(self.events[node])
        }
        for node, one in waiting.items():
            if one.event_type in _FREE or one.message_id == overlooked.event:
                yield done, self._moved(positions, node), rules.after(one, held)
        for index, message in enumerate(self.messages):
            bit = 1 << index
            out_of_turn = self._before[index] & must & ~done & ~free or self._behind[index] & done & ~free
            if done & bit or (out_of_turn and not bit & free):
                continue
            node = rules.node_of(message, self.nodes)
            replayed = self.replays.get((self.host, node)) if node is not None else None
            for event, after in rules.effects(message, held, node, waiting, replayed, overlooked):
                moved = positions if event is None else self._moved(positions, str(event.payload["node"]))
                yield done | bit, moved, after

    def _moved(self, positions: tuple[int, ...], node: str) -> tuple[int, ...]:
        index = self._order.index(node)
        return (*positions[:index], positions[index] + 1, *positions[index + 1 :])
