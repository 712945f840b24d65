# SPDX-License-Identifier: Apache-2.0
"""A shorter plan that still fails: fewer faults, clients, workers and hosts, and less time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.run import Outcome, Plan, run

_LEAST_SECONDS = 10.0
_KIND_CHARACTERS = 60


def minimised(outcome: Outcome, *, real_seconds: float) -> Outcome:
    """The outcome of the shortest plan that was found within so many real seconds; the violation stays of one kind."""
    kind = _kind(outcome)
    until = time.monotonic() + real_seconds
    improved = True
    while improved:
        improved = False
        for plan in _shorter(outcome.plan):
            if time.monotonic() > until:
                return outcome
            tried = run(plan)
            if _kind(tried) == kind:
                outcome, improved = tried, True
                break
    return outcome


def _kind(outcome: Outcome) -> str | None:
    """The beginning of the violation without names and numbers; of an exception, its type and where it was raised."""
    if outcome.violation is None:
        return None
    lines = outcome.violation.strip().splitlines()
    said = " ".join(lines[-3:]) if lines[0].startswith("Traceback") else lines[0]
    return re.sub(r"[\w-]*\d[\w./-]*", "N", said)[:_KIND_CHARACTERS]


def _shorter(plan: Plan) -> Iterator[Plan]:
    """The boldest first."""
    faults = list(plan.faults or ())
    size = len(faults)
    while size > 0:
        for start in range(0, len(faults), size):
            yield replace(plan, faults=tuple(faults[:start] + faults[start + size :]))
        size //= 2
    last = max((fault.at for fault in faults), default=0.0)
    for seconds in (plan.seconds / 2, last + 5, plan.seconds - 5):
        if _LEAST_SECONDS <= seconds < plan.seconds - 1 and seconds > last:
            yield replace(plan, seconds=seconds)
    if plan.hostile:
        yield replace(plan, hostile=False)
    if plan.operator:
        yield replace(plan, operator=False)
    if plan.clients > 1:
        yield replace(plan, clients=1)
        yield replace(plan, clients=plan.clients - 1)
    if plan.hosts > 1:
        yield replace(plan, hosts=1)
        yield replace(plan, hosts=plan.hosts - 1)
    if plan.workers > 1:
        yield replace(plan, workers=plan.workers - 1)
