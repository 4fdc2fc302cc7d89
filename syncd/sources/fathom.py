"""Fathom (fathom.video, which records meetings): its external API, https://api.fathom.ai/external/v1.

Its quirks:

- ``/meetings`` filters by ``created_at`` but is ordered by recording start, newest first, ten a page, and knows no
  "changed since": a window is covered only by its last page.
- A meeting is listed seconds after its end; transcript and summary follow minutes later, in no told time. A missing
  one is 404, null, ``[]`` or an empty markdown, all the same. So ``meetings`` announces, and ``details`` tries.
- A listing that does not ask for the summary shows null: it says nothing about the summary that we hold.
- OAuth apps may not list transcripts and summaries; they ask ``/recordings`` one by one. A key gets both in a listing.
- Refresh tokens are good for one use. Error bodies have no schema; a 429 may be an empty text/html page.
- Nobody is told who they are, and the directory of users is for admins: people are known as recorders and invitees
  only, so there is no stream of them.
"""

from __future__ import annotations

import re
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from syncd.errors import AuthError, Misconfigured, Rejected, Transient
from syncd.records import Meeting, Transcript, without
from syncd.source import Page, Pending, Report, Setting, Since, Source, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
    from datetime import date

    from syncd.http import Answer, Link
    from syncd.records import Record

Json = dict[str, Any]

_SECOND = timedelta(seconds=1)  # whether created_after and created_before are inclusive is not told
# Left out of the digest: `transcript` is a record of its own, and names are matched only where it was asked for.
_UNSTEADY = frozenset({"transcript", "matched_speaker_display_name"})
_SHARED = {"no_teams": True, "single_team": False, "multiple_teams": False, "all_teams": False}
_KEY_HINT = "the API key is wrong, revoked or of a user who left: make a new one in Fathom's settings"
_OAUTH_HINT = "connect Fathom again: it was revoked there, or its refresh token was used elsewhere"
_IN_RECORDING = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,6}(?:\.\d{1,9})?)")


