# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.chaos``, which ``tox -e chaos`` runs. Exit code 1 on a violation. A seed repeats the same faults."""

from __future__ import annotations

import logging
import pickle
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from tests.chaos.arena import Arena
from tests.chaos.faults import FAULTS, SET_BACK, Fault
from tests.chaos.report import Injected, Run, lines, overlong
from tests.invariants import histories
from tests.invariants.check import check
from tests.invariants.record import Evidence
from tests.servers import ensure_binaries
from tests.servers.network import Network, OwnNamespace, StallingProxy

LOG = logging.getLogger(__name__)

_STORES = ("sqlite", "postgresql")


@click.command()
@click.option("--minutes", type=float, default=10, envvar="CHAOS_MINUTES", show_envvar=True, show_default=True,
              help="How long faults are injected, all stores together.")  # fmt: skip
@click.option(
    "--seed", type=int, envvar="CHAOS_SEED", show_envvar=True, help="Draw the faults of an earlier run again."
)
@click.option("--store", "stores", type=click.Choice(_STORES), multiple=True, default=_STORES, show_default=True)
@click.option("--only", help="Only faults whose name contains this.")
@click.option(
    "--proxy", is_flag=True, help="Put a proxy before the broker, as where a run may have no network namespace."
)
@click.option(
    "--set-back",
    is_flag=True,
    help="PostgreSQL also loses its last commits; only what is left is judged, and no answers.",
)
@click.option("--calm", is_flag=True, help="No faults: only the load and the operator.")
@click.option("--without", multiple=True, help="No faults whose name contains this; repeatable.")
def main(
    minutes: float,
    seed: int | None,
    stores: tuple[str, ...],
    only: str | None,
    proxy: bool,
    set_back: bool,
    calm: bool,
    without: tuple[str, ...],
) -> None:
    """Inject random faults under load, then prove that nothing was lost and nothing was done twice."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    ensure_binaries()
    signal.signal(signal.SIGTERM, _end)
    _say(f"seed {seed}; {minutes:g} minutes on {', '.join(stores)}")
    possible = [SET_BACK] if set_back else []
    possible += [
        fault for fault in FAULTS if (only or "") in fault.name and not any(name in fault.name for name in without)
    ]
    possible = [] if calm else possible
    network = (None if proxy else OwnNamespace.enter()) or StallingProxy()
    _say(f"when packets are dropped: {network.kind}")
    judge = histories.check if set_back else check
    runs = [_run(store, seed, minutes * 60 / len(stores), possible, network, judge) for store in stores]
    for line in lines(runs):
        _say(line)
    found = sum(len(run.violations) for run in runs)
    _say(f"seed {seed}: {found} violations")
    sys.exit(1 if found else 0)


def _run(
    store: str,
    seed: int,
    seconds: float,
    faults: Sequence[Fault],
    network: Network,
    judge: Callable[[Evidence], list[str]],
) -> Run:
    directory = Path(tempfile.mkdtemp(prefix=f"tracker-chaos-{store}-"))
    arena = Arena(directory, store, seed, network)
    injected: list[Injected] = []
    notifications = 0
    violations: list[str] = []
    try:
        arena.start()
        arena.wait_answered()
        _inject(arena, seconds, faults, injected)
        evidence = arena.drain()
        notifications = len(evidence.heard)
        with (directory / "evidence.pickle").open("wb") as file:
            pickle.dump(evidence, file)  # for whoever looks for the cause of a violation
        violations = [*judge(evidence), *overlong(arena.requests(), injected)]
    except Exception as error:
        LOG.exception("the run ends early")
        violations = [f"The run on {store} did not come to its end: {error}"]
    finally:
        requests = arena.requests()
        arena.stop()
    for violation in violations[:50]:
        _say(f"VIOLATION {violation}")
    if violations:
        _say(f"logs are kept in {directory}")
    else:
        shutil.rmtree(directory)
    return Run(store, requests, notifications, injected, violations)


def _inject(arena: Arena, seconds: float, faults: Sequence[Fault], injected: list[Injected]) -> None:
    """Inject one fault after the other; each fault must be over before the next."""
    draw = random.Random(f"{arena.seed}-{arena.store}")
    possible = [fault for fault in faults if arena.store in fault.stores]
    started = time.monotonic()
    # Each fault happens once, in any order, and later faults are drawn by weight: otherwise a short run would miss rare faults.
    queue: list[Fault] = draw.sample(possible, len(possible))
    if not possible:
        threading.Event().wait(seconds)
        return
    while time.monotonic() < started + seconds:
        fault = queue.pop() if queue else draw.choices(possible, [fault.weight for fault in possible])[0]
        threading.Event().wait(draw.uniform(0.5, 3))
        began_at = time.monotonic()
        fault.inject(arena, draw)
        over_at = time.monotonic()
        arena.heal()
        arena.wait_answered()
        ended_at = time.monotonic()
        injected.append(Injected(fault.name, began_at, over_at, ended_at))
        _say(f"{ended_at - started:6.1f} s {arena.store}: {fault.name}, over after {ended_at - began_at:.1f} s")


def _end(_number: int, _frame: object) -> None:
    """End the run. Servers and workers are stopped on the way out, and a second signal must not interrupt that."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
