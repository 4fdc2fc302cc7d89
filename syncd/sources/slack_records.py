"""Slack's people, conversations and messages as records. Pure; belongs to `slack`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from syncd.records import Conversation, Message, Person, without
from syncd.sources.slack_text import Json, objects, plain, text

# Differ from call to call, or between the copies in history and in replies, though nothing happened.
VOLATILE = frozenset({"block_id", "subscribed", "last_read", "root", "unread_count", "unread_count_display", "latest"})
_TS, _EPOCH = re.compile(r"([0-9]{1,11})\.([0-9]{6})"), datetime(1970, 1, 1, tzinfo=UTC)
_FILE = ("id", "name", "title", "mimetype", "size", "permalink")
_KINDS = (("is_im", "im"), ("is_mpim", "mpim"), ("is_private", "group"), ("is_group", "group"))


def person(raw: Json) -> Person:
    profile, is_bot = raw.get("profile"), raw.get("is_bot") if isinstance(raw.get("is_bot"), bool) else None
    name = text(profile, "display_name") or text(profile, "real_name") or text(raw, "name") or None
    return Person(external_id=raw["id"], raw=raw, name=name, email=text(profile, "email") or None, is_bot=is_bot)


def conversation(raw: Json) -> Conversation:
    """Contract: its kind is told by flags, never by the first letter of the id. A DM has no name: the other's id."""
    kind = next((kind for flag, kind in _KINDS if raw.get(flag) is True), "channel")
    return Conversation(
        external_id=raw["id"], raw=raw, stable=without(raw, VOLATILE), kind=kind, is_private=kind != "channel",
        name=text(raw, "user" if kind == "im" else "name") or None, is_archived=raw.get("is_archived") is True,
    )  # fmt: skip


def message(channel: str, raw: Json) -> Message:
    """Where there is no text, it is what the blocks, the attachments or the names of the files say."""
    thread, files = text(raw, "thread_ts"), objects(raw.get("files"))
    return Message(
        external_id=f"{channel}:{raw['ts']}",
        raw=raw,
        stable=without(raw, VOLATILE),
        conversation_id=channel,
        thread_id=f"{channel}:{thread}" if thread else None,
        author_id=text(raw, "user") or text(raw, "bot_id") or None,
        author=text(raw, "username") or text(raw, "bot_profile", "name") or None,
        sent_at=moment(raw["ts"]),
        edited_at=moment(text(raw, "edited", "ts")),
        text=_said(raw, files),
        attachments=[{key: part.get(key) for key in _FILE} for part in files],
    )


def _said(raw: Json, files: list[Json]) -> str | None:
    """The other places are dear to read, and nearly always there is a text."""
    if (said := plain(raw.get("text"), mrkdwn=True)).strip():
        return said
    names = [text(part, "title") or text(part, "name") for part in files]
    places = (raw.get("blocks"), raw.get("attachments"), names)
    return next((said for place in places if (said := plain(place)).strip()), None)


@lru_cache(maxsize=1024)  # a page's are asked for more than once
def moment(ts: str) -> datetime | None:
    """A ts as aware UTC, by its digits; None where it is none."""
    found = _TS.fullmatch(ts) if ts else None
    return _EPOCH + timedelta(0, int(found[1]), int(found[2])) if found else None


@lru_cache(maxsize=64)  # a run's start is the end of every channel's window
def ts_of(at: datetime) -> str:
    """A moment as a ts: the bound of a window."""
    return f"{at.replace(microsecond=0).timestamp():.0f}.{at.microsecond:06d}"


def is_gone(raw: Json) -> bool:
    """A deleted parent whose replies are still there."""
    return raw.get("subtype") == "tombstone"


def is_broadcast(raw: Json) -> bool:
    """A reply that was also sent to the channel: it is in the history and in its thread."""
    return raw.get("subtype") == "thread_broadcast"
