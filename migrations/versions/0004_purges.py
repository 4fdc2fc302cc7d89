"""What a purge leaves behind: that it was done, by whom, and how much went."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "purges",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("purged_at", MOMENT, nullable=False),
        sa.Column("purged_by", sa.Text, nullable=False),
        sa.Column("connection_id", BIG_ID, nullable=False),
        sa.Column("workspace_id", sa.Text),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("counts", JSON, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("purges")
