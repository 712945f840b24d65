# SPDX-License-Identifier: Apache-2.0
"""An earlier commit of this repository, installed in an environment of its own: ``python -m tests.upgrades.earlier DIRECTORY``.

The commit is UPGRADES_FROM; by default one whose databases the tests of the migrations have too. The repository's history is
needed, which a source distribution does not have.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMIT = os.environ.get("UPGRADES_FROM", "ecb7f2d")


def main(directory: Path) -> None:
    """Install the commit, unless it is installed there already."""
    marker = directory / "commit"
    if marker.is_file() and marker.read_text() == COMMIT:
        return
    source = directory / "source"
    with tarfile.open(fileobj=io.BytesIO(_archive())) as archive:
        archive.extractall(source, filter="data")
    venv.create(directory, with_pip=True)
    pip = [directory / "bin" / "python", "-m", "pip", "install", "--quiet"]
    # The same libraries as here: what is compared are the two commits.
    subprocess.run([*pip, "--constraint", ROOT / "constraints.txt", f"{source}[postgresql]"], check=True)
    marker.write_text(COMMIT)


def _archive() -> bytes:
    """Raises SystemExit: there is no history with the commit."""
    try:
        made = subprocess.run(["git", "archive", "--format=tar", COMMIT], cwd=ROOT, capture_output=True, check=True)
    except FileNotFoundError:
        sys.exit(f"commit {COMMIT} cannot be installed: git is not installed")
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.decode().split())
        sys.exit(f"commit {COMMIT} cannot be installed: this needs a clone of the repository with its history ({said})")
    return made.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