class _Api:
    """Fathom's calls for one run. Whatever it answers but success is raised as a `SourceError`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._base = str(link.options["base_url"]).rstrip("/") + "/"
        self.key = _text(link.credentials.get("api_key"))
        self.teams: Sequence[str] = link.settings.get("teams", ())
        self.max_new: int = link.options["max_new_per_run"]

    async def listing(self, **wanted: str) -> AsyncGenerator[tuple[list[Json], bool], None]:
        """Meetings with action items, newest recording first, a page at a time: (meetings, whether it is the last).

        A page token that is refused (400; how long one lives is not told) starts the listing again, once: a meeting
        may then come twice.
        """
        params = {"include_action_items": "true", "teams[]": self.teams, **wanted}
        heavy = "include_transcript" in wanted
        seen: set[str | None] = set()
        token, restarted = None, False
        while token or not seen:
            try:
                items, token = await self.page("meetings", params, token, heavy=heavy)
            except Rejected:
                if token is None or restarted:
                    raise
                token, restarted, seen = None, True, set()
                continue
            if token in seen:
                raise Transient("the listing of meetings repeats a page token")
            seen.add(token)
            yield items, token is None

    async def recording(self, recording_id: str, part: str) -> Any:
        """``part`` is transcript or summary; None while it is not ready."""
        body = await self._get(f"recordings/{recording_id}/{part}", {}, heavy=True)
        return body and body.get(part)

    async def page(
        self, path: str, params: Json, token: str | None, *, heavy: bool = False
    ) -> tuple[list[Json], str | None]:
        """The items of one page, and the token of the next; null, absent and blank end the list."""
        body = await self._get(path, params | ({"cursor": token} if token else {}), heavy=heavy)
        if body is None:
            raise Misconfigured(f"{path}: HTTP 404", hint="wrong base_url: it ends in /external/v1")
        if not isinstance(body.get("items"), list):  # taken for an empty page, it would seem read to its end
            raise Transient(f"{path}: a page without items")
        return _objects(body["items"]), _text(body.get("next_cursor"))

    async def _get(self, path: str, params: Json, *, heavy: bool) -> Json | None:
        """The object it answers with; None for a 404."""
        method = re.sub(r"/\d+/", "/", path)

        async def attempt() -> Json | None:
            answer = await self._link.net.ask("GET", self._base + path, params=params, headers=await self._headers())
            if fault := answer.passing_fault():
                raise fault
            if answer.status == 401:
                raise AuthError(f"{method}: {_words(answer)}", hint=_KEY_HINT if self.key else _OAUTH_HINT)
            if answer.status not in {200, 404}:
                raise Rejected(f"{method}: {_words(answer)}")
            return answer.json() if answer.status == 200 else None

        return await self._link.call(method, attempt, draws={"calls": 1, "heavy": 1} if heavy else {"calls": 1})

    async def _headers(self) -> dict[str, str]:
        token = self.key or await self._link.access_token()
        if not token.isascii():
            raise AuthError("the credentials hold a character that cannot be sent", hint="copy them again")
        return {"X-Api-Key": token} if self.key else {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def _connect(link: Link) -> AsyncIterator[_Api]:
    api = _Api(link)
    if not api.key:
        link.refresh = lambda: _refreshed(link)
    yield api


async def _refreshed(link: Link) -> Mapping[str, Any]:
    """New tokens for the refresh token, which is spent by it."""
    held = {name: link.credentials.get(name) for name in ("refresh_token", "client_id", "client_secret")}

    async def attempt() -> Json:
        form = {"grant_type": "refresh_token", **held}
        answer = await link.net.ask("POST", str(link.options["token_url"]), data=form)
        if fault := answer.passing_fault():
            raise fault
        if answer.status != 200:
            raise AuthError(f"no new token: {_words(answer)}", hint=_OAUTH_HINT)
        return answer.json()

    got = await link.call("oauth2.token", attempt, draws={"token": 1}, renews=False)
    if not _text(got.get("access_token")):
        raise Transient("oauth2.token: an answer without access_token")
    lives = got.get("expires_in")
    return {
        "access_token": got["access_token"],
        "refresh_token": _text(got.get("refresh_token")) or held["refresh_token"],
        # None where it is not told: the token is then used until it is refused
        "expires_at": _zulu(link.now() + timedelta(seconds=min(lives, 1e9))) if isinstance(lives, int) else None,
    }


async def _meetings(api: _Api, since: Since) -> AsyncIterator[Page]:
    """The window's meetings without transcript; what lacks a part is announced to `_details`."""
    begins = since.now - since.lookback
    begins = min(_moment(since.cursors.get("")) or begins, begins)
    async with aclosing(api.listing(created_after=_zulu(begins - _SECOND))) as pages:
        async for items, last in pages:
            found = await _merged(since, items)
            heard = await since.stored(Transcript, list(found))
            yield Page(
                records=[_meeting(recording_id, raw) for recording_id, raw in found.items()],
                pending=[
                    Pending(recording_id, "transcript and summary not read yet", stream="details")
                    for recording_id, raw in found.items()
                    if recording_id not in heard or not _markdown(raw["default_summary"])
                ],
                cursor=since.now.isoformat() if last else None,
            )


async def _details(api: _Api, since: Since) -> AsyncIterator[Page]:
    """Transcripts and summaries of what is in the backlog: a key lists them by day, an OAuth app asks one by one."""
    due = [waiting.external_id for waiting in since.backlog if waiting.attempts]
    due += [waiting.external_id for waiting in since.backlog if not waiting.attempts][: api.max_new]
    stored = await since.stored(Meeting, due, "created_at")
    if gone := [recording_id for recording_id in due if recording_id not in stored]:
        yield Page(resolved=gone)  # announced in one page with their meetings, so those were deleted since
    days: dict[date, dict[str, datetime]] = {}
    single: list[str] = []
    for recording_id, (created,) in stored.items():
        created_at = _moment(created)
        if api.key and created_at:
            days.setdefault(created_at.date(), {})[recording_id] = created_at
        else:
            single.append(recording_id)
    for day in sorted(days):
        async with aclosing(_listed(api, since, days[day])) as pages:
            async for page in pages:
                yield page
    for recording_id in single:
        yield await _asked(api, since, recording_id)


