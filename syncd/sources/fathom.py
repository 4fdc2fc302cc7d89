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
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, Misconfigured, Rejected, Transient
from syncd.records import Meeting, Transcript
from syncd.source import Page, Pending, Report, Setting, Since, Source, Stream
from syncd.sources.fathom_meetings import (
    Json,
    fields,
    identity,
    markdown,
    meeting,
    moment,
    objects,
    text,
    transcript,
    zulu,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
    from datetime import date

    from syncd.http import Answer, Link
    from syncd.records import Record

_SECOND = timedelta(seconds=1)  # whether created_after and created_before are inclusive is not told
_DOWN = 3  # passing faults in a row, each of another meeting or day, after which the vendor is taken to be down
_KEY_HINT = "the API key is wrong, revoked or of a user who left: make a new one in Fathom's settings"
_OAUTH_HINT = "connect Fathom again: it was revoked there, or its refresh token was used elsewhere"


class _Api:
    """Fathom's calls for one run. Whatever it answers but success is raised as a `SourceError`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._base = str(link.options["base_url"]).rstrip("/") + "/"
        self.key = text(link.credentials.get("api_key"))
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
        return objects(body["items"]), text(body.get("next_cursor"))

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
    if not text(got.get("access_token")):
        raise Transient("oauth2.token: an answer without access_token")
    lives = got.get("expires_in")
    ends = link.now() + timedelta(seconds=min(max(lives, 0), 10**9)) if isinstance(lives, int) else None
    return {
        "access_token": got["access_token"],
        "refresh_token": text(got.get("refresh_token")) or held["refresh_token"],
        # None where it is not told: the token is then used until it is refused
        "expires_at": ends and zulu(ends),
    }


async def _meetings(api: _Api, since: Since) -> AsyncIterator[Page]:
    """The window's meetings without transcript; what lacks a part is announced to `_details`."""
    begins = since.now - since.lookback
    begins = min(moment(since.cursors.get("")) or begins, begins)
    async with aclosing(api.listing(created_after=zulu(begins - _SECOND))) as pages:
        async for items, last in pages:
            found = await _merged(since, items)
            heard = await since.held.stored(Transcript, list(found))
            yield Page(
                records=[meeting(recording_id, raw) for recording_id, raw in found.items()],
                pending=[
                    Pending(recording_id, "transcript and summary not read yet", stream="details")
                    for recording_id, raw in found.items()
                    if recording_id not in heard or not markdown(raw["default_summary"])
                ],
                cursor=since.now.isoformat() if last else None,
            )


async def _details(api: _Api, since: Since) -> AsyncIterator[Page]:
    """Transcripts and summaries of what is in the backlog: a key lists them by day, an OAuth app asks one by one."""
    due = [waiting.external_id for waiting in since.backlog if waiting.attempts]
    due += [waiting.external_id for waiting in since.backlog if not waiting.attempts][: api.max_new]
    stored = await since.held.stored(Meeting, due, "created_at")
    if gone := [recording_id for recording_id in due if recording_id not in stored]:
        yield Page(resolved=gone)  # announced in one page with their meetings, so those were deleted since
    days: dict[date, dict[str, datetime]] = {}
    single: list[str] = []
    for recording_id, (created,) in stored.items():
        created_at = moment(created)
        if api.key and created_at:
            days.setdefault(created_at.date(), {})[recording_id] = created_at
        else:
            single.append(recording_id)
    tries: list[tuple[Collection[str], AsyncGenerator[Page, None]]] = []
    tries += [(days[day], _listed(api, since, days[day])) for day in sorted(days)]
    tries += [([recording_id], _asked(api, since, recording_id)) for recording_id in single]
    async with aclosing(_each(tries)) as pages:
        async for page in pages:
            yield page


async def _each(tries: Iterable[tuple[Collection[str], AsyncGenerator[Page, None]]]) -> AsyncGenerator[Page, None]:
    """One try after the other. What fails is counted as tried, and waits: it must not block what comes after it."""
    failed = 0
    for due, brought in tries:
        try:
            async with aclosing(brought) as pages:
                async for page in pages:
                    yield page
            failed = 0
        except (Rejected, Transient) as error:
            failed = failed + 1 if isinstance(error, Transient) else 0
            yield Page(pending=[Pending(recording_id, error.message) for recording_id in due])
            if failed == _DOWN:
                raise


async def _listed(api: _Api, since: Since, due: dict[str, datetime]) -> AsyncGenerator[Page, None]:
    """The parts of these meetings (id → created_at) from a listing of their span; what is not due is left aside.

    What is found leaves ``due``.
    """
    wanted = {
        "created_after": zulu(min(due.values()) - _SECOND),
        "created_before": zulu(max(due.values()) + _SECOND),
        "include_transcript": "true",
        "include_summary": "true",
    }
    async with aclosing(api.listing(**wanted)) as pages:
        async for items, _ in pages:
            said = {identity(item): item.get("transcript") for item in items}
            found = await _merged(since, [item for item in items if identity(item) in due])
            for recording_id, raw in found.items():
                del due[recording_id]
                yield _outcome(recording_id, raw, said[recording_id])
    if due:
        yield Page(pending=[Pending(recording_id, "no longer visible") for recording_id in due])


async def _asked(api: _Api, since: Since, recording_id: str) -> AsyncGenerator[Page, None]:
    """The parts of one meeting, from ``/recordings``; only those that we do not hold."""
    raw = (await since.held.stored(Meeting, [recording_id], "*"))[recording_id][0]
    heard = bool(await since.held.stored(Transcript, [recording_id]))
    if not heard and (said := await api.recording(recording_id, "transcript")) and isinstance(said, list):
        heard = True  # stored at once: the summary may fail each time
        yield Page(records=[transcript(recording_id, said, raw.get("transcript_language"))])
    summary = raw.get("default_summary")
    if not markdown(summary):
        summary = await api.recording(recording_id, "summary")
    yield _outcome(recording_id, {**raw, "default_summary": summary}, None, heard=heard)


def _outcome(recording_id: str, raw: Json, spoken: object, *, heard: bool = False) -> Page:
    """What one try brought. ``heard``: the transcript was stored before."""
    said = spoken if isinstance(spoken, list) else []
    records: list[Record] = []
    if summary := markdown(raw["default_summary"]):
        records.append(meeting(recording_id, raw))
    if said:
        records.append(transcript(recording_id, said, raw.get("transcript_language")))
    missing = ([] if said or heard else ["transcript"]) + ([] if summary else ["summary"])
    pending = [Pending(recording_id, f"{' and '.join(missing)} not ready")] if missing else []
    return Page(records=records, pending=pending, resolved=[] if missing else [recording_id])


async def _merged(since: Since, items: Iterable[Json]) -> dict[str, Json]:
    """Listed meetings by id, each with the summary that we hold if it shows none. One without an id cannot be stored.

    Without this a listing that does not ask for summaries would wipe them.
    """
    listed = {recording_id: item for item in items if (recording_id := identity(item))}
    stored = await since.held.stored(Meeting, list(listed), "default_summary")
    merged = {}
    for recording_id, item in listed.items():
        summaries = (item.get("default_summary"), *stored.get(recording_id, ()))
        summary = next((one for one in summaries if markdown(one)), None)
        merged[recording_id] = {**item, "transcript": None, "default_summary": summary}
    return merged


async def _check(api: _Api) -> Report:
    """One light page of meetings and the teams. Transcripts and summaries are not tried, and that is said."""
    async with aclosing(api.listing()) as pages:
        meetings, last = await anext(pages)
    identity = f"Fathom by {'API key' if api.key else 'OAuth'} (it does not tell whose)"
    recorders = {name for one in meetings if (name := text(fields(one.get("recorded_by")).get("name")))}
    facts = [
        f"meetings seen: {len(meetings)}{'' if last else ' and more'}",
        f"recorded by: {', '.join(sorted(recorders)) or 'nobody'}",
        "transcripts and summaries were not tried",
    ]
    try:
        teams, _ = await api.page("teams", {}, None)  # they have no ids
    except Rejected as error:
        return Report(identity, facts, [(error.message, "ask an admin to let this user see the teams")])
    names = sorted(name for team in teams if (name := text(team.get("name"))))
    visible = f"visible teams: {', '.join(names) or 'none'}"
    unknown = [name for name in api.teams if name not in names]
    problems = [(f"team {name!r} is not visible", f"correct the setting teams; {visible}") for name in unknown]
    return Report(identity, [*facts, visible], problems)


def _words(answer: Answer) -> str:
    body = answer.object_or_none() or {}
    words = next((said for name in ("error_description", "message", "error") if (said := text(body.get(name)))), "")
    return f"HTTP {answer.status} {words[:200]}".strip()


SOURCE = Source(
    name="fathom",
    connect=_connect,
    streams=(Stream("meetings", _meetings), Stream("details", _details, completes=True)),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(frozenset({"api_key"}), frozenset({"access_token", "refresh_token", "client_id", "client_secret"})),
    settings={
        "teams": Setting(lambda names: isinstance(names, list) and all(map(text, names)), "a list of team names")
    },
    check=_check,
)
