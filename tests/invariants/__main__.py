# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.invariants``: checks the records of a run. Exit code 1 on a violation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tests.invariants.check import check
from tests.invariants.record import Evidence, Heard, Parked, Request, read_lines

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--requests",
    "requests",
    type=_FILE,
    multiple=True,
    required=True,
    help="Requests and answers of clients; repeatable.",
)
@click.option("--heard", type=_FILE, required=True, help="Notifications in order of arrival.")
@click.option("--parked", type=_FILE, help="Messages in the dead-letter queue.")
@click.option("--database", required=True, metavar="URL", help="The store; the worker must be stopped.")
def main(requests: tuple[Path, ...], heard: Path, parked: Path | None, database: str) -> None:
    """Check the invariants on files of JSON lines (tests/invariants/record.py has their fields) and a store."""
    from tests.invariants.collect import books, opened, recorded

    told = [request for path in requests for request in read_lines(path, Request)]
    with opened(database) as store:
        violations = check(
            Evidence(
                requests=told,
                heard=read_lines(heard, Heard),
                parked=read_lines(parked, Parked) if parked is not None else [],
                nodes=books(store),
                inbox=recorded(store, sorted({request.unique_id for request in told})),
            )
        )
    for violation in violations:
        print(violation)
    print(f"{len(told)} requests, {len(violations)} violations")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
