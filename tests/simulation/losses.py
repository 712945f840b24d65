# SPDX-License-Identifier: Apache-2.0
"""What a broker that loses messages, or gives them out in another order, changes in what clients know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from tests.invariants.record import SENT, UNKNOWN, Request
from tests.simulation.broker import Broker
from tests.simulation.queues import Stored
from tracker_worker.wire.message import JSON, Malformed
from tracker_worker.wire.request import decode_request


def judged(requests: Iterable[Request], broker: Broker) -> Iterator[Request]:
    """The requests as far as they are known to have come to a worker, and when."""
    lost, disordered = _ids(broker.lost), _ids(broker.disordered)
    if not lost and not disordered:
        yield from requests
        return
    end = broker.stage.now
    for request in requests:
        if request.outcome == SENT and request.unique_id in lost:
            yield replace(request, outcome=UNKNOWN)
        elif request.outcome in (SENT, UNKNOWN) and request.unique_id in disordered:
            yield replace(request, ended_at=end)  # by then it had come, whatever came before it
        else:
            yield request


def _ids(messages: Iterable[Stored]) -> set[str]:
    found = set()
    for message in messages:
        try:
            found.add(decode_request(message.body, content_type=JSON).unique_id)
        except Malformed:
            continue  # no request, or a hostile one
    return {unique_id for unique_id in found if unique_id}
