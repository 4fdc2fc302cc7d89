"""Watches: things that are read already and will be asked for again, such as threads older than the sweep."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "watches",
        sa.Column("connection_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("stream", sa.String(64), primary_key=True),
        sa.Column("external_id", sa.Text, primary_key=True),
        sa.Column("next_try_at", MOMENT, nullable=False),
    )
    op.create_index("watches_due", "watches", ["connection_id", "stream", "next_try_at"])
    # Threads that were read before there were watches: asked at once, then each on its own time.
    op.execute(
        "INSERT INTO watches (connection_id, stream, external_id, next_try_at) "
        "SELECT DISTINCT m.connection_id, 'threads', m.thread_id, CURRENT_TIMESTAMP FROM messages m "
        "JOIN connections c ON c.id = m.connection_id AND c.source = 'slack' "
        "WHERE m.thread_id IS NOT NULL AND m.deleted_at IS NULL"
    )


def downgrade() -> None:
    op.drop_table("watches")
