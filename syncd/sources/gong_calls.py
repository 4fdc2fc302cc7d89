"""Gong's calls, transcripts and users as records, and tolerant looks into its JSON."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.records import Meeting, Person, Transcript

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 10**10  # of a number that a time can be reckoned with


def person(row: Mapping[str, Any]) -> Person:
    name = " ".join(filter(None, (text(row.get("firstName")), text(row.get("lastName")))))
    email = text(row.get("emailAddress"))
    return Person(external_id=id_text(row.get("id")) or "", raw=row, name=name or None, email=email)


def meeting(call: Mapping[str, Any]) -> Meeting:
    meta, content = _object(call.get("metaData")), _object(call.get("content"))
    started_at, duration_s = moment(meta.get("started")), number(meta.get("duration"))
    parties = [_party(one) for one in dicts(call.get("parties"))]
    host, private = id_text(meta.get("primaryUserId")), meta.get("isPrivate")
    names = {one["user_id"] or "": one["name"] or one["email"] for one in parties}
    return Meeting(
        external_id=id_text(meta.get("id")) or "",
        raw=call,
        title=text(meta.get("title")),
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=duration_s) if started_at and duration_s is not None else None,
        duration_s=duration_s,
        host=(names.get(host) or host) if host else None,
        participants=parties,
        url=text(meta.get("url")),
        summary=text(content.get("brief")),
        action_items=[{"text": step} for step in _next_steps(content) if step],
        is_private=private if isinstance(private, bool) else None,
    )


def has_content(call: Mapping[str, Any]) -> bool:
    """Whether Gong's AI has written of the call: the blocks are absent until then, and come together."""
    return any(dig(call, "content", block) for block in ("brief", "keyPoints", "highlights", "outline"))


def _party(one: Mapping[str, Any]) -> dict[str, str | None]:
    member = one.get
    return {
        "name": text(member("name")),
        "email": text(member("emailAddress")),
        "affiliation": text(member("affiliation")),
        "speaker_id": id_text(member("speakerId")),
        "user_id": id_text(member("userId")),
    }


def _next_steps(content: Mapping[str, Any]) -> Iterator[str | None]:
    """From the highlights, and from the points of interest that older accounts may still answer."""
    for section in dicts(content.get("highlights")):
        if (text(section.get("title")) or "").strip().casefold() == "next steps":
            yield from (text(item.get("text")) for item in dicts(section.get("items")))
    for item in dicts(dig(content, "pointsOfInterest", "actionItems")):
        yield text(item.get("snippet"))


def transcript(row: Mapping[str, Any], parties: object = None, meta: object = None) -> Transcript:
    """``parties`` and ``metaData`` of the call's meeting name its speakers and its language."""
    names, known = speakers(parties), dict[str, str]()
    segments, lines = list[dict[str, Any]](), list[str]()
    for monologue in dicts(row.get("transcript")):
        speaker_id, sentences, said = id_text(monologue.get("speakerId")), monologue.get("sentences"), list[str]()
        speaker = names.get(speaker_id) if speaker_id else None
        if speaker_id and speaker:
            known[speaker_id] = speaker
        for one in sentences if isinstance(sentences, list) else ():  # tens of thousands: nothing is called for most
            if not isinstance(one, dict):
                continue
            words, start, end = one.get("text"), one.get("start"), one.get("end")
            if not (words and isinstance(words, str)):
                continue
            said.append(words)
            start_s = start / 1000 if type(start) is int and 0 < start < _MOST else _seconds(start)
            end_s = end / 1000 if type(end) is int and 0 < end < _MOST else _seconds(end)
            segments.append(
                {"speaker": speaker, "speaker_id": speaker_id, "start_s": start_s, "end_s": end_s, "text": words}
            )
        if said:
            lines.append(f"{speaker or 'Unknown speaker'}: {' '.join(said)}")
    call, language = id_text(row.get("callId")) or "", text(dig(meta, "language"))
    # parties come after the transcript and may change: with other names it is another one
    stable = {**row, "speakers": known} if known else None
    return Transcript(
        external_id=call, raw=row, stable=stable, language=language, segments=segments, text="\n".join(lines)
    )


def speakers(parties: object) -> dict[str, str]:
    """Whom a call's parties name: speakerId → name."""
    return {
        speaker_id: name
        for one in dicts(parties)
        if (speaker_id := id_text(one.get("speakerId")))
        and (name := text(one.get("name")) or text(one.get("emailAddress")))
    }


def _seconds(ms: object) -> float | None:
    known = number(ms)
    return known and known / 1000


def dig(value: object, *path: str) -> Any:
    """The member at ``path``; None where anything on the way is absent or no object."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def id_text(value: object) -> str | None:
    """An id as text. A JSON integer is one too; a float has lost digits and is none."""
    if isinstance(value, str):
        return value or None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """A number from 0 on that a time can be reckoned with; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST else None


def moment(value: object) -> datetime | None:
    """Any offset and number of fractional digits, as UTC; without an offset it is taken as UTC. Senseless is None."""
    try:
        at = datetime.fromisoformat(text(value) or "")
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if 1970 <= at.year < 3000 else None
