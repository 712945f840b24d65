# SPDX-License-Identifier: Apache-2.0
"""Every line that the package can log at INFO or above, as the page doc/admin/log-lines.md shows it.

``python -m tests.support.log_lines`` prints the page.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "tracker_worker"
PAGE = PACKAGE.parent / "doc" / "admin" / "log-lines.md"
_LEVELS = ("CRITICAL", "ERROR", "WARNING", "INFO")
_HEAD = """<!-- SPDX-License-Identifier: Apache-2.0 -->
# Log lines

Every line that the package can log, by level and logger, made from the code by `python -m tests.support.log_lines`; a test
compares. `...` stands for what differs from line to line. Decisions are lines of `tracker_worker.decisions`: see
[logs](operate.md#logs), which also says what the lines mean that need something from you. *several levels*: the first line of
an outage is a WARNING, the following ones are INFO or DEBUG.
"""


def page() -> str:
    """The whole page."""
    found: dict[str, set[tuple[str, str]]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for level, line in _lines(ast.parse(path.read_text("utf-8"))):
            found.setdefault(level, set()).add((module, line))
    parts = [_HEAD]
    for level in (*_LEVELS, "several levels"):
        rows = [f"| `{module}` | {line} |" for module, line in sorted(found.get(level, ()))]
        parts.append("\n".join([f"## {level}\n", "| logger | line |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _lines(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if not isinstance(node.func.value, ast.Name) or node.func.value.id != "LOG":
            continue
        method = node.func.attr
        if method == "log":
            yield "several levels", _text(node.args[1])
        elif method == "exception":
            yield "ERROR", _text(node.args[0])
        elif method.upper() in _LEVELS:
            yield method.upper(), _text(node.args[0])


def _text(node: ast.expr) -> str:
    """The format of a line with ``...`` for its values."""
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values)
    else:
        return "..."
    for directive in ("%s", "%d", "%r", "%g", "%+.1f", "%.1f", "%.0f", "%.3f", "%.2g", "%.6f"):
        text = text.replace(directive, "...")
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    print(page(), end="")
