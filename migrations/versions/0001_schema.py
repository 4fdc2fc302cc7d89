"""The first schema: connections, cursors, cycles, runs, backlog, five record tables, the views."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

BIG_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
MOMENT = sa.DateTime(timezone=True)
DATA = sa.JSON().with_variant(JSONB(), "postgresql")


def count(name: str) -> sa.Column:
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def record_table(name: str, *columns: sa.Column) -> None:
    op.create_table(
        name,
        sa.Column("connection_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("external_id", sa.Text, primary_key=True),
        *columns,
        sa.Column("raw", DATA, nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.Column("deleted_at", MOMENT),
    )


def upgrade() -> None:
    _engine_tables()
    _record_tables()
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select}")


def _engine_tables() -> None:
    op.create_table(
        "connections",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("workspace_id", sa.Text),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("account", sa.Text, nullable=False, server_default=""),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("status", sa.String(32), nullable=False),
        sa.Column("settings", DATA, nullable=False),
        sa.Column("credentials", sa.Text),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("next_sync_at", MOMENT),
        sa.Column("lease", sa.Text),
        sa.Column("leased_until", MOMENT),
        sa.Column("last_success_at", MOMENT),
        sa.Column("last_error", sa.Text),
        sa.Column("last_error_kind", sa.String(32)),
        sa.Column("last_error_at", MOMENT),
        sa.Column("limited_until", MOMENT),
        sa.Column("last_sweep_at", MOMENT),
        sa.Column("status_since", MOMENT),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.UniqueConstraint("source", "workspace_id", "account", name="connections_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("connections_due", "connections", ["source", "next_sync_at"])
    op.create_table(
        "cursors",
        sa.Column("connection_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("stream", sa.String(64), primary_key=True),
        sa.Column("partition", sa.Text, primary_key=True),
        sa.Column("cursor", sa.Text, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
    )
    op.create_table(
        "cycles",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("source", sa.String(32), nullable=False),
        sa.Column("trigger", sa.String(16), nullable=False),
        sa.Column("turn", MOMENT),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        *map(count, ("total", "added", "changed", "deleted", "calls")),
        *map(count, ("successful_workspaces", "failed_workspaces", "deferred_workspaces")),
        sa.UniqueConstraint("source", "turn", name="cycles_turn"),
    )
    op.create_index("cycles_latest", "cycles", ["source", "started_at"])
    op.create_table(
        "runs",
        sa.Column("id", BIG_ID, primary_key=True, autoincrement=True),
        sa.Column("cycle_id", BIG_ID, nullable=False),
        sa.Column("connection_id", BIG_ID, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("started_at", MOMENT, nullable=False),
        sa.Column("finished_at", MOMENT),
        *map(count, ("records", "added", "changed", "deleted", "calls")),
        sa.Column("error_kind", sa.String(32)),
        sa.Column("error", sa.Text),
        sa.Column("hint", sa.Text),
    )
    op.create_index("runs_of_cycle", "runs", ["cycle_id", "connection_id"])
    op.create_index("runs_of_connection", "runs", ["connection_id", "id"])
    op.create_table(
        "backlog",
        sa.Column("connection_id", BIG_ID, primary_key=True, autoincrement=False),
        sa.Column("stream", sa.String(64), primary_key=True),
        sa.Column("external_id", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("next_try_at", MOMENT, nullable=False),
        sa.Column("last_error", sa.Text),
        sa.Column("created_at", MOMENT, nullable=False),
    )
    op.create_index("backlog_due", "backlog", ["connection_id", "stream", "next_try_at"])


def _record_tables() -> None:
    record_table("people", sa.Column("name", sa.Text), sa.Column("email", sa.Text), sa.Column("is_bot", sa.Boolean))
    record_table(
        "conversations",
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.Text),
        sa.Column("is_private", sa.Boolean),
        sa.Column("is_archived", sa.Boolean),
    )
    record_table(
        "messages",
        sa.Column("conversation_id", sa.Text, nullable=False),
        sa.Column("thread_id", sa.Text),
        sa.Column("author_id", sa.Text),
        sa.Column("author", sa.Text),
        sa.Column("sent_at", MOMENT),
        sa.Column("edited_at", MOMENT),
        sa.Column("text", sa.Text),
        sa.Column("html", sa.Text),
        sa.Column("labels", DATA),
        sa.Column("recipients", DATA),
        sa.Column("attachments", DATA),
    )
    op.create_index("messages_of_conversation", "messages", ["connection_id", "conversation_id", "sent_at"])
    op.create_index("messages_of_thread", "messages", ["connection_id", "thread_id"])
    record_table(
        "meetings",
        sa.Column("title", sa.Text),
        sa.Column("started_at", MOMENT),
        sa.Column("ended_at", MOMENT),
        sa.Column("duration_s", sa.Float),
        sa.Column("host", sa.Text),
        sa.Column("participants", DATA),
        sa.Column("url", sa.Text),
        sa.Column("summary", sa.Text),
        sa.Column("action_items", DATA),
        sa.Column("is_private", sa.Boolean),
    )
    op.create_index("meetings_by_start", "meetings", ["connection_id", "started_at"])
    record_table(
        "transcripts",
        sa.Column("language", sa.Text),
        sa.Column("segments", DATA),
        sa.Column("text", sa.Text),
    )


MEETING_VIEW = """
SELECT c.workspace_id, m.connection_id, m.external_id, m.title, m.started_at, m.ended_at, m.duration_s, m.host,
       m.participants, m.url, m.summary, m.action_items, m.is_private, t.language, t.segments, t.text AS transcript,
       m.raw, m.created_at, m.updated_at
