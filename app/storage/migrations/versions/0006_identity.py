"""Keys that are rotated with an overlap, sealed provider keys, and what was used on a caller's own key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table('keys', schema=None) as batch_op:
        batch_op.add_column(sa.Column('previous_digest', sa.LargeBinary(length=32), nullable=True))
        batch_op.add_column(sa.Column('previous_until', sa.Float(), nullable=True))
    with op.batch_alter_table('ledger', schema=None) as batch_op:
        batch_op.add_column(sa.Column('reasoning_tokens', sa.BigInteger(), nullable=False, server_default='0'))
        batch_op.add_column(sa.Column('byok_microusd', sa.BigInteger(), nullable=False, server_default='0'))
    op.create_table('provider_keys',
    sa.Column('tenant_id', sa.String(length=63), nullable=False),
    sa.Column('team_id', sa.String(length=63), nullable=False),
    sa.Column('provider', sa.String(length=63), nullable=False),
    sa.Column('sealed_key', sa.LargeBinary(), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('deleted', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_provider_keys_tenant_id')),
    sa.PrimaryKeyConstraint('tenant_id', 'team_id', 'provider', name=op.f('pk_provider_keys'))
    )
    with op.batch_alter_table('provider_keys', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_provider_keys_revision'), ['revision'], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_table('provider_keys')
    with op.batch_alter_table('ledger', schema=None) as batch_op:
        batch_op.drop_column('byok_microusd')
        batch_op.drop_column('reasoning_tokens')
    with op.batch_alter_table('keys', schema=None) as batch_op:
        batch_op.drop_column('previous_until')
        batch_op.drop_column('previous_digest')
