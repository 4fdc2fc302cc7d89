"""Who renews a connection's tokens now: a refresh token is good for one use, so one process at a time may send it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connections", sa.Column("renewing", sa.Text))
    op.add_column("connections", sa.Column("renewing_until", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("connections", "renewing_until")
    op.drop_column("connections", "renewing")
