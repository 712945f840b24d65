# SPDX-License-Identifier: Apache-2.0
"""A process with many clients: ``python -m tests.chaos.load``. It runs until its standard input is closed.

The clients' requests and answers go to a file of JSON lines. The exit code is 1 if a client had an unexpected error.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from tests.chaos.arena import CALLS_ONLY, MOVING, PLACES, TIGHT
from tests.chaos.duplicates import Duplicator
from tests.invariants.collect import Log, RecordingClient
from tests.invariants.record import Place
from tests.support import stock
from tests.support.moving_traffic import MovingScheduler
from tests.support.traffic import Scheduler

LOG = logging.getLogger(__name__)

# In an outage longer than this, calls get StoreUnavailable or time out; most outages are shorter.
_CALL_SECONDS = 20
_LONGEST_PAUSE_SECONDS = 0.12
_READ_SECONDS = 0.1


class Moves(Sequence[tuple[Place, Place]]):
    """What the file of the administrator tells so far, in order. ``run`` reads on, on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: list[tuple[Place, Place]] = []

    def run(self, stopping: threading.Event) -> None:
        with self._path.open(encoding="utf-8") as file:
            whole = ""
            while not stopping.wait(_READ_SECONDS):
                *lines, whole = (whole + file.read()).split("\n")
                for line in lines:
                    source, target = json.loads(line)
                    self._told.append((tuple(source), tuple(target)))

    def __len__(self) -> int:
        return len(self._told)

    def __getitem__(self, index: Any) -> Any:
        return self._told[index]


@click.command()
@click.option("--url", required=True)
@click.option("--log", "path", type=click.Path(path_type=Path), required=True)
@click.option("--name", required=True)
@click.option("--seed", type=int, required=True)
@click.option("--moves", "moves_path", type=click.Path(path_type=Path), required=True, help="What Moves reads.")
@click.option("--threads", type=int, default=4)
def main(url: str, path: Path, name: str, seed: int, moves_path: Path, threads: int) -> None:
    """Run the clients of one process, which share one stock client as the threads of a scheduler do.

    Half of them know only version 1.0 of the RPC API.
    """
    logging.basicConfig(format="%(asctime)s %(threadName)s %(name)s %(levelname)s %(message)s", level=logging.WARNING)
    stopping, failed = threading.Event(), threading.Event()
    log = Log(path)

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except Exception:
                LOG.exception("a client failed")
                failed.set()

        return run

    with stock.client(url, timeout=_CALL_SECONDS, at_least_once=True, amqp_durable_queues=True) as client:
        recording = RecordingClient(client, log, name)
        moves = Moves(moves_path)
        running = [
            threading.Thread(target=guarded(lambda: moves.run(stopping)), name=f"{name}-moves"),
        ]
        for number in range(threads):
            pauses = random.Random(f"{seed}-{name}-{number}")
            kind = MovingScheduler if number % 2 else Scheduler
            scheduler = kind(
                recording,
                name=f"{name}{number}",
                seed=seed,
                places=PLACES,
                tight=TIGHT,
                calls_only=CALLS_ONLY,
                moves=moves,
            )

            def work(scheduler: Scheduler = scheduler, pauses: random.Random = pauses) -> None:
                while not stopping.wait(pauses.uniform(0, _LONGEST_PAUSE_SECONDS)):
                    scheduler.step()

            running.append(threading.Thread(target=guarded(work), name=f"{name}{number}"))
        duplicator = Duplicator(
            url.replace("rabbit://", "amqp://", 1),
            log,
            name=f"{name}-copies",
            seed=seed,
            places=[place for place in PLACES if place[0] not in CALLS_ONLY and place not in MOVING],
        )
        running.append(
            threading.Thread(
                target=guarded(lambda: duplicator.run(stopping.is_set, lambda: bool(stopping.wait(0.2)) and None)),
                name=f"{name}-copies",
            )
        )
        for thread in running:
            thread.start()
        sys.stdin.read()
        stopping.set()
        for thread in running:
            thread.join()
    log.close()
    sys.exit(1 if failed.is_set() else 0)


if __name__ == "__main__":
    main()
