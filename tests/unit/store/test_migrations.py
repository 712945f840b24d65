# SPDX-License-Identifier: Apache-2.0
"""The migrations on SQLite."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory

from tests.support.store import at_once
from tests.unit.store.identity import IdentityContract
from tests.unit.store.migrations import TABLES, refusal, tables
from tracker_worker.errors import ConfigurationError
from tracker_worker.store.sql import engines, migration
from tracker_worker.store.sql.revisions import known_revisions
from tracker_worker.store.sql.store import SQLStore


def test_the_revisions_are_those_that_alembic_finds() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migration.__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    assert migration.head() == scripts.get_current_head()
    assert known_revisions() == {script.revision: script.down_revision for script in scripts.walk_revisions()}


class TestSQLiteMigrations(IdentityContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'ledger.sqlite'}"

    @pytest.fixture
    def other_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'other.sqlite'}"

    def test_a_start_creates_the_schema(self, url: str, engine: sa.Engine) -> None:
        store = SQLStore(url)
        store.start()
        store.stop()
        assert tables(engine) == TABLES
        assert migration.current(engine) == migration.head()

    def test_a_database_with_two_revisions_is_none_of_ours(self, url: str, engine: sa.Engine) -> None:
        migration.upgrade(engine)
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO alembic_version VALUES ('another')"))
        with pytest.raises(ConfigurationError, match=f"alembic_version has 2 rows: {migration.head()}, another"):
            migration.current(engine)

    def test_concurrent_starts_on_a_missing_file_all_succeed(self, url: str) -> None:
        stores = [SQLStore(url) for _ in range(4)]
        at_once(*(store.start for store in stores))
        assert at_once(*(store.host_names for store in stores)) == [[]] * 4
        for store in stores:
            store.stop()


def test_a_missing_directory_is_named_in_the_error(tmp_path: Path) -> None:
    engine = engines.create_engine(f"sqlite:///{tmp_path / 'nowhere' / 'ledger.sqlite'}")
    for call in (migration.current, migration.upgrade, migration.ensure_schema):
        message = refusal(partial(call, engine))
        assert "nowhere" in message
        assert "unable to open database file" in message


def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("This is a letter, not a database. " * 100)
    assert "file is not a database" in refusal(
        partial(migration.ensure_schema, engines.create_engine(f"sqlite:///{path}"))
    )
    assert path.read_text().startswith("This is a letter")
