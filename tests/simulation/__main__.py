# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.simulation``: play histories from fresh seeds, or one from a given seed with its trace."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.simulation.minimise import minimised
from tests.simulation.run import Outcome, Plan, run
from tests.simulation.world import STORES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this history only, and show its trace")
    parser.add_argument("--first", type=int, default=time.time_ns() % 10**9, help="the first of the seeds")
    parser.add_argument("--for-seconds", type=float, default=60.0, help="of one processor (60)")
    parser.add_argument(
        "--virtual-seconds",
        type=float,
        help="all histories are of one shape, and so long (each has a shape of its own)",
    )
    parser.add_argument("--store", choices=STORES, help="the store of the workers (drawn)")
    parser.add_argument("--plan", help="play the plan in this file, which --minimise has written, and show its trace")
    parser.add_argument("--minimise", metavar="FILE", help="write the shortest plan that still fails; with --seed")
    options = parser.parse_args()
    if options.plan is not None:
        return _play(Plan.read(Path(options.plan).read_text(encoding="utf-8")), None, 0)
    if options.seed is not None:
        plan = Plan.chosen(options.seed, seconds=options.virtual_seconds, store=options.store)
        return _play(plan, options.minimise, options.for_seconds)
    return _search(options.first, options.for_seconds, options.virtual_seconds, options.store)


def _play(plan: Plan, minimise: str | None, real_seconds: float) -> int:
    outcome = run(plan)
    if minimise is not None and outcome.violation is not None:
        outcome = minimised(outcome, real_seconds=real_seconds)
        Path(minimise).write_text(outcome.plan.text() + "\n", encoding="utf-8")
    print("\n".join(outcome.happened), *outcome.trace, sep="\n")
    _show(outcome)
    return int(outcome.violation is not None)


def _search(seed: int, real_seconds: float, virtual_seconds: float | None, store: str | None) -> int:
    began = time.process_time()
    played = 0.0
    count = 0
    while time.process_time() - began < real_seconds:
        outcome = run(Plan.chosen(seed + count, seconds=virtual_seconds, store=store))
        count += 1
        played += outcome.ended_at
        if outcome.violation is not None:
            print(f"{count} histories in {time.process_time() - began:.0f} s")
            _show(outcome)
            return 1
    passed = time.process_time() - began
    print(
        f"{count} histories from seed {seed}, {played:.0f} virtual seconds ({played / passed:.0f} times real time): nothing"
    )
    return 0


def _show(outcome: Outcome) -> None:
    plan = outcome.plan
    print(f"seed {plan.seed}: {outcome.steps} steps, {outcome.requests} requests, {len(plan.faults or ())} faults")
    print(f"violation at {outcome.ended_at:.4f} s: {outcome.violation}" if outcome.violation else "nothing found")
    print(f"again: {plan.command()}")


if __name__ == "__main__":
    sys.exit(main())
