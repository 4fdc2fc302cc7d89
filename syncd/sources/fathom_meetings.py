"""Fathom's meetings and transcripts as records, and tolerant looks into its JSON: any field may have a wrong form."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from syncd.records import Meeting, Transcript, without

Json = dict[str, Any]

# Left out of the digest: `transcript` is a record of its own, and names are matched only where it was asked for.
_UNSTEADY = frozenset({"transcript", "matched_speaker_display_name"})
_SHARED = {"no_teams": True, "single_team": False, "multiple_teams": False, "all_teams": False}
_IN_RECORDING = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6}(?:\.\d{1,9})?)")


def meeting(recording_id: str, raw: Json) -> Meeting:
    """Times are the recording's, else the calendar's, else the moment it was listed."""
    kind = next((one for one in ("recording", "scheduled") if moment(raw.get(f"{one}_start_time"))), "recording")
    begin, end = (moment(raw.get(f"{kind}_{edge}_time")) for edge in ("start", "end"))
    begin = begin or moment(raw.get("created_at"))
    items = objects(raw.get("action_items"))  # without ids and without a promised order: compared as a set
    # json: orjson does not write what may have been read: a lone surrogate, a huge integer
    ordered = sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    return Meeting(
        external_id=recording_id,
        raw=raw,
        stable=without({**raw, "action_items": ordered} if items else raw, _UNSTEADY),
        title=text(raw.get("title")) or text(raw.get("meeting_title")),
        started_at=begin,
        ended_at=end,
        duration_s=(end - begin).total_seconds() if begin and end and end >= begin else None,
        host=text(fields(raw.get("recorded_by")).get("name")),
        participants=[
            {"name": text(p.get("name")), "email": text(p.get("email")), "is_external": _flag(p.get("is_external"))}
            for p in objects(raw.get("calendar_invitees"))
        ],
        url=text(raw.get("share_url")) or text(raw.get("url")),
        summary=markdown(raw.get("default_summary")),
        action_items=[_action_item(item) for item in items],
        # fathom-python: no_teams is private to the recorder; a word we do not know says nothing
        is_private=_SHARED.get(text(raw.get("shared_with")) or ""),
    )


def _action_item(item: Json) -> Json:
    assignee = fields(item.get("assignee"))
    return {
        "text": text(item.get("description")),
        "assignee": text(assignee.get("name")) or text(assignee.get("email")),
        "completed": _flag(item.get("completed")),
        "at_s": _seconds(item.get("recording_timestamp")),
    }


def turns(value: object) -> list[object]:
    """A transcript's turns where they have the documented form (contract), else none: it is read once, so what has
    not is left for a later try.
    """
    given = value if isinstance(value, list) else []
    told = [fields(one) for one in given]
    whole = all(isinstance(one.get("text"), str) and isinstance(one.get("speaker", {}), dict) for one in told)
    return given if whole else []


def transcript(recording_id: str, said: list[object], language: object) -> Transcript:
    parts = [_turn(one, fields(one.get("speaker"))) for one in objects(said)]
    lines = "\n".join(f"{turn['speaker']}: {turn['text']}" if turn["speaker"] else str(turn["text"]) for turn in parts)
    raw = {"transcript": said}
    return Transcript(external_id=recording_id, raw=raw, language=text(language), segments=parts, text=lines)


def _turn(one: Json, speaker: Json) -> Json:
    return {
        "speaker": text(speaker.get("display_name")),
        "speaker_id": text(speaker.get("matched_calendar_invitee_email")),
        "start_s": _seconds(one.get("timestamp")),
        "end_s": None,
        "text": text(one.get("text")) or "",
    }


def zulu(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def identity(item: Json) -> str | None:
    found = str(item.get("recording_id"))
    return found if found.isascii() and found.isdecimal() else None


def fields(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def markdown(summary: object) -> str | None:
    return text(fields(summary).get("markdown_formatted"))


def lacking(raw: Json, *, heard: bool) -> list[str]:
    """The parts that are not there yet. No action items are ``[]``; null means that they are not made yet."""
    there = {"transcript": heard, "summary": markdown(raw.get("default_summary"))}
    there["action items"] = raw.get("action_items") is not None
    return [part for part, found in there.items() if not found]


def moment(value: object) -> datetime | None:
    """ISO 8601, whole seconds or microseconds; without an offset it is UTC. One that no meeting has is None."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        at = at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
    return at if at and 1970 <= at.year < 3000 else None


def _seconds(value: object) -> float | None:
    """``HH:MM:SS`` from the start of the recording."""
    match = _IN_RECORDING.fullmatch(value) if isinstance(value, str) else None
    return int(match[1] or 0) * 3600.0 + int(match[2]) * 60 + float(match[3]) if match else None
