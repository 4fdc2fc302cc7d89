"""Limits that outlive a process: what was drawn of a day's, until when one is closed or lowered; what runs wait for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("credential", sa.Text, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("drawn", JSON, nullable=False),
        sa.Column("closed_until", MOMENT),
        sa.Column("low_until", MOMENT),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
    op.add_column("connections", sa.Column("limited_by", sa.Text))
    op.add_column("connections", sa.Column("progress", JSON))


def downgrade() -> None:
    op.drop_column("connections", "progress")
    op.drop_column("connections", "limited_by")
    op.drop_table("budgets")
