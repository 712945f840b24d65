# SPDX-License-Identifier: Apache-2.0
"""Nodes that get another name or host: their notifications go on in another stream, with all that they are charged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from tests.invariants import books
from tests.invariants.record import Place, StoredNode
from tests.invariants.replay import Charges, Replay
from tests.invariants.stream import Streams


@dataclass(frozen=True, slots=True, eq=False)
class Move:
    """A node was ``source`` up to the notification ``left`` of that stream, and is ``target`` from the notification ``came`` of
    that stream on. ``charges``: what it was charged."""

    source: Place
    left: int
    target: Place
    came: int
    charges: Charges = field(default_factory=Charges)


def pair(told: Streams) -> tuple[list[Move], list[str]]:
    """Return the moves, and a sentence for each two names of which one tells more moves than the other."""
    left: dict[tuple[Place, Place], list[int]] = defaultdict(list)
    came: dict[tuple[Place, Place], list[int]] = defaultdict(list)
    for place, story in told.items():
        for one in story:
            if "next_host" in one.payload:
                left[place, (one.payload["next_host"], one.payload["next_node"])].append(one.sequence)
            if "previous_host" in one.payload:
                came[(one.payload["previous_host"], one.payload["previous_node"]), place].append(one.sequence)
    moves, violations = [], []
    for source, target in sorted(left.keys() | came.keys()):
        departures, arrivals = left[source, target], came[source, target]
        if len(departures) != len(arrivals):
            violations.append(
                f"{source[0]}/{source[1]} tells of moves to {target[0]}/{target[1]} at {departures}, which tells of them at "
                f"{arrivals}."
            )
        moves += (Move(source, one, target, other) for one, other in zip(departures, arrivals, strict=False))
    return moves, violations


def replays(told: Streams, nodes: Mapping[Place, StoredNode]) -> tuple[dict[Place, Replay], list[Move], list[str]]:
    """Add up the notifications of all nodes in the store. Return the results, the moves and the contradictions.

    A stream goes on after an arrival only when the stream from which the node came has been added up to its departure.
    """
    moves, violations = pair(told)
    leaving = {(move.source, move.left): move for move in moves}
    coming = {(move.target, move.came): move for move in moves}
    gone: set[Move] = set()
    found = {place: books.start(nodes[place].reserved) for place in told if place in nodes}
    waiting = {place: list(reversed(told[place])) for place in found}
    advancing = True
    while advancing:
        advancing = False
        for place, story in waiting.items():
            while story:
                at = place, story[-1].sequence
                arrival, departure = coming.get(at), leaving.get(at)
                if arrival is not None and arrival not in gone:
                    break
                if arrival is not None:
                    violations += _arrive(arrival, found[place])
                violations += books.apply(place, found[place], story.pop(), nodes[place].reserved)
                if departure is not None:
                    left = found[place].exchange(Charges())
                    departure.charges.held.update(left.held)
                    departure.charges.moving.update(left.moving)
                    departure.charges.moves.update(left.moves)
                    found[place].left.add(departure.left)
                    gone.add(departure)
                advancing = True
    for place, story in waiting.items():
        if story:
            violations.append(f"{place[0]}/{place[1]} tells of a node that has not come yet at {story[-1].sequence}.")
    return found, moves, violations


def _arrive(move: Move, replay: Replay) -> Iterator[str]:
    replaced = replay.exchange(move.charges)
    if replaced:
        yield (
            f"{move.target[0]}/{move.target[1]} is charged for {len(replaced)} instances, and another node takes its place at "
            f"{move.came}."
        )


def charged_twice(nodes: Mapping[Place, StoredNode]) -> Iterator[str]:
    """No two nodes of a host are charged for one instance in one role, no two hosts for it as incoming, and no two allocations
    of a host are of one claim."""
    instances: dict[tuple[str, str, str], str] = {}
    incoming: dict[str, str] = {}
    claims: dict[tuple[str, str], tuple[str, str]] = {}
    for (host, node), stored in nodes.items():
        named = [(uuid, held) for uuid, held in stored.held.items()]
        named += [(uuid, held) for (uuid, _), held in stored.moving.items()]
        for uuid, held in named:
            role = "" if held.role == "instance" else f" ({held.role})"
            if (other := instances.setdefault((host, uuid, held.role), node)) != node:
                yield f"Instance {uuid}{role} is charged to {host}/{node} and to {host}/{other}."
            if held.role == "incoming" and (other := incoming.setdefault(uuid, host)) != host:
                yield f"Instance {uuid} is incoming on {host}/{node} and on {other}."
            if (first := claims.setdefault((host, held.claim_id), (uuid, held.role))) != (uuid, held.role):
                yield f"The claim {held.claim_id} on {host} is that of instance {uuid}{role} and of instance {first[0]}."
