"""Gong: calls with their people, summaries and transcripts, through the public API v2 (https://api.gong.io/v2).

What is peculiar to it:

- "Nothing found" is a 404 with a sentence of its own; any other 404 is a wrong host or path. A key that may see nothing
  gets that same sentence, so a first empty window is checked against the list of users.
- The only filter is a call's start. Nothing says when a call changed, and calls and transcripts appear late: every
  cycle reads its window again, and a call without a transcript waits in the backlog of ``transcripts``.
- A page token (Gong: cursor) goes into the query of a GET and the body of a POST; it lives an hour from the first page.
- ``duration`` is in seconds, a transcript's times are in milliseconds, ids are text of up to 20 digits.
- A refresh token is good for one use. OAuth accounts live on the host that the token reply names.
"""

from __future__ import annotations

import re
from collections import deque
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, CursorExpired, Misconfigured, Rejected, SourceError, Transient
from syncd.records import Deletion, Meeting, Person, Transcript
from syncd.source import Page, Pending, Report, Setting, Source, Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from syncd.http import Answer, Link
    from syncd.source import Since

    _Pages = AsyncGenerator[tuple["_Rows", bool], None]

_DRAWS = {"calls": 1, "day": 1}  # contract: 3 calls/s and 10,000/day per company, whatever the method
_SLICE = timedelta(days=30)  # the widest window known to work
_PEOPLE_EVERY = timedelta(hours=1)  # users have no "changed since": all are read each time
_BATCH = 100  # callIds per request, and Gong's page
_BLOCKS = "structure topics trackers trackerOccurrences pointsOfInterest brief outline highlights callOutcome keyPoints"
_SELECTOR = {
    "context": "Extended",
    "contextTiming": ["Now"],
    "exposedFields": {  # no media: links signed anew on every read, and a scope of their own
        "parties": True,
        "content": dict.fromkeys(_BLOCKS.split(), True),
        "interaction": dict.fromkeys(("speakers", "video", "personInteractionStats", "questions"), True),
        "collaboration": {"publicComments": True},
    },
}
_RECONNECT = "connect the Gong account again: a technical administrator must authorise the app"
_REFUSALS: tuple[tuple[int, str, type[SourceError], str], ...] = (  # status, words, what follows, way out
    (400, "failed to verify cursor|cursor has expired", CursorExpired, ""),
    (401, "permission to use", Misconfigured, "add the scope that it names to the Gong app and connect it again"),
    (401, "company is inactive", AuthError, "Gong has shut this company's account off: ask its administrator"),
    (401, "", AuthError, f"{_RECONNECT}, or make a new access key; also check that base_url is the account's host"),
    (403, "", Misconfigured, "add this machine's address to the access key's trusted IPs; an app: connect it again"),
    (404, "", Misconfigured, "wrong host or path: compare base_url with the API page of Gong's admin"),
)
_Rows = list[dict[str, Any]]
_Batch = tuple[_Rows, str, float | None]  # one answer: its rows, the next page's cursor or "", the total where told


@dataclass(frozen=True, slots=True)
class _Api:
    """Gong for one connection and run."""

    link: Link

    async def ask(self, path: str, rows_key: str, body: Mapping[str, Any] | None = None, cursor: str = "") -> _Batch:
        """One request of a listing: a POST where it has a body, else a GET. Raises `SourceError`."""
        token = {"cursor": cursor} if cursor else {}
        verb, request = ("POST", {"json": {**body, **token}}) if body else ("GET", {"params": token})

        async def attempt() -> _Batch:
            if key := self.link.credentials.get("access_key"):
                signed: dict[str, Any] = {"auth": (key, self.link.credentials["access_key_secret"])}
            else:
                signed = {"headers": {"Authorization": f"Bearer {await self.link.access_token()}"}}
            held = self.link.credentials  # now: a renewed token may bring another host
            base = held.get("api_base_url_for_customer") or held.get("api_base_url") or self.link.options["base_url"]
            answer = await self.link.net.ask(verb, f"{str(base).rstrip('/')}/v2/{path}", **signed, **request)
            if fault := answer.passing_fault() or _refusal(answer):
                raise fault
            return ([], "", 0) if answer.status == 404 else _batch(answer.json(), rows_key)

        return await self.link.call(path, attempt, draws=_DRAWS)

    async def pages(self, path: str, rows_key: str, body: Mapping[str, Any] | None = None) -> _Pages:
        """The rows of each page, and whether it is the last one. Raises `SourceError`.

        A page token that expired or that Gong no longer takes starts the listing again, once.
        """
        cursor, met, read, restarted, last = "", set[str](), 0, False, False
        while not last:
            try:
                rows, cursor, total = await self.ask(path, rows_key, body, cursor)
            except CursorExpired as error:
                if restarted or not cursor:
                    raise Transient(error.message) from None
                cursor, met, read, restarted = "", set(), 0, True
                continue
            read += len(rows)
            if cursor in met or (total is not None and read > total + _BATCH):
                raise Transient(f"the listing of {path} runs in circles")
            met.add(cursor)
            last = not cursor
            yield rows, last

    async def prove_sight(self) -> None:
        """Tell a company without calls from credentials that see nothing. Raises `Misconfigured` for the latter."""
        hint = "give them access to calls and users; check base_url: the account may live on another host"
        try:
            reason = "" if (await self.ask("users", "users"))[0] else "no user is visible"
        except (AuthError, Misconfigured) as error:
            reason = error.message
        if reason:
            raise Misconfigured(f"these credentials see no calls and no users: {reason}", hint=hint)


