"""States, lineage and signers of adapter versions; what an alias meant before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0002'
down_revision = '0001'


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table('adapter_versions', schema=None) as batch_op:
        batch_op.add_column(sa.Column('state', sa.String(length=16), nullable=True))
        batch_op.add_column(sa.Column('state_reason', sa.String(length=500), nullable=True))
        batch_op.add_column(sa.Column('state_at', sa.Float(), nullable=True))
        batch_op.add_column(sa.Column('lineage', sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column('signed_by', sa.String(length=63), nullable=True))
    op.execute("UPDATE adapter_versions SET state = 'ready', state_at = created_at")
    with op.batch_alter_table('adapter_versions', schema=None) as batch_op:
        batch_op.alter_column('state', existing_type=sa.String(length=16), nullable=False)
        batch_op.alter_column('state_at', existing_type=sa.Float(), nullable=False)
    with op.batch_alter_table('aliases', schema=None) as batch_op:
        batch_op.add_column(sa.Column('previous_version_id', sa.String(length=160), nullable=True))
