# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.simulation.planting``: does the simulation find what it is there for?

Each file of ``planted/`` is a patch that puts one fault into a copy of the worker. Its first line names the subject that the
fault breaks, the next ones say what goes wrong. The simulation runs on the copy until it finds something, or until its time is
over. A fault with which nothing even starts is not found: every test would show it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.run import START_SECONDS

_ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).with_name("planted")
SUBJECTS = (
    "progress",
    "bounds",
    "outgoing",
    "consumers",
    "connections",
    "identity",
    "time",
    "claims",
    "nodes",
    "moves",
    "periods",
)
"""The subjects of which a fault that is planted may break one."""
_SAID = re.compile(
    r"^(?P<count>\d+) histories in (?P<seconds>\d+) s\n.*\nviolation at (?P<at>[0-9.]+) s: (?P<what>.*)", re.M
)
_NOTHING = re.compile(r"^(\d+) histories from seed", re.M)
FOUND, NOT_FOUND, NO_START = "found", "not found", "does not even start"


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault that is planted. ``why``: what goes wrong."""

    patch: Path
    subject: str
    why: str

    @property
    def name(self) -> str:
        return self.patch.stem


@dataclass(frozen=True, slots=True)
class Search:
    """What came of a search: FOUND, NOT_FOUND or NO_START. ``said``: for people."""

    planted: Planted
    outcome: str
    said: str


def read(patch: Path) -> Planted:
    """The fault in a patch. Raises ValueError: it does not say what it breaks."""
    subject, _, rest = patch.read_text(encoding="utf-8").partition("\n")
    why = " ".join(rest.partition("\ndiff --git")[0].split())
    if subject not in SUBJECTS or not why:
        raise ValueError(f"{patch.name} begins with a subject of {', '.join(SUBJECTS)}, and then says what goes wrong")
    return Planted(patch, subject, why)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planting", description=__doc__)
    parser.add_argument("names", nargs="*", help="of patches, without .patch (all)")
    parser.add_argument("--for-seconds", type=float, default=600.0, help="of one processor, for each patch (600)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--jobs", type=int, default=1, help="patches at a time (1)")
    options = parser.parse_args()
    patches = sorted(PLANTED.glob("*.patch"))
    if options.names:
        patches = [patch for patch in patches if patch.stem in options.names]

    def search(planted: Planted) -> Search:
        done = _searched(planted, options.first, options.for_seconds)
        print(f"{planted.name} ({planted.subject}): {done.outcome} {done.said}", flush=True)
        return done

    with ThreadPoolExecutor(options.jobs) as pool:
        searches = list(pool.map(search, map(read, patches)))
    print("\n".join(_table(searches)))
    return int(any(done.outcome != FOUND for done in searches))


def _table(searches: Sequence[Search]) -> list[str]:
    """How many faults of each subject there are, and how many were found."""
    outcomes: dict[str, list[str]] = defaultdict(list)
    for done in searches:
        outcomes[done.planted.subject].append(done.outcome)
    lines = [f"{'subject':14}{'planted':>8}{'found':>8}"]
    lines += [f"{name:14}{len(outcomes[name]):8}{outcomes[name].count(FOUND):8}" for name in SUBJECTS]
    total = [done.outcome for done in searches]
    return [*lines, f"{'all':14}{len(total):8}{total.count(FOUND):8}"]


def _searched(planted: Planted, first: int, seconds: float) -> Search:
    """Search for so many seconds of one processor. What the worker without the fault does as well is not counted."""
    seed, spent, passed_over = first, 0.0, 0
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        try:
            plant(planted.patch, Path(folder))
        except subprocess.CalledProcessError as error:
            return Search(planted, NO_START, f"the patch does not fit: {error.stderr.decode()[-300:]}")
        while spent < seconds:
            done = _run(Path(folder), ["--first", str(seed), "--for-seconds", str(seconds - spent)])
            said = _SAID.search(done.stdout)
            if said is None and done.returncode:
                return Search(planted, NO_START, done.stderr[-500:])
            if said is None:
                seed += int((_NOTHING.search(done.stdout) or [0, 0])[1])
                break
            seed += int(said["count"])
            spent += float(said["seconds"])
            if float(said["at"]) < START_SECONDS:
                return Search(planted, NO_START, said["what"][:200])
            if _run(_ROOT, ["--seed", str(seed - 1)]).returncode == 0:
                count = seed - first - passed_over
                return Search(planted, FOUND, f"after {count} seeds, {spent:.0f} s: {said['what'][:200]}")
            passed_over += 1
    return Search(planted, NOT_FOUND, f"in {seed - first - passed_over} histories")


def plant(patch: Path, folder: Path) -> None:
    """Make a copy of the worker and its tests in ``folder`` with the fault in it. Raises CalledProcessError: the patch does not
    fit any more."""
    for name in ("tracker_worker", "tests"):
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=folder, check=True, capture_output=True)


def _run(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
