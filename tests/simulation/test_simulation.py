# SPDX-License-Identifier: Apache-2.0
"""The simulation itself: one plan is one history, fresh seeds find nothing, and what is planted still fits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.broker import Message
from tests.simulation.faults import FAULTS, Planned
from tests.simulation.planting import PLANTED, plant
from tests.simulation.run import Plan, run
from tests.simulation.watch import Violation, Watch
from tests.simulation.world import World

SECONDS = float(os.environ.get("SIMULATION_SECONDS", "60"))


def test_histories_from_fresh_seeds() -> None:
    """A failure names the seed: ``python -m tests.simulation --seed N`` plays it again."""
    first = time.time_ns() % 10**9
    until = time.monotonic() + SECONDS
    count = 0
    while count == 0 or time.monotonic() < until:
        outcome = run(Plan(seed=first + count, seconds=60))
        assert outcome.violation is None, f"python -m tests.simulation --seed {first + count} --virtual-seconds 60"
        assert outcome.requests > 500
        count += 1


def trace(seed: int) -> str:
    """A digest of everything that happens in a short history."""
    outcome = run(Plan(seed=seed, seconds=20))
    assert outcome.violation is None
    return hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()


def test_one_seed_is_one_history_in_every_process() -> None:
    command = [sys.executable, "-c", "from tests.simulation.test_simulation import trace; print(trace(5), trace(6))"]
    told = {
        subprocess.run(
            command,
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    [digests] = told
    assert len(set(digests.split())) == 2


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_alone_ends_well(name: str) -> None:
    plan = Plan(seed=1, seconds=30, hosts=2, workers=2, faults=[Planned(at, name, int(at)) for at in (8.0, 12.0, 20.0)])
    outcome = run(plan)
    assert outcome.violation is None
    assert any(f"FAULT {name}: " in line for line in outcome.happened)


@pytest.mark.parametrize("patch", sorted(PLANTED.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_planted_fault_still_fits(patch: Path, tmp_path: Path) -> None:
    plant(patch, tmp_path)


def test_a_number_that_is_used_twice_is_a_violation() -> None:
    world = World(1, hosts=1, workers=1, clients=1)
    world.start()
    world.stage.run(20)
    queue, message = world.broker.notifications[0]
    watch = Watch()
    watch.heard(queue, message)
    watch.heard(queue, message)  # a copy
    said = json.loads(json.loads(message.body)["oslo.message"])
    said["message_id"] = "another"
    with pytest.raises(Violation, match="used twice"):
        watch.heard(queue, Message(body=json.dumps({"oslo.message": json.dumps(said)}).encode()))