async def _listed(api: _Api, since: Since, due: dict[str, datetime]) -> AsyncGenerator[Page, None]:
    """The parts of these meetings (id → created_at) from a listing of their span; what is not due is left aside."""
    wanted = {
        "created_after": _zulu(min(due.values()) - _SECOND),
        "created_before": _zulu(max(due.values()) + _SECOND),
        "include_transcript": "true",
        "include_summary": "true",
    }
    async with aclosing(api.listing(**wanted)) as pages:
        async for items, _ in pages:
            said = {_identity(item): item.get("transcript") for item in items}
            found = await _merged(since, [item for item in items if _identity(item) in due])
            for recording_id, raw in found.items():
                del due[recording_id]
                yield _outcome(recording_id, raw, said[recording_id])
    if due:
        yield Page(pending=[Pending(recording_id, "no longer visible") for recording_id in due])


async def _asked(api: _Api, since: Since, recording_id: str) -> Page:
    """The parts of one meeting, from ``/recordings``; only those that we do not hold."""
    raw = (await since.stored(Meeting, [recording_id], "*"))[recording_id][0]
    heard = bool(await since.stored(Transcript, [recording_id]))
    summary, transcript = raw.get("default_summary"), None
    try:
        if not heard:
            transcript = await api.recording(recording_id, "transcript")
        if not _markdown(summary):
            summary = await api.recording(recording_id, "summary")
    except Rejected as error:
        return Page(pending=[Pending(recording_id, error.message)])
    return _outcome(recording_id, {**raw, "default_summary": summary}, transcript, heard=heard)


def _outcome(recording_id: str, raw: Json, transcript: object, *, heard: bool = False) -> Page:
    """What one try brought. ``heard``: the transcript was stored before."""
    said = transcript if isinstance(transcript, list) else []
    records: list[Record] = []
    if summary := _markdown(raw["default_summary"]):
        records.append(_meeting(recording_id, raw))
    if said:
        records.append(_transcript(recording_id, said, raw.get("transcript_language")))
    missing = ([] if said or heard else ["transcript"]) + ([] if summary else ["summary"])
    pending = [Pending(recording_id, f"{' and '.join(missing)} not ready")] if missing else []
    return Page(records=records, pending=pending, resolved=[] if missing else [recording_id])


async def _merged(since: Since, items: Iterable[Json]) -> dict[str, Json]:
    """Listed meetings by id, each with the summary that we hold if it shows none. One without an id cannot be stored.

    Without this a listing that does not ask for summaries would wipe them.
    """
    listed = {recording_id: item for item in items if (recording_id := _identity(item))}
    stored = await since.stored(Meeting, list(listed), "default_summary")
    merged = {}
    for recording_id, item in listed.items():
        summaries = (item.get("default_summary"), *stored.get(recording_id, ()))
        summary = next((one for one in summaries if _markdown(one)), None)
        merged[recording_id] = {**item, "transcript": None, "default_summary": summary}
    return merged


def _meeting(recording_id: str, raw: Json) -> Meeting:
    """Times are the recording's, else the calendar's, else the moment it was listed."""
    kind = next((one for one in ("recording", "scheduled") if _moment(raw.get(f"{one}_start_time"))), "recording")
    begin, end = (_moment(raw.get(f"{kind}_{edge}_time")) for edge in ("start", "end"))
    begin = begin or _moment(raw.get("created_at"))
    items = _objects(raw.get("action_items"))  # without ids and without a promised order: compared as a set
    ordered = sorted(items, key=lambda item: orjson.dumps(item, option=orjson.OPT_SORT_KEYS))
    return Meeting(
        external_id=recording_id,
        raw=raw,
        stable=without({**raw, "action_items": ordered} if items else raw, _UNSTEADY),
        title=_text(raw.get("title")) or _text(raw.get("meeting_title")),
        started_at=begin,
        ended_at=end,
        duration_s=(end - begin).total_seconds() if begin and end and end >= begin else None,
        host=_text(_object(raw.get("recorded_by")).get("name")),
        participants=[
            {"name": _text(p.get("name")), "email": _text(p.get("email")), "is_external": _flag(p.get("is_external"))}
            for p in _objects(raw.get("calendar_invitees"))
        ],
        url=_text(raw.get("share_url")) or _text(raw.get("url")),
        summary=_markdown(raw.get("default_summary")),
        action_items=[_action_item(item) for item in items],
        # fathom-python: no_teams is private to the recorder; a word we do not know says nothing
        is_private=_SHARED.get(_text(raw.get("shared_with")) or ""),
    )


