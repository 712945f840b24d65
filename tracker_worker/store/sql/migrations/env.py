# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry: migrations run on the connection, and in the transaction, of whoever asked for them."""

from alembic import context

from tracker_worker.store.sql.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
