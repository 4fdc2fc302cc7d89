"""Whose account at the vendor a connection's credentials open: another one's are refused."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("connections", sa.Column("identity", sa.Text))


def downgrade() -> None:
    op.drop_column("connections", "identity")
