"""Who is in trouble and was told of, the messages, and to whom they went: so that each is told once."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
OPEN = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.create_table(
        "alerts",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("connection_id", BIG_ID, nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("trouble", sa.String(32), nullable=False),
        sa.Column("seen_at", MOMENT, nullable=False),
        sa.Column("since", MOMENT, nullable=False),
        sa.Column("well_at", MOMENT),
        sa.Column("told", sa.String(32)),
        sa.Column("outage", sa.Text),
        sa.Column("rounds", sa.Integer, nullable=False),
        sa.Column("ended", sa.String(16)),
        sa.Column("ended_at", MOMENT),
    )
    op.create_index("alerts_open", "alerts", ["connection_id"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN)
    op.create_table(
        "notices",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("made_at", MOMENT, nullable=False),
        sa.Column("event", sa.String(32), nullable=False),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("cause", sa.String(32), nullable=False),
        sa.Column("connection_id", BIG_ID),
        sa.Column("connections", JSON, nullable=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("remaining", sa.Integer, nullable=False),
        sa.Column("since", MOMENT),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("way_out", sa.Text, nullable=False),
        sa.Column("outage", sa.Text),
        sa.Column("few_at", MOMENT),
        sa.Column("ended_at", MOMENT),
    )
    op.create_index("notices_of_connection", "notices", ["connection_id"])
    op.create_table(
        "deliveries",
        sa.Column("notice_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("receiver", sa.String(16), primary_key=True),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try_at", MOMENT),
        sa.Column("refused", sa.Boolean, nullable=False),
        sa.Column("sent_at", MOMENT),
        sa.Column("error", sa.Text),
    )
    op.create_index(
        "deliveries_waiting",
        "deliveries",
        ["receiver", "notice_id"],
        sqlite_where=sa.text("next_try_at IS NOT NULL"),
        postgresql_where=sa.text("next_try_at IS NOT NULL"),
    )


def downgrade() -> None:
    for table in ("deliveries", "notices", "alerts"):
        op.drop_table(table)
