"""Bursts, more budgets and the cost breaker; limits by user and route; budget events; the audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'

NUMBERS = (
    'requests_burst', 'tokens_burst', 'budget_week_microusd', 'budget_total_microusd', 'spend_per_minute_microusd',
    'spend_surge_percent',
)
ALL = (
    'requests_per_minute', 'requests_burst', 'tokens_per_minute', 'tokens_burst', 'tokens_per_day',
    'concurrent_requests', 'budget_day_microusd', 'budget_week_microusd', 'budget_month_microusd',
    'budget_total_microusd', 'spend_per_minute_microusd', 'spend_surge_percent',
)


def upgrade() -> None:
    """Apply."""
    for table in ('tenants', 'teams', 'keys'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name in NUMBERS:
                batch_op.add_column(sa.Column(name, sa.BigInteger(), nullable=True))
            batch_op.add_column(sa.Column('breaker', sa.String(length=10), nullable=True))
    op.create_table('limit_rules',
    sa.Column('tenant_id', sa.String(length=63), nullable=False),
    sa.Column('id', sa.String(length=63), nullable=False),
    sa.Column('kind', sa.String(length=10), nullable=False),
    sa.Column('subject', sa.String(length=64), nullable=True),
    sa.Column('route', sa.String(length=200), nullable=True),
    *(sa.Column(name, sa.BigInteger(), nullable=True) for name in ALL),
    sa.Column('breaker', sa.String(length=10), nullable=True),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('deleted', sa.Boolean(), nullable=False),
    sa.Column('created_at', sa.Float(), nullable=False),
    sa.ForeignKeyConstraint(['tenant_id'], ['tenants.id'], name=op.f('fk_limit_rules_tenant_id')),
    sa.PrimaryKeyConstraint('tenant_id', 'id', name=op.f('pk_limit_rules'))
    )
    with op.batch_alter_table('limit_rules', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_limit_rules_revision'), ['revision'], unique=False)

    op.create_table('budget_events',
    sa.Column('event_id', sa.String(length=64), nullable=False),
    sa.Column('tenant_id', sa.String(length=63), nullable=False),
    sa.Column('event', sa.String(length=30), nullable=False),
    sa.Column('kind', sa.String(length=10), nullable=False),
    sa.Column('account', sa.String(length=64), nullable=False),
    sa.Column('route', sa.String(length=200), nullable=True),
    sa.Column('limit_name', sa.String(length=30), nullable=False),
    sa.Column('percent', sa.Integer(), nullable=True),
    sa.Column('allowed', sa.BigInteger(), nullable=True),
    sa.Column('used', sa.BigInteger(), nullable=True),
    sa.Column('policy', sa.String(length=10), nullable=True),
    sa.Column('at', sa.Float(), nullable=False),
    sa.PrimaryKeyConstraint('event_id', name=op.f('pk_budget_events'))
    )
    with op.batch_alter_table('budget_events', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_budget_events_tenant_id_at'), ['tenant_id', 'at'], unique=False)

    op.create_table('audit_log',
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('object', sa.String(length=300), nullable=False),
    sa.Column('at', sa.Float(), nullable=False),
    sa.Column('who', sa.String(length=200), nullable=False),
    sa.Column('before', sa.JSON(none_as_null=True), nullable=True),
    sa.Column('after', sa.JSON(), nullable=False),
    sa.PrimaryKeyConstraint('revision', 'object', name=op.f('pk_audit_log'))
    )
    with op.batch_alter_table('audit_log', schema=None) as batch_op:
        batch_op.create_index(batch_op.f('ix_audit_log_object_revision'), ['object', 'revision'], unique=False)


def downgrade() -> None:
    """Take back."""
    for table in ('audit_log', 'budget_events', 'limit_rules'):
        op.drop_table(table)
    for table in ('keys', 'teams', 'tenants'):
        with op.batch_alter_table(table, schema=None) as batch_op:
            for name in (*NUMBERS, 'breaker'):
                batch_op.drop_column(name)