@asynccontextmanager
async def _connect(link: Link) -> AsyncIterator[_Api]:
    if not link.credentials.get("access_key"):
        link.refresh = partial(_refresh, link)
    yield _Api(link)


async def _refresh(link: Link) -> Mapping[str, Any]:
    """New tokens, asked for once. Raises `SourceError`; `AuthError` when the single-use refresh token is spent."""
    held = link.credentials
    # Documented as query parameters, but working clients send a form: a secret in a URL ends up in logs.
    form = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}

    async def attempt() -> dict[str, Any]:
        client = (held["client_id"], held["client_secret"])
        answer = await link.net.ask("POST", link.options["token_url"], data=form, auth=client)
        if fault := answer.passing_fault():
            raise fault
        if answer.status != 200:
            code = _text(_dig(answer.object_or_none(), "error")) or "no reason given"
            refused = AuthError if answer.status in (400, 401, 403) else Misconfigured
            message = f"the token is not renewed: HTTP {answer.status}, {code[:200]}"
            raise refused(message, hint=f"{_RECONNECT}, or check client_id, client_secret and token_url")
        return answer.json()

    reply = await link.call("oauth2/generate-customer-token", attempt, draws={}, renews=False)
    members = ("access_token", "refresh_token", "api_base_url_for_customer", "api_base_url")
    taken = {key: _text(reply.get(key)) for key in members}
    if not taken["access_token"]:
        raise Transient("the token endpoint's reply holds no access_token")
    expires_at = link.now() + timedelta(seconds=_number(reply.get("expires_in")) or 86400)  # contract: a day
    return {key: text for key, text in taken.items() if text} | {"expires_at": _iso(expires_at)}


def _refusal(answer: Answer) -> SourceError | None:
    """What Gong's error envelope means; None for a success, which its 404 for "nothing found" is too."""
    errors = _dig(answer.object_or_none(), "errors")
    words = " ".join(one for one in errors if _text(one))[:200] if isinstance(errors, list) else ""
    if answer.status < 300 or (answer.status == 404 and re.match("No (calls|users) found corresponding", words)):
        return None
    message = f"HTTP {answer.status}: {words}" if words else f"HTTP {answer.status}"
    for status, part, error, hint in _REFUSALS:
        if answer.status == status and re.search(part, words, re.IGNORECASE):
            return error(message, hint=hint)
    return Rejected(message)


def _batch(body: Mapping[str, Any], rows_key: str) -> _Batch:
    """Rows and paging of a 200. Raises `Transient` when it is no listing, which must not pass for "nothing found"."""
    rows, records = body.get(rows_key), body.get("records")
    if not isinstance(rows, list) and (rows is not None or not isinstance(records, dict)):
        raise Transient(f"an answer without {rows_key}")
    return _dicts(rows), _text(_dig(records, "cursor")) or "", _number(_dig(records, "totalRecords"))


async def _people(api: _Api, since: Since) -> AsyncIterator[Page]:
    last_read = _moment(since.cursors.get(""))
    if last_read and since.now - last_read <= _PEOPLE_EVERY and not since.sweep:
        return
    async with aclosing(api.pages("users", "users")) as pages:
        async for rows, last in pages:
            people = [person for row in rows if (person := _person(row)).external_id]
            yield Page(records=people, cursor=_iso(since.now) if last else None)


async def _meetings(api: _Api, since: Since) -> AsyncIterator[Page]:
    unproven = not since.cursors
    for partition in api.link.settings.get("workspace_ids") or [""]:
        for start, end in _slices(_moment(since.cursors.get(partition)), since.now, since.lookback):
            window = {"fromDateTime": _iso(start), "toDateTime": _iso(end)}
            window |= {"workspaceId": partition} if partition else {}
            asked = {"filter": window, "contentSelector": _SELECTOR}
            async with aclosing(api.pages("calls/extensive", "calls", asked)) as pages:
                async for rows, last in pages:
                    if unproven and last and not rows:
                        await api.prove_sight()
                    unproven, cursor = False, _iso(end) if last else None
                    yield await _meetings_page(api, since, rows, partition=partition, cursor=cursor)