def _action_item(item: Json) -> Json:
    assignee = _object(item.get("assignee"))
    return {
        "text": _text(item.get("description")),
        "assignee": _text(assignee.get("name")) or _text(assignee.get("email")),
        "completed": _flag(item.get("completed")),
        "at_s": _seconds(item.get("recording_timestamp")),
    }


def _transcript(recording_id: str, said: list[object], language: object) -> Transcript:
    turns = [_turn(one, _object(one.get("speaker"))) for one in _objects(said)]
    text = "\n".join(f"{turn['speaker']}: {turn['text']}" if turn["speaker"] else str(turn["text"]) for turn in turns)
    raw = {"transcript": said}
    return Transcript(external_id=recording_id, raw=raw, language=_text(language), segments=turns, text=text)


def _turn(one: Json, speaker: Json) -> Json:
    return {
        "speaker": _text(speaker.get("display_name")),
        "speaker_id": _text(speaker.get("matched_calendar_invitee_email")),
        "start_s": _seconds(one.get("timestamp")),
        "end_s": None,
        "text": _text(one.get("text")) or "",
    }


async def _check(api: _Api) -> Report:
    """One light page of meetings and the teams. Transcripts and summaries are not tried, and that is said."""
    async with aclosing(api.listing()) as pages:
        meetings, last = await anext(pages)
    identity = f"Fathom by {'API key' if api.key else 'OAuth'} (it does not tell whose)"
    recorders = {name for one in meetings if (name := _text(_object(one.get("recorded_by")).get("name")))}
    facts = [
        f"meetings seen: {len(meetings)}{'' if last else ' and more'}",
        f"recorded by: {', '.join(sorted(recorders)) or 'nobody'}",
        "transcripts and summaries were not tried",
    ]
    try:
        teams, _ = await api.page("teams", {}, None)  # they have no ids
    except Rejected as error:
        return Report(identity, facts, [(error.message, "ask an admin to let this user see the teams")])
    names = sorted(name for team in teams if (name := _text(team.get("name"))))
    visible = f"visible teams: {', '.join(names) or 'none'}"
    unknown = [name for name in api.teams if name not in names]
    problems = [(f"team {name!r} is not visible", f"correct the setting teams; {visible}") for name in unknown]
    return Report(identity, [*facts, visible], problems)


def _words(answer: Answer) -> str:
    body = answer.object_or_none() or {}
    words = next((text for name in ("error_description", "message", "error") if (text := _text(body.get(name)))), "")
    return f"HTTP {answer.status} {words[:200]}".strip()


def _zulu(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _identity(item: Json) -> str | None:
    found = str(item.get("recording_id"))
    return found if found.isascii() and found.isdecimal() else None


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Json]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _markdown(summary: object) -> str | None:
    return _text(_object(summary).get("markdown_formatted"))


def _moment(value: object) -> datetime | None:
    """ISO 8601, whole seconds or microseconds; without an offset it is UTC."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at and (at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


def _seconds(value: object) -> float | None:
    """``HH:MM:SS`` from the start of the recording."""
    match = _IN_RECORDING.fullmatch(value) if isinstance(value, str) else None
    return int(match[1] or 0) * 3600.0 + int(match[2]) * 60 + float(match[3]) if match else None


SOURCE = Source(
    name="fathom",
    connect=_connect,
    streams=(Stream("meetings", _meetings), Stream("details", _details)),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(frozenset({"api_key"}), frozenset({"access_token", "refresh_token", "client_id", "client_secret"})),
    settings={
        "teams": Setting(lambda names: isinstance(names, list) and all(map(_text, names)), "a list of team names")
    },
    check=_check,
)
