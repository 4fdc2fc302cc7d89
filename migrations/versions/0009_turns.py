"""The order in which a source's connections are claimed, for a claim to find the next ones without sorting them all."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("connections_due", "connections")
    op.create_index("connections_due", "connections", ["source", "next_sync_at", "id"])


def downgrade() -> None:
    op.drop_index("connections_due", "connections")
    op.create_index("connections_due", "connections", ["source", "next_sync_at"])
