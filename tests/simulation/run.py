# SPDX-License-Identifier: Apache-2.0
"""One history from one plan: traffic with faults, then a time without faults in which everything has to come right."""

from __future__ import annotations

import gc
import json
import logging
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from random import Random

from tests.simulation import faults, watch
from tests.simulation.world import World

CALM_SECONDS = 60.0
START_SECONDS = 5.0
"""Nothing goes wrong before this time."""
_UNDER_WAY_SECONDS = 0.5
_STEPS_BETWEEN = 1000
_TRACE_LINES = 400
_COLLECTS = 50_000, 50, 50
"""Thresholds of the collection of cycles: what is remembered of a history has none, and most of what else there is, is that."""
_TWO_TOPICS_OF = 4
"""One of so many seeds has two topics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``faults`` None: they are drawn from the seed, one in ``fault_seconds`` on average, of these ``kinds``; None: of all.
    ``rate``: requests a second of all clients. ``prefetch``: of each worker; None: as usual. ``store``: one of STORES.
    ``topics``: of notifications; None: the seed says how many. ``hostile`` and ``operator``: whether there is such a client and
    an operator. The same plan always gives the same history."""

    seed: int
    seconds: float = 120.0
    hosts: int = 6
    workers: int = 3
    clients: int = 4
    rate: float = 50.0
    fault_seconds: float = 4.0
    store: str = "memory"
    topics: int | None = None
    faults: Sequence[faults.Planned] | None = None
    hostile: bool = True
    operator: bool = True
    prefetch: int | None = None
    kinds: Sequence[str] | None = None

    @classmethod
    def drawn(cls, seed: int) -> Plan:
        """A history of a shape of its own: short or long, of few or many, quiet or stormy, and with some kinds of faults only.
        A fault that others would hide is found where those cannot happen."""
        random = Random(f"{seed} plan")
        share = random.choice((0.03, 0.1, 0.2, 0.4, 1.0))
        rate = float(random.choice((5, 15, 30, 60, 60, 200)))
        return cls(
            seed=seed,
            seconds=round(20 * min(10 ** random.random(), 400 / rate)),
            hosts=random.randint(1, 6),
            workers=random.choice((1, 2, 2, 3, 3, 4)),
            clients=random.randint(1, 6),
            rate=rate,
            fault_seconds=random.choice((1.0, 3.0, 6.0, 20.0)),
            store=random.choice(("memory", "memory", "memory", "sqlite")),
            hostile=random.random() < 0.5,
            operator=random.random() < 0.5,
            prefetch=random.choice((8, 32, None, None, 2048)),
            kinds=[name for name in faults.FAULTS if random.random() < share] or [random.choice(list(faults.FAULTS))],
        )

    @classmethod
    def chosen(cls, seed: int, *, seconds: float | None = None, store: str | None = None) -> Plan:
        """The plan of a seed: drawn from it, or of the usual shape and so many ``seconds``; and with this ``store``."""
        plan = cls.drawn(seed) if seconds is None else cls(seed=seed, seconds=seconds)
        return plan if store is None else replace(plan, store=store)

    def command(self) -> str:
        """What plays the plan again."""
        for seconds, store in product((None, self.seconds), (None, self.store)):
            if Plan.chosen(self.seed, seconds=seconds, store=store).with_faults() == self.with_faults():
                arguments = "" if seconds is None else f" --virtual-seconds {seconds:g}"
                arguments += "" if store is None else f" --store {store}"
                return f"python -m tests.simulation --seed {self.seed}{arguments}"
        return f"python -m tests.simulation --plan FILE, where FILE has: {self.text()}"

    def text(self) -> str:
        """The plan as JSON."""
        return json.dumps(asdict(self.with_faults()))

    @classmethod
    def read(cls, text: str) -> Plan:
        """The plan that ``text`` wrote."""
        said = json.loads(text)
        return cls(**{**said, "faults": tuple(faults.Planned(**fault) for fault in said["faults"])})

    def with_faults(self) -> Plan:
        """The same plan with its faults drawn."""
        if self.faults is not None:
            return self
        random = Random(f"{self.seed} faults")
        planned = []
        at = START_SECONDS
        while (at := at + random.expovariate(1 / self.fault_seconds)) < self.seconds:
            planned.extend(faults.drawn(random, at, self.kinds))
        return replace(self, faults=tuple(planned))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """``violation`` None: nothing was wrong. ``ended_at``: in virtual seconds. ``steps`` and ``requests`` count what
    happened; ``happened`` has the lines of the faults, ``trace`` the last lines of all."""

    plan: Plan
    violation: str | None = None
    ended_at: float = 0.0
    steps: int = 0
    requests: int = 0
    happened: list[str] = field(default_factory=list)
    trace: list[str] = field(default_factory=list)


