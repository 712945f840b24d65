# SPDX-License-Identifier: Apache-2.0
"""The tables of the demo in narrow consoles."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tracker_worker.cli.demo.tables import AGREES, DIFFERS, DemoTable


def printed(width: int, host: str = "host-1 node-1") -> list[str]:
    table = DemoTable(
        "Nodes: used / total", "host and node", ("inst.", "vcpus", "memory MB", "disk GB"), last="billing"
    )
    table.add_row(host, "22", "35/16", "81408/65536", "340/1000", AGREES)
    table.add_row("host-1 node-2", "18", "37/16", "83456/65536", "340/1000", DIFFERS)
    console = Console(file=io.StringIO(), width=width)
    table.show(console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_a_table_has_a_title_an_indented_head_and_every_column(width: int) -> None:
    assert [line.rstrip() for line in printed(width)] == [
        "Nodes: used / total",
        "",
        "  host and node  inst.  vcpus    memory MB   disk GB  billing",
        " ─────────────────────────────────────────────────────────────",
        "  host-1 node-1     22  35/16  81408/65536  340/1000  agrees",
        "  host-1 node-2     18  37/16  83456/65536  340/1000  DIFFERS",
        "",
    ]


def test_in_a_narrow_console_the_verdict_stays_and_no_figure_is_folded() -> None:
    lines = printed(60)
    assert all(len(line) <= 60 for line in lines)
    assert lines[4].split() == ["host-1", "node-1", "22", "35/16", "81408/65536", "agrees"]


def test_a_name_that_is_wider_than_the_console_is_not_folded() -> None:
    assert "h" * 70 in "\n".join(printed(60, "h" * 70))
