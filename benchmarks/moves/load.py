# SPDX-License-Identifier: Apache-2.0
"""The load of moves: one thread keeps a fixed number of cold migrations under way, each from its begin to its confirmation.

``python -m benchmarks.moves.load`` reads a MoveJob as JSON from stdin and writes a MoveFigures as JSON to stdout. The steps are
those of ``doc/user/moves.md``, four calls one after the other: begin_move_claim and finish_move at the destination, finish_move
and confirm_move at the source. The transport is that of TrackerClient.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any
from uuid import UUID

import tracker_worker.cli.threading_backend  # noqa: F401 first: chooses threads for oslo.service

# isort: split

from benchmarks import generator
from benchmarks.usage import SETTLE_SECONDS, Meter
from benchmarks.workload import CONTEXT, LIMITS, NODE, instance
from tests.wire.stock import configuration
from tracker_worker.bus.settings import read_connection
from tracker_worker.client.pipelined import PipelinedTransport
from tracker_worker.conf.opts import register_client_opts

MODULE = "benchmarks.moves.load"
SOURCE, DESTINATION = "host-1", "host-2"
_TIMEOUT_SECONDS = 120
_CHUNK = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveJob:
    """The input. ``watched`` maps names in the figures to process ids."""

    url: str
    in_flight: int
    moves: int
    warmup: int
    seed: str
    watched: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveFigures:
    """One measurement. A latency is that of a whole move, in milliseconds; ``cpu_us`` is microseconds of CPU per move, by
    process.
    """

    moves_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: Mapping[str, float]


@dataclass(slots=True)
class Travel:
    """A move: the instance, the move's id, what the destination has answered last, and the number of steps taken."""

    instance: dict[str, Any]
    id: str
    begun: float = 0.0
    move: dict[str, Any] = field(default_factory=dict)
    taken: int = 0

    def step(self) -> tuple[str, str, dict[str, Any]]:
        """Host, method and arguments of the next call."""
        match self.taken:
            case 0:
                beginning = {"id": self.id, "kind": "migration", "from_host": SOURCE, "from_node": NODE}
                return (
                    DESTINATION,
                    "begin_move_claim",
                    {"instance": self.instance, "move": beginning, "limits": LIMITS},
                )
            case 1:
                return DESTINATION, "finish_move", {"move_id": self.id}
            case 2:
                told = {"move_id": self.id, "effective_at": self.move["finished_at"], "move": self.move}
                return SOURCE, "finish_move", told
            case _:
                return SOURCE, "confirm_move", {"move_id": self.id, "move": self.move}


_STEPS = 4


class MoveGenerator:
    def __init__(self, job: MoveJob, transport: PipelinedTransport) -> None:
        self._job = job
        self._transport = transport
        self._random = random.Random(job.seed)

    def run(self) -> MoveFigures:
        job = self._job
        self._fly(self._built(job.warmup))
        travels = self._built(job.moves)
        time.sleep(SETTLE_SECONDS)
        meter, cpu, begun = Meter(job.watched), time.process_time(), time.perf_counter()
        latencies = sorted(self._fly(travels))
        seconds, own = time.perf_counter() - begun, time.process_time() - cpu
        return MoveFigures(
            moves_per_second=job.moves / seconds,
            p50_ms=latencies[len(latencies) // 2] * 1000,
            p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
            max_ms=latencies[-1] * 1000,
            cpu_us=meter.per_call(job.moves, own),
        )

    def _built(self, count: int) -> list[Travel]:
        """Claim so many instances at the source and finish their claims; return their moves."""
        travels = [
            Travel(instance(self._random, number), str(UUID(int=self._random.getrandbits(128), version=4)))
            for number in range(count)
        ]
        for first in range(0, count, _CHUNK):
            chunk = travels[first : first + _CHUNK]
            begins = [{"instance": one.instance, "limits": LIMITS} for one in chunk]
            claims = [asked.result() for asked in self._send(SOURCE, "begin_resource_claim", begins)]
            ends = [{"claim_id": claim["claim_id"]} for claim in claims]
            for asked in self._send(SOURCE, "finish_resource_claim", ends):
                assert asked.result()["state"] == "finished"
        return travels

    def _fly(self, travels: Sequence[Travel]) -> list[float]:
        """Make the moves; return each one's latency in seconds. Raises what a step raises."""
        latencies: list[float] = []
        answers: SimpleQueue[tuple[Travel, Future[Any]]] = SimpleQueue()
        following = iter(travels)
        ready = list(islice(following, self._job.in_flight))
        while len(latencies) < len(travels):
            self._take_steps(ready, answers)
            ready = []
            for travel, answer in _arrived(answers):
                travel.move = answer.result()
                travel.taken += 1
                if travel.taken < _STEPS:
                    ready.append(travel)
                    continue
                assert travel.move["state"] == "confirmed", travel.move
                latencies.append(time.perf_counter() - travel.begun)
                ready.extend(islice(following, 1))
        return latencies

    def _take_steps(self, ready: Sequence[Travel], answers: SimpleQueue[tuple[Travel, Future[Any]]]) -> None:
        """Send the next call of each move, those of one method to one host together."""
        groups: defaultdict[tuple[str, str], list[tuple[Travel, dict[str, Any]]]] = defaultdict(list)
        for travel in ready:
            host, method, arguments = travel.step()
            travel.begun = travel.begun or time.perf_counter()
            groups[host, method].append((travel, arguments))
        for (host, method), group in groups.items():
            asked = self._send(host, method, [arguments for _, arguments in group])
            for (travel, _), future in zip(group, asked, strict=True):
                future.add_done_callback(partial(_put, answers, travel))

    def _send(self, host: str, method: str, requests: Sequence[Mapping[str, Any]]) -> list[Future[Any]]:
        return self._transport.send_many(CONTEXT, host, method, requests)


def _put(answers: SimpleQueue[tuple[Travel, Future[Any]]], travel: Travel, answered: Future[Any]) -> None:
    answers.put((travel, answered))


def _arrived(answers: SimpleQueue[tuple[Travel, Future[Any]]]) -> list[tuple[Travel, Future[Any]]]:
    """Wait for an answer; return it and all that have come as well."""
    found = [answers.get(timeout=_TIMEOUT_SECONDS)]
    while True:
        try:
            found.append(answers.get_nowait())
        except Empty:
            return found


def measure(job: MoveJob) -> MoveFigures:
    conf = configuration(job.url, amqp_durable_queues=True)
    register_client_opts(conf)
    transport = PipelinedTransport(read_connection(conf), _TIMEOUT_SECONDS)
    transport.start()
    try:
        return MoveGenerator(job, transport).run()
    finally:
        transport.stop()


if __name__ == "__main__":
    generator.serve(MoveJob, measure)
