# SPDX-License-Identifier: Apache-2.0
"""The package needs the standard library, and nothing else of the project."""

from __future__ import annotations

import subprocess
import sys

from tests.support.doc_pages import ROOT

PROGRAM = """
import sys

class Nothing:
    def find_spec(self, name, path, target=None):
        allowed = name == "tracker_worker" or name.startswith("tracker_worker.billing")
        if not allowed and name.partition(".")[0] not in sys.stdlib_module_names:
            raise ImportError(f"{name} is not of the standard library")

sys.meta_path.insert(0, Nothing())
sys.path.insert(0, sys.argv[1])
import tracker_worker.billing as billing
books = billing.Books(billing.SqliteState(":memory:"))
print(books.hear({"event_type": "x"}), books.missing(), books.usage("2026-01-01", "2026-02-01"))
"""


def test_books_are_kept_without_any_other_package() -> None:
    """Without the directory of installed packages, and without what is imported by name only when it is used."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", PROGRAM, str(ROOT)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "odd {} {}\n", "")
