"""The schema as SQLAlchemy Core tables: what `store` reads and writes. `migrations/` makes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from syncd.records import Conversation, Meeting, Message, Person, Transcript

if TYPE_CHECKING:
    from sqlalchemy import Dialect

    from syncd.records import Kind


class UtcDateTime(TypeDecorator[datetime]):
    """Aware UTC in and out, on both databases; SQLite would drop the offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a naive time reached the database: {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers rows only where the type is INTEGER

metadata = MetaData()

connections = Table(
    "connections",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("workspace_id", Text),
    Column("source", String(32), nullable=False),
    Column("account", Text, nullable=False, server_default=""),
    Column("is_active", Boolean, nullable=False),
    Column("status", String(32), nullable=False),
    Column("settings", Json, nullable=False),
    Column("credentials", Text),
    Column("failures", Integer, nullable=False),
    Column("next_sync_at", UtcDateTime),
    Column("lease", Text),
    Column("leased_until", UtcDateTime),
    Column("last_success_at", UtcDateTime),
    Column("last_error", Text),
    Column("last_error_kind", String(32)),
    Column("last_error_at", UtcDateTime),
    Column("limited_until", UtcDateTime),
    Column("limited_by", Text),
    Column("progress", Json),
    Column("identity", Text),
    Column("renewing", Text),
    Column("renewing_until", UtcDateTime),
    Column("last_sweep_at", UtcDateTime),
    Column("status_since", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    UniqueConstraint("source", "workspace_id", "account", name="connections_key"),
    Index("connections_due", "source", "next_sync_at", "id"),
    sqlite_autoincrement=True,  # an id is never given twice: a sealed secret names the id it belongs to
)

cursors = Table(
    "cursors",
    metadata,
    Column("connection_id", BigId, primary_key=True, autoincrement=False),
    Column("stream", String(64), primary_key=True),
    Column("partition", Text, primary_key=True),
    Column("cursor", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

cycles = Table(
    "cycles",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("source", String(32), nullable=False),
    Column("trigger", String(16), nullable=False),
    Column("turn", UtcDateTime),
    Column("status", String(16), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    *(
        Column(name, Integer, nullable=False, server_default="0")
        for name in (
            "total",
            "added",
            "changed",
            "deleted",
            "calls",
            "successful_workspaces",
            "failed_workspaces",
            "deferred_workspaces",
        )
    ),
    UniqueConstraint("source", "turn", name="cycles_turn"),
    Index("cycles_latest", "source", "started_at"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("cycle_id", BigId, nullable=False),
    Column("connection_id", BigId, nullable=False),
    Column("status", String(16), nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("finished_at", UtcDateTime),
    *(
        Column(name, Integer, nullable=False, server_default="0")
        for name in ("records", "added", "changed", "deleted", "calls")
    ),
    Column("error_kind", String(32)),
    Column("error", Text),
    Column("hint", Text),
    Column("cursors", Json),
    Index("runs_of_cycle", "cycle_id", "connection_id"),
    Index("runs_of_connection", "connection_id", "id"),
)

backlog = Table(
    "backlog",
    metadata,
    Column("connection_id", BigId, primary_key=True, autoincrement=False),
    Column("stream", String(64), primary_key=True),
    Column("external_id", Text, primary_key=True),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", UtcDateTime, nullable=False),
    Column("last_error", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Index("backlog_due", "connection_id", "stream", "next_try_at"),
)

watches = Table(
    "watches",
    metadata,
    Column("connection_id", BigId, primary_key=True, autoincrement=False),
    Column("stream", String(64), primary_key=True),
    Column("external_id", Text, primary_key=True),
    Column("next_try_at", UtcDateTime, nullable=False),
    Index("watches_due", "connection_id", "stream", "next_try_at"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("credential", Text, primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("drawn", Json, nullable=False),
    Column("closed_until", UtcDateTime),
    Column("low_until", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
)


purges = Table(
    "purges",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("purged_at", UtcDateTime, nullable=False),
    Column("purged_by", Text, nullable=False),
    Column("connection_id", BigId, nullable=False),
    Column("workspace_id", Text),
    Column("source", String(32), nullable=False),
    Column("counts", Json, nullable=False),
)

_OPEN, _WAITING = text("ended_at IS NULL"), text("next_try_at IS NOT NULL")

alerts = Table(
    "alerts",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("connection_id", BigId, nullable=False),
    Column("source", String(32), nullable=False),
    Column("cause", String(32), nullable=False),
    Column("trouble", String(32), nullable=False),
    Column("seen_at", UtcDateTime, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("well_at", UtcDateTime),
    Column("told", String(32)),
    Column("outage", Text),
    Column("rounds", Integer, nullable=False),
    Column("ended", String(16)),
    Column("ended_at", UtcDateTime),
    Index("alerts_open", "connection_id", unique=True, sqlite_where=_OPEN, postgresql_where=_OPEN),
)

notices = Table(
    "notices",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("made_at", UtcDateTime, nullable=False),
    Column("event", String(32), nullable=False),
    Column("source", String(32), nullable=False),
    Column("cause", String(32), nullable=False),
    Column("connection_id", BigId),
    Column("connections", Json, nullable=False),
    Column("count", Integer, nullable=False),
    Column("remaining", Integer, nullable=False),
    Column("since", UtcDateTime),
    Column("reason", Text, nullable=False),
    Column("way_out", Text, nullable=False),
    Column("outage", Text),
    Column("few_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Index("notices_of_connection", "connection_id"),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("notice_id", BigId, primary_key=True, autoincrement=False),
    Column("receiver", String(16), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("next_try_at", UtcDateTime),
    Column("refused", Boolean, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("error", Text),
    Index("deliveries_waiting", "receiver", "notice_id", sqlite_where=_WAITING, postgresql_where=_WAITING),
)


def _records(name: str, *columns: Column[Any] | Index) -> Table:
    """A record table: keyed by connection and the vendor's id. No foreign key: each of millions of rows would pay."""
    return Table(
        name,
        metadata,
        Column("connection_id", BigId, primary_key=True, autoincrement=False),
        Column("external_id", Text, primary_key=True),
        *columns,
        Column("raw", Json, nullable=False),
        Column("digest", String(32), nullable=False),
        Column("created_at", UtcDateTime, nullable=False),
        Column("updated_at", UtcDateTime, nullable=False),
        Column("deleted_at", UtcDateTime),
    )


people = _records("people", Column("name", Text), Column("email", Text), Column("is_bot", Boolean))
conversations = _records(
    "conversations",
    Column("kind", String(16), nullable=False),
    Column("name", Text),
    Column("is_private", Boolean),
    Column("is_archived", Boolean),
)
messages = _records(
    "messages",
    Column("conversation_id", Text, nullable=False),
    Column("thread_id", Text),
    Column("author_id", Text),
    Column("author", Text),
    Column("sent_at", UtcDateTime),
    Column("edited_at", UtcDateTime),
    Column("text", Text),
    Column("html", Text),
    Column("labels", Json),
    Column("recipients", Json),
    Column("attachments", Json),
    Index("messages_of_conversation", "connection_id", "conversation_id", "sent_at"),
    Index("messages_of_thread", "connection_id", "thread_id"),
)
meetings = _records(
    "meetings",
    Column("title", Text),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("duration_s", Float),
    Column("host", Text),
    Column("participants", Json),
    Column("url", Text),
    Column("summary", Text),
    Column("action_items", Json),
    Column("is_private", Boolean),
    Index("meetings_by_start", "connection_id", "started_at"),
)
transcripts = _records("transcripts", Column("language", Text), Column("segments", Json), Column("text", Text))

OF_KIND: dict[Kind, Table] = {
    Person: people,
    Conversation: conversations,
    Message: messages,
    Meeting: meetings,
    Transcript: transcripts,
}
