"""Since when a training job is in its stage, or waits for a trainer."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0007'
down_revision = '0006'


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table('fine_tuning_jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('stage_since', sa.Float(), nullable=True))


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table('fine_tuning_jobs', schema=None) as batch_op:
        batch_op.drop_column('stage_since')
