# SPDX-License-Identifier: Apache-2.0
"""Search an order of the requests for an instance that explains its replies and notifications.

For each instance, most of the sent messages must have had their effect exactly once, and each notification
must be the effect of exactly one message (or of time, for a claim that expired). A message that was sent after another
message was answered, or after it in the same queue, takes effect later. The search orders the messages so that each
message gets its recorded reply and causes its recorded notification. The rules (``rules.py``) are written from the
interfaces and share no code with the worker. A node that moves takes what it is charged to its new name and host, between two
requests. If no such order exists, an effect was lost, done twice, granted beyond
its limits, or answered wrongly; the search then ignores one of these at a time, to name the violation. Instances that have
moved themselves are judged by ``instance_moves``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.invariants import books, rules
from tests.invariants.books import Replay
from tests.invariants.messages import Message, parts
from tests.invariants.moves import Move
from tests.invariants.record import RESULT, Heard, Place
from tests.invariants.rules import Allocation, Deleted, Overlooked, State
from tests.invariants.stream import Streams

_MOST_STATES = 200_000
_ABOUT_INSTANCES = frozenset(
    {
        books.BEGUN,
        books.REJECTED,
        books.FINISHED,
        books.RENEWED,
        books.ABORTED,
        books.EXPIRED,
        books.UPDATED,
        books.ADOPTED,
        books.RELEASED,
    }
)


_States = Mapping[str, State]
"""Host -> what it has of the instance."""


def explain(
    sent: Sequence[Message],
    told: Streams,
    replays: Mapping[Place, Replay],
    moves: Sequence[Move] = (),
    *,
    besides: Collection[str] = (),
) -> Iterator[str]:
    """Yield one sentence for each instance whose history has no explanation. Those in ``besides`` are not judged."""
    asked: dict[str, list[Message]] = defaultdict(list)
    for message in (part for whole in sent for part in parts(whole)):
        if message.instance is not None and (not message.parked or message.copies > 1):
            if message.others:
                message = replace(message, definite=False)
            for instance in (message.instance, *message.others):
                asked[instance].append(replace(message, instance=instance) if message.others else message)
    happened: dict[str, dict[Place, list[tuple[int, Heard | Move]]]] = defaultdict(lambda: defaultdict(list))
    for place, story in told.items():
        for one in story:
            if one.event_type in _ABOUT_INSTANCES:
                happened[one.payload["instance_id"]][place].append((one.sequence, one))
    for move in moves:
        for uuid in move.charges.held:
            happened[uuid][move.source].append((move.left, move))
            happened[uuid][move.target].append((move.came, move))
    sources: dict[str, set[str]] = defaultdict(set)
    for move in moves:
        sources[move.target[0]].add(move.source[0])
    nodes: dict[str, set[str]] = defaultdict(set)
    for host, node in told:
        nodes[host].add(node)
    for uuid in (asked.keys() | happened.keys()).difference(besides):
        events = {
            place: [one for _, one in sorted(numbered, key=lambda pair: pair[0])]
            for place, numbered in happened[uuid].items()
        }
        case = _Case(uuid, asked[uuid], events, nodes, replays, sources)
        if (violation := case.violation()) is not None:
            yield violation


class _TooMany(Exception):
    """The search has too many states."""


@dataclass(slots=True)
class _Case:
    uuid: str
    messages: list[Message]
    events: Mapping[Place, list[Heard | Move]]
    nodes: Mapping[str, set[str]]
    replays: Mapping[Place, Replay]
    sources: Mapping[str, Collection[str]]
    """Host -> the hosts from which it has got nodes."""
    _order: list[Place] = field(init=False)
    _hosts: str = field(init=False)
    _before: list[int] = field(init=False)
    _behind: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.messages.sort(key=lambda message: message.request.sent_at)
        self._order = sorted(self.events)
        hosts = {message.request.about or "" for message in self.messages} | {host for host, _ in self._order}
        self._hosts = " and ".join(sorted(hosts))
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
            return f"Instance {self.uuid} on {self._hosts} has too many requests at the same time to be explained."

    def _why(self) -> str:
        """Name the one violation without which an order exists."""
        if self._possible(Overlooked(limits=True)):
            return f"Instance {self.uuid} on {self._hosts} was granted or refused against its limits: {self._limits()}."
        for message in self.messages:
            if message.request.outcome == RESULT and self._possible(Overlooked(reply=message.request.unique_id)):
                return f"{message} was told {message.request.reply}, which is not what happened."
        for message in self.messages:
            if self._possible(Overlooked(loss=message.request.unique_id)):
                if message.request.call:
                    return f"{message} was told {self._told(message)}, but its effect is missing."
                return f"{message} has had no effect and is not in the dead-letter queue."
        for one in self._told_events():
            if self._possible(Overlooked(event=one.message_id)):
                return (
                    f"{one.event_type} of instance {self.uuid} at {_at(one)} is the effect of no request, or of one that had "
                    "its effect before."
                )
        for message in self.messages:
            if self._possible(Overlooked(place=message.request.unique_id)):
                return (
                    f"{message} took effect out of its turn: another message that came before it in time came after it."
                )
        story = ", ".join(f"{_at(one)} {one.event_type}" for one in self._told_events())
        asked = ", ".join(f"{message.request.method} -> {self._told(message)}" for message in self.messages)
        return f"Instance {self.uuid} on {self._hosts}: no order of its requests ({asked}) explains what happened ({story})."

    @staticmethod
    def _told(message: Message) -> str:
        request = message.request
        return request.error or (f"{request.reply}" if request.outcome == RESULT else request.outcome)

    def _told_events(self) -> Iterator[Heard]:
        for place in self._order:
            yield from (one for one in self.events[place] if isinstance(one, Heard))

    def _limits(self) -> str:
        decided = [
            f"{one.event_type} at {_at(one)} with {dict(self.replays[one.place].usage.get(one.sequence - 1, {}))} used"
            for one in self._told_events()
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
        ends = tuple(len(self.events[place]) for place in self._order)
        start: tuple[int, tuple[int, ...], _States] = (0, (0,) * len(self._order), {})
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
    def _key(state: tuple[int, tuple[int, ...], _States]) -> tuple[int, tuple[int, ...], str]:
        """What else of the state follows from the explained events."""
        done, positions, states = state
        texts = []
        for host, held in sorted(states.items()):
            match held:
                case None:
                    pass
                case Deleted():
                    texts.append(f"{host} deleted")
                case _:
                    texts.append(f"{host} {held.built} {held.releases} {held.facts.get('os_type')}")
        return done, positions, " ".join(texts)

    def _following(
        self, done: int, positions: tuple[int, ...], states: _States, must: int, overlooked: Overlooked
    ) -> Iterator[tuple[int, tuple[int, ...], _States]]:
        free = 0
        if overlooked.place is not None:
            free = self._mask(lambda i: self.messages[i].request.unique_id == overlooked.place)
        waiting = {
            place: self.events[place][position]
            for place, position in zip(self._order, positions, strict=True)
            if position < len(self.events[place])
        }
        for place, one in waiting.items():
            host = place[0]
            if isinstance(one, Move):
                moved = _carried(states, one) if place == one.source and waiting.get(one.target) is one else None
                if moved is not None:
                    yield done, self._moved(positions, one.source, one.target), moved
            elif one.message_id == overlooked.event or (
                one.event_type == books.EXPIRED and rules.expires(one, states.get(host))
            ):
                yield done, self._moved(positions, place), {**states, host: rules.after(one, states.get(host))}
        for index, message in enumerate(self.messages):
            bit = 1 << index
            out_of_turn = self._before[index] & must & ~done & ~free or self._behind[index] & done & ~free
            if done & bit or (out_of_turn and not bit & free):
                continue
            host = message.request.about or ""
            node = rules.node_of(message, self.nodes[host])
            replayed = self.replays.get((host, node)) if node is not None else None
            here = {at[1]: one for at, one in waiting.items() if at[0] == host and isinstance(one, Heard)}
            for held in self._had(states, host):
                for event, after in rules.effects(message, held, node, here, replayed, overlooked):
                    moved_on = positions if event is None else self._moved(positions, event.place)
                    yield done | bit, moved_on, {**states, host: after}

    def _had(self, states: _States, host: str) -> Iterator[State]:
        """What the host may have of the instance: a node that has come may have brought the memory of a deletion."""
        held = states.get(host)
        yield held
        if held is None and any(isinstance(states.get(source), Deleted) for source in self.sources.get(host, ())):
            yield Deleted()

    def _moved(self, positions: tuple[int, ...], *places: Place) -> tuple[int, ...]:
        steps = [places.count(place) for place in self._order]
        return tuple(position + step for position, step in zip(positions, steps, strict=True))


def _carried(states: _States, move: Move) -> _States | None:
    """The states after the move of a node that is charged for the instance; None: it is not."""
    held = states.get(move.source[0])
    if not isinstance(held, Allocation) or held.node != move.source[1]:
        return None
    return {**states, move.source[0]: None, move.target[0]: replace(held, node=move.target[1])}


def _at(one: Heard) -> str:
    return f"{one.place[0]}/{one.place[1]} sequence {one.sequence}"