def run(plan: Plan) -> Outcome:
    """Play the plan to its end, or to the first violation."""
    plan = plan.with_faults()
    outcome = Outcome(plan=plan)
    topics = plan.topics or (2 if plan.seed % _TWO_TOPICS_OF == 0 else 1)
    world = World(
        plan.seed,
        hosts=plan.hosts,
        workers=plan.workers,
        clients=plan.clients,
        prefetch=plan.prefetch,
        store=plan.store,
        topics=topics,
    )
    trace = _Trace(world)
    before, collects = (logging.root.handlers, logging.root.level), gc.get_threshold()
    gc.set_threshold(*_COLLECTS)
    logging.root.handlers, logging.root.level = [trace], logging.INFO
    try:
        _play(plan, world, trace, outcome)
    except watch.Violation as violation:
        outcome.violation = str(violation)
    except Exception:  # noqa: BLE001 whatever ends a worker's step in an unforeseen way is found
        outcome.violation = traceback.format_exc()
    finally:
        outcome.trace = trace.lines()
        world.stage.close()
        world.close()
        logging.root.handlers, logging.root.level = before
        gc.set_threshold(*collects)
        outcome.steps, outcome.ended_at = world.stage.steps, world.stage.now
        outcome.requests = sum(len(client.requests) for client in world.clients)
    return outcome


def _play(plan: Plan, world: World, trace: _Trace, outcome: Outcome) -> None:
    stage = world.stage

    def after() -> None:
        if world.deaths:
            raise watch.Violation(f"a part of a worker has failed: {world.deaths[0]!r}")
        if stage.steps % _STEPS_BETWEEN == 0:
            world.judge.look()

    def happen(planned: faults.Planned) -> None:
        world.happening = planned.name
        said = None if world.noticing else planned.happen(world)
        world.happening = ""
        if said is not None:
            world.judge.troubles.happened(planned.name)
            line = f"FAULT {said}"
            trace.note(line)
            outcome.happened.append(f"{stage.now:10.4f} {line}")

    world.start()
    stage.run(START_SECONDS, after)
    world.act(plan.seed, rate=plan.rate, hostile=plan.hostile, operator=plan.operator)
    for planned in plan.faults or ():
        stage.later(planned.at - stage.now, lambda planned=planned: happen(planned))  # type: ignore[misc]
    stage.run(plan.seconds, after)
    world.rest()
    world.heal()
    trace.note("CALM from here on, nothing more goes wrong")
    stage.run(stage.now + CALM_SECONDS, after)
    unsettled = world.unsettled()
    if unsettled:  # a probe may be under way at this moment
        stage.run(stage.now + _UNDER_WAY_SECONDS, after)
        unsettled = world.unsettled()
    if unsettled:
        raise watch.Violation("after a minute without faults: " + "; ".join(unsettled))
    violations = world.violations()
    if violations:
        raise watch.Violation("\n".join(violations[:20]))


class _Trace(logging.Handler):
    """The last lines of the log of all workers, at virtual times. A text is made only for a line that is shown."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._stage = world.stage
        self._kept: deque[tuple[float, str | logging.LogRecord]] = deque(maxlen=_TRACE_LINES)

    def handle(self, record: logging.LogRecord) -> bool:
        self._kept.append((self._stage.now, record))
        return True

    def note(self, line: str) -> None:
        """Add a line that is not of a log."""
        self._kept.append((self._stage.now, line))

    def lines(self) -> list[str]:
        return [f"{at:10.4f} {line if isinstance(line, str) else _said(line)}" for at, line in self._kept]


def _said(record: logging.LogRecord) -> str:
    return f"{record.levelname} {record.getMessage()}"
