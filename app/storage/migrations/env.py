"""How Alembic reaches the database: over the connection that `app.storage.database` hands it."""

from __future__ import annotations

from alembic import context

from app.storage.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
