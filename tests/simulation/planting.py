# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.simulation.planting``: does the simulation find what it is there for?

Each file of ``planted/`` is a patch that puts one fault into a copy of the worker. The simulation runs on the copy until it
finds something, or until its time is over.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_ROOT = Path(__file__).parents[2]
PLANTED = Path(__file__).with_name("planted")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.planting", description=__doc__)
    parser.add_argument("names", nargs="*", help="of patches, without .patch (all)")
    parser.add_argument("--for-seconds", type=float, default=600.0, help="real seconds for each patch (600)")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    options = parser.parse_args()
    patches = sorted(PLANTED.glob("*.patch"))
    if options.names:
        patches = [patch for patch in patches if patch.stem in options.names]
    found = [_searched(patch, options.first, options.for_seconds) for patch in patches]
    print(f"{sum(found)} of {len(found)} found")
    return int(not all(found))


def _searched(patch: Path, first: int, seconds: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        plant(patch, Path(folder))
        began = time.monotonic()
        arguments = ["--first", str(first), "--for-seconds", str(seconds)]
        done = _run(Path(folder), ["-m", "tests.simulation", *arguments])
        passed = time.monotonic() - began
    said = re.search(r"^seed (\d+).*\nviolation: (.*)", done.stdout, re.MULTILINE)
    if said is None:
        print(
            f"{patch.stem}: not found in {passed:.0f} s{': ' + done.stderr[-500:] if done.returncode else ''}",
            flush=True,
        )
        return False
    print(f"{patch.stem}: found after {int(said[1]) - first + 1} seeds, {passed:.0f} s: {said[2][:150]}", flush=True)
    return True


def plant(patch: Path, folder: Path) -> None:
    """Make a copy of the worker and its tests in ``folder`` with the fault in it. Raises CalledProcessError: the patch does not
    fit any more."""
    for name in ("tracker_worker", "tests"):
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "--whitespace=nowarn", str(patch)], cwd=folder, check=True, capture_output=True)


def _run(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main())
