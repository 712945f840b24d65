# SPDX-License-Identifier: Apache-2.0
"""The simulation itself: one plan is one history, fresh seeds find nothing, and what is planted still fits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.simulation.broker import Message
from tests.simulation.faults import FAULTS, Planned
from tests.simulation.machine import Machine
from tests.simulation.planting import PLANTED, SUBJECTS, plant, read
from tests.simulation.run import Plan, run
from tests.simulation.sqlite import SQLiteDatabase
from tests.simulation.stage import Stage
from tests.simulation.watch import Violation, Watch
from tests.simulation.world import STORES, World
from tests.support.builders import instance_dict
from tracker_worker.errors import StoreUnavailable

OF_DATABASES = ("crash", "pause", "store", "slow commits", "commits in doubt", "no writes", "store set back")
"""Faults that are others on a real database."""
SECONDS = float(os.environ.get("SIMULATION_SECONDS", "60"))


def test_histories_from_fresh_seeds() -> None:
    """A failure names the seed: ``python -m tests.simulation --seed N`` plays it again."""
    first = time.time_ns() % 10**9
    until = time.monotonic() + SECONDS
    count = 0
    while count == 0 or time.monotonic() < until:
        outcome = run(Plan.drawn(first + count))
        assert outcome.violation is None, outcome.plan.command()
        assert outcome.requests > 0
        count += 1


def trace(seed: int, store: str = "memory") -> str:
    """A digest of everything that happens in a short history."""
    outcome = run(Plan(seed=seed, seconds=20, store=store, fault_seconds=1 if store == "sqlite" else 4))
    assert outcome.violation is None
    return hashlib.sha256("\n".join(outcome.trace).encode()).hexdigest()


@pytest.mark.parametrize("store", STORES)
def test_one_seed_is_one_history_in_every_process(store: str) -> None:
    script = f"from tests.simulation.test_simulation import trace; print(trace(5, {store!r}), trace(6, {store!r}))"
    command = [sys.executable, "-c", script]
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


@pytest.mark.parametrize(
    ("name", "store"), [*((name, "memory") for name in FAULTS), *((name, "sqlite") for name in OF_DATABASES)]
)
def test_each_fault_alone_ends_well(name: str, store: str) -> None:
    planned = [Planned(at, name, int(at)) for at in (8.0, 12.0, 20.0)]
    plan = Plan(seed=1, seconds=30, hosts=2, workers=2, faults=planned, store=store)
    outcome = run(plan)
    assert outcome.violation is None
    assert any(f"FAULT {name}: " in line for line in outcome.happened)


@pytest.mark.parametrize("patch", sorted(PLANTED.glob("*.patch")), ids=lambda patch: patch.stem)
def test_a_planted_fault_still_fits(patch: Path, tmp_path: Path) -> None:
    assert read(patch).why
    plant(patch, tmp_path)


def test_every_subject_has_planted_faults() -> None:
    planted = Counter(read(patch).subject for patch in PLANTED.glob("*.patch"))
    assert all(planted[subject] >= 2 for subject in SUBJECTS), planted


def test_a_plan_is_played_again_by_its_command() -> None:
    drawn = Plan.drawn(7)
    assert drawn.with_faults().command() == "python -m tests.simulation --seed 7"
    assert Plan(seed=7, seconds=30).command() == "python -m tests.simulation --seed 7 --virtual-seconds 30"
    other = replace(drawn, store="sqlite" if drawn.store == "memory" else "memory")
    assert other.command() == f"python -m tests.simulation --seed 7 --store {other.store}"
    shorter = replace(drawn, seconds=19.0, faults=())
    assert shorter.text() in shorter.command()
    assert Plan.read(shorter.text()) == shorter


def test_a_number_that_is_used_twice_is_a_violation() -> None:
    world = World(1, hosts=1, workers=1, clients=1)
    told: list[tuple[str, Message]] = []
    world.broker.heard = lambda queue, message: told.append((queue, message))
    world.start()
    world.stage.run(20)
    queue, message = told[0]
    watch = Watch()
    watch.heard(queue, message)
    watch.heard(queue, message)  # a copy
    said = json.loads(json.loads(message.body)["oslo.message"])
    said["message_id"] = "another"
    with pytest.raises(Violation, match="used twice"):
        watch.heard(queue, Message(body=json.dumps({"oslo.message": json.dumps(said)}).encode()))


def test_a_crash_ends_a_transaction_and_gives_its_locks_back() -> None:
    stage = Stage(1)
    database = SQLiteDatabase(stage)
    try:
        first, second = Machine(stage, "w1"), Machine(stage, "w2")
        stores = {machine: database.opened(machine) for machine in (first, second)}
        ended: list[object] = []

        def hold() -> None:
            stores[first].register_host("h1", topic="tracker", version="1", now=1)
            with stores[first].locked(1):
                first.sleep(5)
            ended.append(first)

        def wait() -> None:
            try:
                stores[second].probe(1, 2)
            except StoreUnavailable:
                ended.append(StoreUnavailable)
            stores[second].probe(1, 3)
            ended.append(second)

        first.spawn(hold)
        stage.run(0.5)
        second.spawn(wait)
        stage.run(2.0)
        assert ended == []
        stage.run(2.5)
        assert ended == [StoreUnavailable]  # it waits again
        first.crash()
        stage.run(10)
        assert ended == [StoreUnavailable, second]
        assert database.store.hosts()[0].last_seen_at == 3
    finally:
        database.close()


@pytest.mark.parametrize("store", STORES)
def test_what_was_committed_after_the_copy_is_lost(store: str) -> None:
    world = World(1, hosts=2, workers=1, clients=1, store=store)
    try:
        world.start()
        world.stage.run(10)
        copied = world.database.back_up()
        before = world.store.progress(world.hosts)
        world.clients[0].call("h1", "begin_resource_claim", instance=instance_dict(1, node="n1"))
        world.stage.run(12)
        assert world.store.progress(world.hosts) != before
        world.database.put_back(copied, lambda: None)
        assert world.store.progress(world.hosts) == before
        world.stage.run(20)
        assert len(world.store.histories()) == 2
    finally:
        world.close()
