"""What a provider knows a training job by, so that one that has ended here can be stopped there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = '0008'
down_revision = '0007'


def upgrade() -> None:
    """Apply."""
    with op.batch_alter_table('fine_tuning_jobs', schema=None) as batch_op:
        batch_op.add_column(sa.Column('provider_job', sa.String(length=200), nullable=True))
        batch_op.create_index(batch_op.f('ix_fine_tuning_jobs_provider_job'), ['provider_job'], unique=False)


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table('fine_tuning_jobs', schema=None) as batch_op:
        batch_op.drop_index(batch_op.f('ix_fine_tuning_jobs_provider_job'))
        batch_op.drop_column('provider_job')