async def _meetings_page(api: _Api, since: Since, rows: _Rows, **resumes: Any) -> Page:
    """The page's calls, announcing those without a transcript. A private call is left out, or deleted where stored."""
    meetings = [meeting for row in rows if (meeting := _meeting(row)).external_id]
    skip = api.link.settings.get("skip_private", True)
    hidden = [one.external_id for one in meetings if one.is_private and skip]
    shown = [one for one in meetings if one.external_id not in hidden]
    ids = [one.external_id for one in shown]
    written = await since.stored(Transcript, ids) if ids else {}
    to_hide = await since.stored(Meeting, hidden) if hidden else {}
    return Page(
        records=shown,
        deletions=[Deletion(kind, call) for call in to_hide for kind in (Meeting, Transcript)],
        pending=[Pending(call, "transcript not read yet", "transcripts") for call in ids if call not in written],
        **resumes,
    )


async def _transcripts(api: _Api, since: Since) -> AsyncIterator[Page]:
    fresh = [one.external_id for one in since.backlog if one.attempts == 0]
    due = [*fresh[: api.link.options["max_new_per_run"]], *(one.external_id for one in since.backlog if one.attempts)]
    batches = deque(due[at : at + _BATCH] for at in range(0, len(due), _BATCH))
    while batches:
        batch = batches.popleft()
        meetings = await since.stored(Meeting, batch, "parties", "metaData")
        if gone := [call for call in batch if call not in meetings]:
            yield Page(resolved=gone)  # announced with its meeting: that was deleted or became private
        missing = {call: "transcript not ready" for call in batch if call in meetings}
        if not missing:  # contract: an empty callIds is a 400
            continue
        asked = {"filter": {"callIds": list(missing)}}
        try:
            async with aclosing(api.pages("calls/transcript", "callTranscripts", asked)) as pages:
                async for rows, _ in pages:
                    named = [(row, call) for row in rows if (call := _id(row.get("callId"))) in missing]
                    found = [one for row, call in named if (one := _transcript(row, *meetings[call])).segments]
                    for one in found:
                        missing.pop(one.external_id, None)
                    yield Page(records=found, resolved=[one.external_id for one in found])
        except Rejected as error:
            if len(missing) > 1:  # it may refuse a single id: halve until that one is alone
                left = list(missing)
                batches.extend((left[: len(left) // 2], left[len(left) // 2 :]))
                continue
            missing = dict.fromkeys(missing, error.message)
        yield Page(pending=[Pending(call, why) for call, why in missing.items()])


async def _check(api: _Api) -> Report:
    """Asks once for each thing that a run reads. Raises `SourceError` only for what passes by itself."""
    facts, problems, seen = list[str](), list[tuple[str, str]](), dict[str, _Rows]()
    now = api.link.now()
    day = {"filter": {"fromDateTime": _iso(now - timedelta(days=1)), "toDateTime": _iso(now)}}
    for path, rows_key, body in (
        ("users", "users", None),
        ("workspaces", "workspaces", None),
        ("calls/extensive", "calls", {**day, "contentSelector": _SELECTOR}),
        ("calls/transcript", "callTranscripts", day),
    ):
        try:
            seen[path], _, total = await api.ask(path, rows_key, body)
            facts.append(f"{path}: {int(total or len(seen[path]))}{' in the last 24 hours' if body else ''}")
        except (AuthError, Misconfigured, Rejected) as error:
            problems.append((f"{path}: {error.message}", error.hint or "the request itself was refused"))
    spaces = {_id(row.get("id")): _text(row.get("name")) or "unnamed" for row in seen.get("workspaces", ())}
    facts += [f"workspace {space}: {name}" for space, name in spaces.items()]
    if seen.get("users") == []:
        problems.append(("no user is visible", "widen the access; check that base_url is the account's host"))
    unseen = set(api.link.settings.get("workspace_ids") or ()).difference(spaces) if "workspaces" in seen else ()
    problems += [(f"workspace {one} is not visible", "correct workspace_ids or widen the access") for one in unseen]
    emails = [email for row in seen.get("users", ()) if (email := _person(row).email) and "@" in email]
    return Report(f"Gong, {emails[0].rpartition('@')[2] if emails else 'company unknown'}", facts, problems)


def _person(row: Mapping[str, Any]) -> Person:
    name = " ".join(filter(None, (_text(row.get("firstName")), _text(row.get("lastName")))))
    email = _text(row.get("emailAddress"))
    return Person(external_id=_id(row.get("id")) or "", raw=row, name=name or None, email=email)


def _meeting(call: Mapping[str, Any]) -> Meeting:
    meta, content = _dig(call, "metaData"), _dig(call, "content")
    started_at, duration_s = _moment(_dig(meta, "started")), _number(_dig(meta, "duration"))
    parties = [_party(one) for one in _dicts(call.get("parties"))]
    host, private = _id(_dig(meta, "primaryUserId")), _dig(meta, "isPrivate")
    names = {one["user_id"] or "": one["name"] or one["email"] for one in parties}
    return Meeting(
        external_id=_id(_dig(meta, "id")) or "",
        raw=call,
        title=_text(_dig(meta, "title")),
        started_at=started_at,
        ended_at=started_at + timedelta(seconds=duration_s) if started_at and duration_s is not None else None,
        duration_s=duration_s,
        host=(names.get(host) or host) if host else None,
        participants=parties,
        url=_text(_dig(meta, "url")),
        summary=_text(_dig(content, "brief")),
        action_items=[{"text": text} for text in _next_steps(content) if text],
        is_private=private if isinstance(private, bool) else None,
    )


def _party(one: Mapping[str, Any]) -> dict[str, str | None]:
    texts = {"name": _text(one.get("name")), "email": _text(one.get("emailAddress"))}
    ids = {"speaker_id": _id(one.get("speakerId")), "user_id": _id(one.get("userId"))}
    return {**texts, "affiliation": _text(one.get("affiliation")), **ids}


def _next_steps(content: object) -> Iterator[str | None]:
    """From the highlights, and from the points of interest that older accounts may still answer."""
    for section in _dicts(_dig(content, "highlights")):
        if (_text(section.get("title")) or "").strip().casefold() == "next steps":
            yield from (_text(item.get("text")) for item in _dicts(section.get("items")))
    for item in _dicts(_dig(content, "pointsOfInterest", "actionItems")):
        yield _text(item.get("snippet"))


def _transcript(row: Mapping[str, Any], parties: object = None, meta: object = None) -> Transcript:
    """``parties`` and ``metaData`` of the call's meeting name its speakers and its language."""
    people = [_party(one) for one in _dicts(parties)]
    names = {one["speaker_id"] or "": one["name"] or one["email"] for one in people}
    segments, lines = list[dict[str, Any]](), list[str]()
    for monologue in _dicts(row.get("transcript")):
        speaker_id = _id(monologue.get("speakerId"))
        who = {"speaker": names.get(speaker_id) if speaker_id else None, "speaker_id": speaker_id}
        said = [one for one in _dicts(monologue.get("sentences")) if _text(one.get("text"))]
        for one in said:
            start_ms, end_ms = _number(one.get("start")), _number(one.get("end"))
            times = {"start_s": start_ms and start_ms / 1000, "end_s": end_ms and end_ms / 1000}
            segments.append({**who, **times, "text": one["text"]})
        if said:
            lines.append(f"{who['speaker'] or 'Unknown speaker'}: {' '.join(one['text'] for one in said)}")
    call, language = _id(row.get("callId")) or "", _text(_dig(meta, "language"))
    return Transcript(external_id=call, raw=row, language=language, segments=segments, text="\n".join(lines))


def _slices(cursor: datetime | None, now: datetime, lookback: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """The window in parts of at most 30 days, oldest first: it reaches back to the older of cursor and lookback."""
    end = now.replace(microsecond=0)  # Gong documents whole seconds
    start = min(cursor or end, end - lookback)
    while start < end:
        yield start, (until := min(start + _SLICE, end))
        start = until


def _dig(value: object, *path: str) -> Any:
    """The member at ``path``; None where anything on the way is absent or no object."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _id(value: object) -> str | None:
    """An id as text. A JSON integer is one too; a float has lost digits and is none."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _number(value: object) -> float | None:
    """A number from 0 on that a time can be reckoned with; None for anything else."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e10 else None


def _moment(value: object) -> datetime | None:
    """Any offset and number of fractional digits, as UTC; without an offset it is taken as UTC. Senseless is None."""
    try:
        at = datetime.fromisoformat(_text(value) or "")
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return at if 1970 <= at.year < 3000 else None


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


SOURCE = Source(
    name="gong",
    connect=_connect,
    streams=(Stream("people", _people), Stream("meetings", _meetings), Stream("transcripts", _transcripts)),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(
        frozenset({"access_key", "access_key_secret"}),
        frozenset({"access_token", "refresh_token", "client_id", "client_secret"}),
    ),
    settings={
        "workspace_ids": Setting(lambda ids: isinstance(ids, list) and all(map(_text, ids)), "a list of ids as text"),
        "skip_private": Setting(lambda value: isinstance(value, bool), "true or false"),
    },
    check=_check,
)
