"""What a tenant's calls do while their adapter is not loaded yet."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'


def upgrade() -> None:
    """Apply."""
    op.create_table('cold_starts',
    sa.Column('tenant_id', sa.String(length=63), nullable=False),
    sa.Column('wait_ms', sa.Integer(), nullable=True),
    sa.Column('previous', sa.Boolean(), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('deleted', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_cold_starts_tenant_id')),
    sa.PrimaryKeyConstraint('tenant_id', name=op.f('pk_cold_starts'))
    )
    with op.batch_alter_table('cold_starts', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_cold_starts_revision'), ['revision'], unique=False)
