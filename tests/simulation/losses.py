# SPDX-License-Identifier: Apache-2.0
"""What clients and billing know of a broker that loses or refuses messages, or gives them out in another order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tests.invariants.record import SENT, UNKNOWN, Heard, Place, Request
from tests.simulation.broker import Broker
from tests.simulation.watch import read_notification
from tracker_worker.wire.message import JSON, Malformed
from tracker_worker.wire.request import decode_request


def judged(requests: Iterable[Request], broker: Broker) -> Iterator[Request]:
    """The requests as far as they are known to have come to a worker, and when."""
    lost = _ids(stored.body for stored in broker.lost)
    # A cast that was refused is decided again, after those behind it, if the worker dies before its dead letter is safe.
    disordered = _ids([*(stored.body for stored in broker.disordered), *broker.refused])
    if not lost and not disordered:
        yield from requests
        return
    end = broker.stage.now
    for request in requests:
        if request.outcome in (SENT, UNKNOWN) and request.unique_id in lost:
            yield replace(request, outcome=UNKNOWN, ended_at=end)  # a copy of it may come at any time
        elif request.outcome in (SENT, UNKNOWN) and request.unique_id in disordered:
            yield replace(request, ended_at=end)  # by then it had come, whatever came before it
        else:
            yield request


def in_order(notifications: Iterable[Heard], broker: Broker, histories: Sequence[str]) -> list[Heard]:
    """The notifications as if each that its queue did not take at first had come in its place: those that were on their way
    behind it may have been taken. ``histories``: the ledger_ids of the database, in their order."""
    ranks = {ledger_id: rank for rank, ledger_id in enumerate(histories)}
    late = {
        (key, read_notification(key, body).message_id) for key, body in broker.untaken if _is_of_a_topic(key, broker)
    }
    heard = list(notifications)
    order: list[int] = []
    streams: dict[tuple[str, Place], list[int]] = defaultdict(list)
    for number, one in enumerate(heard):
        stream, place = streams[one.queue, one.place], len(order)
        if (one.queue, one.message_id) in late:
            late.discard((one.queue, one.message_id))
            behind = (index for index, other in enumerate(stream) if _is_later(heard[other], one, ranks))
            within = next(behind, len(stream))
            if within < len(stream):
                place = order.index(stream[within])
            stream.insert(within, number)
        else:
            stream.append(number)
        order.insert(place, number)
    return [heard[number] for number in order]


def _is_later(one: Heard, other: Heard, ranks: Mapping[str, int]) -> bool:
    """Whether a notification of a stream belongs behind another one, in its history or in a later one."""
    mine, its = one.payload["ledger_id"], other.payload["ledger_id"]
    if mine == its:
        return one.sequence > other.sequence
    return mine in ranks and its in ranks and ranks[mine] > ranks[its]


def _is_of_a_topic(key: str, broker: Broker) -> bool:
    return key.partition(".")[0] in broker.topics


def _ids(bodies: Iterable[bytes]) -> set[str]:
    found = set()
    for body in bodies:
        try:
            found.add(decode_request(body, content_type=JSON).unique_id)
        except Malformed:
            continue  # no request, or a hostile one
    return {unique_id for unique_id in found if unique_id}
