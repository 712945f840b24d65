# SPDX-License-Identifier: Apache-2.0
"""The load generator: one process and one connection keep a fixed number of calls in flight and check every reply.

``python -m benchmarks.load`` reads a Job as JSON from stdin and writes a Figures as JSON to stdout.
"""

from __future__ import annotations

import array
import gc
import time
from uuid import uuid4

import amqp

from benchmarks import frames, generator
from benchmarks.job import Figures, Job
from benchmarks.usage import SETTLE_SECONDS, Meter, peak_mb, resident_mb
from benchmarks.workload import Workload, requests
from tracker_worker.bus.amqp.frames import publish
from tracker_worker.bus.amqp.internals import encode_properties

_CHANNEL = 1
_TIMEOUT_SECONDS = 120
_POLL_SECONDS = 0.005
_PROPERTIES = {
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "delivery_mode": 2,
    "priority": 0,
    "expiration": "120000",
}
# A successful reply has a null failure; stock servers write a space before null. Both are inside the envelope's JSON text.
_FINE = (b'failure\\":null', b'failure\\": null')
_INDEX_DIGITS = 8


class Generator:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._connection = amqp.Connection(
            job.address, userid=job.user, password=job.password, virtual_host=job.virtual_host, heartbeat=0
        )
        self._connection.connect()
        self._channel = self._connection.channel(_CHANNEL)
        # Notification counts use another channel: only the loop may read this one.
        self._side = self._connection.channel()
        self._replies = self._channel.queue_declare(f"reply_{uuid4().hex}", exclusive=True).queue
        self._channel.basic_consume(self._replies, no_ack=True)
        self._sock = self._connection.transport.sock
        self._sock.settimeout(_TIMEOUT_SECONDS)

    def run(self) -> Figures:
        job = self._job
        self._fly("warm-up", job.warmup)
        time.sleep(SETTLE_SECONDS)
        notified = self._notified()
        meter = Meter(job.watched)
        seconds, own, latencies = self._fly("measured", job.calls)
        lag = self._wait_notified(notified + job.calls) if job.notifications else 0.0
        used = meter.per_call(job.calls, own)
        latencies.sort()
        self._connection.close()
        server = job.watched["server"]
        return Figures(
            calls_per_second=job.calls / seconds,
            p50_ms=latencies[len(latencies) // 2] * 1000,
            p99_ms=latencies[len(latencies) * 99 // 100] * 1000,
            max_ms=latencies[-1] * 1000,
            cpu_us=used,
            notified_after_ms=lag * 1000,
            peak_mb=peak_mb(server),
            resident_mb=resident_mb(server),
        )

    def _fly(self, part: str, calls: int) -> tuple[float, float, list[float]]:
        """Make ``calls`` calls; return the seconds they took, the generator's own CPU seconds, and each call's latency in
        seconds.
        """
        job = self._job
        prefix = uuid4().hex[:-_INDEX_DIGITS]
        load = Workload(
            hosts=job.hosts,
            calls=calls,
            seed=f"{job.seed} {part}",
            others=job.others,
            distance=4 * job.in_flight,
            method=job.method,
        )
        properties, most = encode_properties(_PROPERTIES), self._connection.frame_max
        messages = [
            publish(_CHANNEL, job.exchange, f"{job.topic}.{host}", properties, body, frame_max=most)
            for host, body in requests(load, self._replies, prefix)
        ]
        gc.collect()
        gc.disable()
        cpu, begun = time.process_time(), time.perf_counter()
        latencies = self._loop(messages, prefix.encode())
        ended = time.perf_counter()
        return ended - begun, time.process_time() - cpu, latencies

    def _loop(self, messages: list[bytes], prefix: bytes) -> list[float]:
        calls, sent, done = len(messages), 0, 0
        sent_at = array.array("d", bytes(8 * calls))
        latencies: list[float] = []
        buffer = bytearray()
        while done < calls:
            more = min(self._job.in_flight - (sent - done), calls - sent)
            if more:
                now = time.perf_counter()
                self._sock.sendall(b"".join(messages[sent : sent + more]))
                for number in range(sent, sent + more):
                    sent_at[number] = now
                sent += more
            data = self._sock.recv(1 << 18)
            if not data:
                raise RuntimeError("the broker closed the connection")
            buffer += data
            now = time.perf_counter()
            for body in frames.bodies(buffer):
                if _FINE[0] not in body and _FINE[1] not in body:
                    raise RuntimeError(f"a call failed: {bytes(body)!r}")
                found = body.index(prefix) + len(prefix)
                latencies.append(now - sent_at[int(body[found : found + _INDEX_DIGITS], 16)])
                done += 1
        return latencies

    def _notified(self) -> int:
        """The number of notifications in their queue, which has no consumer."""
        if not self._job.notifications:
            return 0
        return int(self._side.queue_declare(self._job.notifications, passive=True).message_count)

    def _wait_notified(self, count: int) -> float:
        """Wait until ``count`` notifications are in their queue; return the seconds that took.

        Raises TimeoutError: the queue stays shorter for _TIMEOUT_SECONDS.
        """
        begun = time.perf_counter()
        while (found := self._notified()) < count:
            if time.perf_counter() - begun > _TIMEOUT_SECONDS:
                raise TimeoutError(f"{found} of {count} notifications have come")
            time.sleep(_POLL_SECONDS)
        return time.perf_counter() - begun


if __name__ == "__main__":
    generator.serve(Job, lambda job: Generator(job).run())
