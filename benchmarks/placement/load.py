# SPDX-License-Identifier: Apache-2.0
"""The load on Placement: one process keeps a fixed number of PUTs in flight, each on a connection of its own, and checks every
answer.

``python -m benchmarks.placement.load`` reads a PutJob as JSON from stdin and writes a PutFigures as JSON to stdout. What is
refused because another request has changed the provider meanwhile (409, ``placement.concurrent_update``) is sent again as Nova
does: at most three times, after a random pause that grows. Meanwhile its connection has another request.
"""

from __future__ import annotations

import gc
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from selectors import EVENT_READ, DefaultSelector

import msgspec

from benchmarks import generator
from benchmarks.placement.http import HEADERS, Connection, encoded
from benchmarks.usage import SETTLE_SECONDS, Meter
from benchmarks.workload import instance

MODULE = "benchmarks.placement.load"
_TIMEOUT_SECONDS = 120
_CONFLICT = b"placement.concurrent_update"
# Nova's report client: the pause before attempt n is random, between 0 and 2 (n - 1) seconds.
_ATTEMPTS = 4
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PutJob:
    """The input. ``provider`` is the uuid of the resource provider, ``watched`` maps names in the figures to process ids."""

    port: int
    provider: str
    in_flight: int
    calls: int
    warmup: int
    seed: str
    watched: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFigures:
    """One measurement, as job.Figures has it. A latency is that of a whole allocation, with its retries and their pauses;
    ``retries`` is the number of PUTs that were sent again.
    """

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_us: Mapping[str, float]
    retries: float


class PutGenerator:
    def __init__(self, job: PutJob) -> None:
        self._job = job
        self._random = random.Random(job.seed)
        address = ("127.0.0.1", job.port)
        self._connections = [Connection(address, _TIMEOUT_SECONDS) for _ in range(job.in_flight)]

    def run(self) -> PutFigures:
        job = self._job
        self._fly(list(self._puts(job.warmup)))
        time.sleep(SETTLE_SECONDS)
        puts = list(self._puts(job.calls))
        gc.collect()
        gc.disable()
        meter, cpu, begun = Meter(job.watched), time.process_time(), time.perf_counter()
        latencies, retries = self._fly(puts)
        seconds, own = time.perf_counter() - begun, time.process_time() - cpu
        used = meter.per_call(job.calls, own)
        latencies.sort()
        return PutFigures(
            calls_per_second=job.calls / seconds,
            p50_ms=latencies[len(latencies) // 2] * 1000,
            p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
            max_ms=latencies[-1] * 1000,
            cpu_us=used,
            retries=retries,
        )

    def _puts(self, calls: int) -> Iterator[bytes]:
        """Allocations for new consumers: the instances of the worker's load, as Nova asks for them."""
        headers = {"Host": f"127.0.0.1:{self._job.port}", **HEADERS}
        for number in range(calls):
            wanted = instance(self._random, number)
            resources = {
                "VCPU": wanted["vcpus"],
                "MEMORY_MB": wanted["memory_mb"],
                "DISK_GB": wanted["root_gb"] + wanted["ephemeral_gb"],
            }
            body = {
                "allocations": {self._job.provider: {"resources": resources}},
                "project_id": wanted["project_id"],
                "user_id": wanted["user_id"],
                "consumer_generation": None,
            }
            yield encoded("PUT", f"/allocations/{wanted['uuid']}", headers, msgspec.json.encode(body))

    def _fly(self, puts: list[bytes]) -> tuple[list[float], int]:
        """Send the PUTs; return each one's latency in seconds, and the number of retries."""
        waiting, paused = deque(range(len(puts))), list[tuple[float, int]]()
        idle, attempts, begun = list(self._connections), [0] * len(puts), [0.0] * len(puts)
        latencies: list[float] = []
        with DefaultSelector() as selector:
            for connection in self._connections:
                selector.register(connection, EVENT_READ)
            while len(latencies) < len(puts):
                now = time.perf_counter()
                while paused and paused[0][0] <= now:
                    waiting.appendleft(heappop(paused)[1])
                while idle and waiting:
                    connection = idle.pop()
                    connection.number = number = waiting.popleft()
                    begun[number] = begun[number] or now
                    attempts[number] += 1
                    connection.send(puts[number])
                until = max(0.0, paused[0][0] - now) if paused and idle else _TIMEOUT_SECONDS
                ready = selector.select(until)
                if not ready and until == _TIMEOUT_SECONDS:
                    raise TimeoutError(f"no answer within {_TIMEOUT_SECONDS} s")
                now = time.perf_counter()
                for key, _ in ready:
                    answered = key.fileobj
                    assert isinstance(answered, Connection)
                    answer = answered.read()
                    if answer is None:
                        continue
                    idle.append(answered)
                    if answer[0] == 204:
                        latencies.append(now - begun[answered.number])
                    else:
                        pause = self._pause(attempts[answered.number], *answer)
                        heappush(paused, (now + pause, answered.number))
        return latencies, sum(attempts) - len(puts)

    def _pause(self, attempts: int, status: int, body: bytes) -> float:
        """Seconds to wait before the request is sent again. Raises RuntimeError: Nova would give up."""
        if status != 409 or _CONFLICT not in body or attempts == _ATTEMPTS:
            raise RuntimeError(f"attempt {attempts} of a PUT failed: {status} {body!r}")
        return self._random.uniform(0, attempts * _PAUSE_SECONDS)


if __name__ == "__main__":
    generator.serve(PutJob, lambda job: PutGenerator(job).run())