FROM meetings m
JOIN connections c ON c.id = m.connection_id AND c.source = '{source}'
LEFT JOIN transcripts t
       ON t.connection_id = m.connection_id AND t.external_id = m.external_id AND t.deleted_at IS NULL
WHERE m.deleted_at IS NULL
"""

# The first three are the old engine's tables; plain enough that PostgreSQL lets an UPDATE through.
VIEWS = {
    "integrations": "SELECT id, workspace_id, source AS provider, is_active FROM connections WHERE source = 'slack'",
    "workspace_connectors": """
SELECT id, workspace_id, source AS connector_type, is_active FROM connections WHERE source IN ('gong', 'fathom')
""",
    "gmail_accounts": "SELECT id, workspace_id, account AS email, is_active FROM connections WHERE source = 'gmail'",
    "slack_messages": """
SELECT c.workspace_id, m.connection_id, m.external_id, m.conversation_id, v.name AS channel, v.kind AS channel_kind,
       m.thread_id, m.author_id, COALESCE(p.name, m.author, m.author_id) AS author, m.sent_at, m.edited_at, m.text,
       m.attachments, m.raw, m.created_at, m.updated_at
FROM messages m
JOIN connections c ON c.id = m.connection_id AND c.source = 'slack'
LEFT JOIN conversations v ON v.connection_id = m.connection_id AND v.external_id = m.conversation_id
LEFT JOIN people p ON p.connection_id = m.connection_id AND p.external_id = m.author_id
WHERE m.deleted_at IS NULL
""",
    "gong_calls": MEETING_VIEW.format(source="gong"),
    "fathom_sessions": MEETING_VIEW.format(source="fathom"),
    "gmail_messages": """
SELECT c.workspace_id, m.connection_id, c.account AS email, m.external_id, m.conversation_id AS thread_id,
       v.name AS subject, m.author_id, m.author, m.sent_at, m.text, m.html, m.labels, m.recipients, m.attachments,
       m.raw, m.created_at, m.updated_at
FROM messages m
JOIN connections c ON c.id = m.connection_id AND c.source = 'gmail'
LEFT JOIN conversations v ON v.connection_id = m.connection_id AND v.external_id = m.conversation_id
WHERE m.deleted_at IS NULL
""",
    "gmail_threads": """
SELECT c.workspace_id, v.connection_id, c.account AS email, v.external_id, v.name AS subject,
       (SELECT COUNT(*) FROM messages m WHERE m.connection_id = v.connection_id
         AND m.conversation_id = v.external_id AND m.deleted_at IS NULL) AS message_count,
       (SELECT MAX(m.sent_at) FROM messages m WHERE m.connection_id = v.connection_id
         AND m.conversation_id = v.external_id AND m.deleted_at IS NULL) AS last_message_at,
       v.raw, v.created_at, v.updated_at
FROM conversations v
JOIN connections c ON c.id = v.connection_id AND c.source = 'gmail'
WHERE v.deleted_at IS NULL
""",
}


def downgrade() -> None:
    for name in VIEWS:
        op.execute(f"DROP VIEW {name}")
    for name in ("transcripts", "meetings", "messages", "conversations", "people"):
        op.drop_table(name)
    for name in ("backlog", "runs", "cycles", "cursors", "connections"):
        op.drop_table(name)
