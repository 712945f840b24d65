# SPDX-License-Identifier: Apache-2.0
"""A scheduler of one thread: the stock client makes one call after the other, TrackerClient keeps many calls in flight.

``python -m benchmarks.client_load`` reads a ClientJob as JSON from stdin and writes a ClientFigures as JSON to stdout.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks import generator
from benchmarks.usage import cpu_seconds
from benchmarks.workload import CONTEXT, LIMITS, instance

STOCK_CLIENT, TRACKER_CLIENT = "oslo.messaging RPCClient", "TrackerClient"
CLIENTS = (STOCK_CLIENT, TRACKER_CLIENT)
# TrackerClient: the number of claims in each begin_many, and the number of these groups in flight.
_CHUNK, _CHUNKS = 64, 2
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientJob:
    """One run of one client. ``server`` is the process id of the worker."""

    client: str
    url: str
    host: str
    calls: int
    warmup: int
    seed: str
    server: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFigures:
    """The figures of one run. ``client_us`` and ``server_us`` are microseconds of CPU per call."""

    calls_per_second: float
    p50_ms: float
    client_us: float
    server_us: float


def run(job: ClientJob) -> ClientFigures:
    """Run the client in a process of its own and return its figures.

    Raises RuntimeError: the client failed; the message holds the end of its stderr.
    """
    return generator.run("benchmarks.client_load", job, ClientFigures)


Claims = Callable[[Sequence[Mapping[str, Any]]], list[float]]
"""Claims each instance and returns the latencies in seconds."""


def _measure(job: ClientJob, claims: Claims) -> ClientFigures:
    rng = random.Random(f"{job.client} {job.seed}")
    claims([instance(rng, number) for number in range(job.warmup)])
    instances = [instance(rng, number) for number in range(job.calls)]
    before, cpu, begun = cpu_seconds(job.server), time.process_time(), time.perf_counter()
    latencies = claims(instances)
    seconds, own = time.perf_counter() - begun, time.process_time() - cpu
    used = cpu_seconds(job.server) - before
    return ClientFigures(
        calls_per_second=job.calls / seconds,
        p50_ms=median(latencies) * 1000,
        client_us=own * 1e6 / job.calls,
        server_us=used * 1e6 / job.calls,
    )


def _stock(job: ClientJob) -> ClientFigures:
    from tests.support import stock

    with stock.client(job.url, timeout=_TIMEOUT_SECONDS, amqp_durable_queues=True) as client:

        def claims(instances: Sequence[Mapping[str, Any]]) -> list[float]:
            latencies = []
            for one in instances:
                begun = time.perf_counter()
                claim = client.prepare(job.host).call(CONTEXT, "begin_resource_claim", instance=one, limits=LIMITS)
                latencies.append(time.perf_counter() - begun)
                assert claim["instance_uuid"] == one["uuid"]
            return latencies

        return _measure(job, claims)


def _tracker(job: ClientJob) -> ClientFigures:
    from tests.wire.stock import configuration
    from tracker_worker.client.pipelined import TrackerClient

    conf = configuration(job.url, amqp_durable_queues=True)
    with TrackerClient(conf) as tracker:

        def claims(instances: Sequence[Mapping[str, Any]]) -> list[float]:
            latencies: list[float] = []
            under_way: deque[tuple[float, Sequence[Mapping[str, Any]], list[Future[Any]]]] = deque()

            def take() -> None:
                begun, chunk, futures = under_way.popleft()
                for one, future in zip(chunk, futures, strict=True):
                    assert future.result()["instance_uuid"] == one["uuid"]
                    latencies.append(time.perf_counter() - begun)

            for first in range(0, len(instances), _CHUNK):
                chunk = instances[first : first + _CHUNK]
                if len(under_way) == _CHUNKS:
                    take()
                futures = tracker.begin_many(CONTEXT, job.host, [(one, LIMITS) for one in chunk])
                under_way.append((time.perf_counter(), chunk, futures))
            while under_way:
                take()
            return latencies

        return _measure(job, claims)


def _run(job: ClientJob) -> ClientFigures:
    return (_stock if job.client == STOCK_CLIENT else _tracker)(job)


if __name__ == "__main__":
    generator.serve(ClientJob, _run)
