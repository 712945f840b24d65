# SPDX-License-Identifier: Apache-2.0
"""The reference pages have everything that users and operators can set, send or receive."""

from __future__ import annotations

import re
from typing import Any

import pytest

import tests.support.messaging  # noqa: F401 before what imports oslo.messaging: see there
from tests.support import doc_story
from tests.support.doc_pages import DOC, ROOT, headings, section
from tests.unit.test_doc_samples import NOTIFICATIONS, RPC, SCHEMAS
from tracker_worker import errors
from tracker_worker.conf import list_opts
from tracker_worker.domain import instance, states
from tracker_worker.domain.resources import CLASSES
from tracker_worker.notifications import schema
from tracker_worker.service.requests.methods import MAJOR, METHODS, MINOR
from tracker_worker.store.sql import schema as schema_of_the_store

ARCHITECTURE = DOC / "contributor" / "architecture.md"
HOWTO = DOC / "contributor" / "howto.md"
CONFIGURATION = DOC / "admin" / "configuration.md"
OPTIONS = [(group, option) for group, options in list_opts() for option in options]
ERRORS = errors.TrackerError.__subclasses__()


def _rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables in ``text``, by each name in code format in the first cell."""
    rows: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                rows[name] = cells
    return rows


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=[f"{group}.{option.name}" for group, option in OPTIONS])
def test_every_option_is_in_the_configuration_page_with_its_default(group: str, option: Any) -> None:
    row = _rows(section(CONFIGURATION, f"[{group}]"))[option.name]
    default = option.sample_default if option.sample_default is not None else option.default
    if default is not None:
        shown = ", ".join(default) if isinstance(default, list) else str(default)
        assert shown in row[1].replace("`", "")
    assert ("HUP" in row[2]) == bool(option.mutable)
    for choice in getattr(option.type, "choices", None) or ():
        assert f"`{choice}`" in row[3]


def test_the_configuration_page_has_only_existing_options() -> None:
    for group, options in list_opts():
        named = {name for name, cells in _rows(section(CONFIGURATION, f"[{group}]")).items() if len(cells) == 4}
        assert named == {option.name for option in options}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_in_the_rpc_reference_with_its_arguments(name: str) -> None:
    method = METHODS[name]
    rows = _rows(section(RPC, f"`{name}`").partition("```")[0])
    assert set(rows) == {*method.required, *method.optional}


def test_the_rpc_reference_has_only_existing_methods_and_the_version() -> None:
    assert [name.strip("`") for name in headings(RPC) if name.startswith("`")] == list(METHODS)
    assert f"Version {MAJOR}.{MINOR}." in RPC.read_text(encoding="utf-8")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_in_the_rpc_reference_with_its_code_and_facts(error: type[errors.TrackerError]) -> None:
    row = _rows(section(RPC, "Errors"))[error.__name__]
    assert row[1] == f"`{error.code}`"
    for fact in re.findall(r"{(\w+)}", error.template):
        assert fact == "code" or f"`{fact}`" in row[2]


def test_every_field_of_an_instance_and_every_vm_state_is_in_the_rpc_reference() -> None:
    text = section(RPC, "Instances")
    assert set(_rows(text)) == {*instance._READERS, "resources", "node"}
    for state in states.VM_STATES:
        assert f"`{state}`" in text
    for klass in CLASSES:
        assert f"`{klass.limit}`" in section(RPC, "Limits")


@pytest.mark.parametrize("event_type", SCHEMAS)
def test_every_event_type_is_in_the_notifications_page(event_type: str) -> None:
    published = schema.load(f"{event_type}.json")
    row = _rows(section(NOTIFICATIONS, "Event types"))[event_type]
    assert row[1] == doc_story.samples()[event_type]["priority"]
    beside = set(published.get("properties", {}))
    assert set(re.findall(r"`(\w+)`", row[3])) == beside
    assert beside <= set(_rows(section(NOTIFICATIONS, "Event types")))


@pytest.mark.parametrize(
    ("base", "heading"),
    [
        ("instance.json", "Payload of claims and usage"),
        ("move.json", "Payload of moves"),
        ("node.json", "Payload of nodes"),
    ],
)
def test_every_key_of_a_payload_is_in_the_notifications_page(base: str, heading: str) -> None:
    assert set(_rows(section(NOTIFICATIONS, heading))) == set(schema.load(base)["properties"])


def test_every_module_is_in_the_packages_of_the_architecture_page() -> None:
    packages = section(ARCHITECTURE, "Packages")
    package = ROOT / "tracker_worker"
    # A module that can be found by its name needs no line: an option group, a subcommand, a migration.
    apart = {"cli", "conf", "migrations"}
    modules = [path for path in package.rglob("*.py") if not apart & set(path.relative_to(package).parts)]
    assert [path.name for path in modules if path.name != "__init__.py" and path.name not in packages] == []
    assert set(re.findall(r"(\w+\.py)", packages)) <= {path.name for path in modules}


def test_every_file_and_name_of_the_howto_page_exists() -> None:
    package = ROOT / "tracker_worker"
    sources = [*package.rglob("*.py"), *(ROOT / "tests").rglob("*.py"), ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    words = set(re.findall(r"\w+", "\n".join(path.read_text("utf-8") for path in sources)))
    bare = {path.name for path in [*sources, *DOC.rglob("*.md"), *package.rglob("*.json")]}
    prose = re.sub(r"^```.*?^```", "", HOWTO.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    tokens = {token for token in re.findall(r"`([^`\n]+)`", prose) if not set(token) & set(" <[")}
    files = {token for token in tokens if "/" in token or token.endswith((".py", ".md", ".json", ".cfg", ".toml"))}
    missing = {
        file for file in files if file not in bare and not (ROOT / file).exists() and not (package / file).exists()
    }
    unknown = {name for token in tokens - files for name in re.findall(r"\w+", token)} - words
    assert missing | unknown == set()


@pytest.mark.parametrize("table", schema_of_the_store.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_table_is_in_the_architecture_page_with_its_columns(table: Any) -> None:
    row = _rows(section(ARCHITECTURE, "Tables"))[table.name]
    named = set(re.findall(r"`(\w+)`", f"{row[1]} {row[2]}"))
    assert named == {column.name for column in table.columns}
