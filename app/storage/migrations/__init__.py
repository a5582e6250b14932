"""Alembic migrations, packaged with the gateway."""
