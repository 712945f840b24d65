# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry point: migrations run on the caller's connection, in the caller's transaction."""

from alembic import context

from tracker_worker.store.sql.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
