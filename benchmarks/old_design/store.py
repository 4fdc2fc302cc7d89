"""The tables of the old design and its two ways to write them: a merge per row, or an upsert per page."""

from __future__ import annotations

import os
from datetime import datetime  # noqa: TC003 - SQLAlchemy reads the annotations
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

ENGINE = create_engine(os.environ["OLD_DATABASE"], pool_size=5)
Sessions = sessionmaker(ENGINE)
BULK = os.environ.get("OLD_WRITES") == "bulk"


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSONB}  # noqa: RUF012 - SQLAlchemy's way


class Message(Base):
    __tablename__ = "messages"
    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str]
    thread_ts: Mapped[str | None]
    author_id: Mapped[str | None]
    sent_at: Mapped[datetime]
    text: Mapped[str | None]
    raw: Mapped[dict[str, Any]]


class Person(Base):
    __tablename__ = "people"
    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    raw: Mapped[dict[str, Any]]


class Meeting(Base):
    __tablename__ = "meetings"
    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    started_at: Mapped[datetime]
    raw: Mapped[dict[str, Any]]


class Transcript(Base):
    __tablename__ = "transcripts"
    workspace_id: Mapped[str] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(primary_key=True)
    text: Mapped[str]
    raw: Mapped[dict[str, Any]]


def save(session: Session, model: type[Base], rows: list[dict[str, Any]]) -> int:
    """A page of rows, committed. Answers how many."""
    if not rows:
        return 0
    if BULK:
        statement = insert(model)
        keys = {"workspace_id", "external_id"}
        new = {name: statement.excluded[name] for name in model.__table__.columns.keys() if name not in keys}  # noqa: SIM118
        unique = {row["external_id"]: row for row in rows}
        session.execute(
            statement.on_conflict_do_update(index_elements=["workspace_id", "external_id"], set_=new),
            list(unique.values()),
        )
    else:
        for row in rows:
            session.merge(model(**row))
    session.commit()
    return len(rows)
