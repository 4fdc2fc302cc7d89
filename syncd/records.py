"""What is stored: five kinds of records, each a frozen dataclass that a mapper makes from the vendor's JSON.

All times are aware UTC. ``raw`` is the vendor's JSON as it came. ``stable`` is what the digest is taken of where the
vendor changes parts of ``raw`` from read to read though nothing happened (see `without`); None means ``raw`` itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

_HOLDERS = (dict, list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody (or some bot) who writes or speaks. ``is_bot`` None: the vendor does not say."""

    external_id: str
    raw: Mapping[str, Any]
    stable: Mapping[str, Any] | None = None
    name: str | None = None
    email: str | None = None
    is_bot: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A place where messages are: ``kind`` is channel, group, im, mpim or email_thread."""

    external_id: str
    raw: Mapping[str, Any]
    stable: Mapping[str, Any] | None = None
    kind: str
    name: str | None = None
    is_private: bool | None = None
    is_archived: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. ``thread_id``: external id of the message that starts its thread (Slack), None where not threaded.

    ``recipients``: ``[{"type": "to"|"cc"|"bcc"|"reply_to", "name", "email"}]``.
    ``attachments``: ``[{"id", "name", "mimetype", "size", ...}]``: metadata, never the bytes.
    ``author`` is a readable name where the message itself carries one; ``author_id`` points into people.
    """

    external_id: str
    raw: Mapping[str, Any]
    stable: Mapping[str, Any] | None = None
    conversation_id: str
    thread_id: str | None = None
    author_id: str | None = None
    author: str | None = None
    sent_at: datetime | None = None
    edited_at: datetime | None = None
    text: str | None = None
    html: str | None = None
    labels: Sequence[str] = ()
    recipients: Sequence[Mapping[str, Any]] = ()
    attachments: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """One recorded call or meeting. ``duration_s`` in seconds; ``participants``: ``[{"name", "email", ...}]``."""

    external_id: str
    raw: Mapping[str, Any]
    stable: Mapping[str, Any] | None = None
    title: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    duration_s: float | None = None
    host: str | None = None
    participants: Sequence[Mapping[str, Any]] = ()
    url: str | None = None
    summary: str | None = None
    action_items: Sequence[Mapping[str, Any]] = ()
    is_private: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """What was said in a meeting (same ``external_id``).

    ``segments``: ``[{"speaker", "speaker_id", "start_s", "end_s", "text"}]``, times in seconds from the start, None
    where the vendor does not say. ``text``: the same as readable lines, ``Speaker: words``.
    """

    external_id: str
    raw: Mapping[str, Any]
    stable: Mapping[str, Any] | None = None
    language: str | None = None
    segments: Sequence[Mapping[str, Any]] = ()
    text: str | None = None


Record = Person | Conversation | Message | Meeting | Transcript
Kind = type[Person] | type[Conversation] | type[Message] | type[Meeting] | type[Transcript]


@dataclass(frozen=True, slots=True)
class Deletion:
    """The vendor says that it deleted this record. Its content is kept; only ``deleted_at`` is set."""

    kind: Kind
    external_id: str


def without(value: Any, volatile: frozenset[str]) -> Any:
    """A copy of JSON ``value`` with every object key in ``volatile`` left out, at any depth."""
    if isinstance(value, dict):
        return {
            key: without(part, volatile) if isinstance(part, _HOLDERS) else part
            for key, part in value.items()
            if key not in volatile
        }
    if isinstance(value, list):
        return [without(part, volatile) if isinstance(part, _HOLDERS) else part for part in value]
    return value
