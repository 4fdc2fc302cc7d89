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
from syncd.records import Deletion, Meeting, Transcript
from syncd.source import Page, Pending, Report, Setting, Source, Stream
from syncd.sources.gong_calls import dicts, dig, id_text, meeting, moment, number, person, text, transcript

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping

    from syncd.http import Answer, Link
    from syncd.source import Since

    _Pages = AsyncGenerator[tuple["_Rows", bool], None]

_DRAWS = {"calls": 1, "day": 1}  # contract: 3 calls/s and 10,000/day per company, whatever the method
_SLICE = timedelta(days=30)  # the widest window known to work
_PEOPLE_EVERY = timedelta(hours=1)  # users have no "changed since": all are read each time
_BATCH = 100  # callIds per request, and Gong's page
_PARTS = 10  # into so many a batch that fails is parted: a single call is found in three steps
_DOWN = 3  # single calls that failed in passing, one after the other, after which Gong is taken to be down
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
            code = text(dig(answer.object_or_none(), "error")) or "no reason given"
            refused = AuthError if answer.status in (400, 401, 403) else Misconfigured
            message = f"the token is not renewed: HTTP {answer.status}, {code[:200]}"
            raise refused(message, hint=f"{_RECONNECT}, or check client_id, client_secret and token_url")
        return answer.json()

    reply = await link.call("oauth2/generate-customer-token", attempt, draws={}, renews=False)
    members = ("access_token", "refresh_token", "api_base_url_for_customer", "api_base_url")
    taken = {key: text(reply.get(key)) for key in members}
    if not taken["access_token"]:
        raise Transient("the token endpoint's reply holds no access_token")
    expires_at = link.now() + timedelta(seconds=number(reply.get("expires_in")) or 86400)  # contract: a day
    return {key: value for key, value in taken.items() if value} | {"expires_at": _iso(expires_at)}


def _refusal(answer: Answer) -> SourceError | None:
    """What Gong's error envelope means; None for a success, which its 404 for "nothing found" is too."""
    errors = dig(answer.object_or_none(), "errors")
    words = " ".join(one for one in errors if text(one))[:200] if isinstance(errors, list) else ""
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
    return dicts(rows), text(dig(records, "cursor")) or "", number(dig(records, "totalRecords"))


async def _people(api: _Api, since: Since) -> AsyncIterator[Page]:
    last_read = moment(since.cursors.get(""))
    if last_read and since.now - last_read <= _PEOPLE_EVERY and not since.sweep:
        return
    async with aclosing(api.pages("users", "users")) as pages:
        async for rows, last in pages:
            people = [one for row in rows if (one := person(row)).external_id]
            yield Page(records=people, cursor=_iso(since.now) if last else None)


async def _meetings(api: _Api, since: Since) -> AsyncIterator[Page]:
    unproven = not since.cursors
    for partition in api.link.settings.get("workspace_ids") or [""]:
        for start, end in _slices(moment(since.cursors.get(partition)), since.now, since.lookback):
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
    meetings = [one for row in rows if (one := meeting(row)).external_id]
    skip = api.link.settings.get("skip_private", True)
    hidden = [one.external_id for one in meetings if one.is_private and skip]
    shown = [one for one in meetings if one.external_id not in hidden]
    ids = [one.external_id for one in shown]
    written = await since.held.stored(Transcript, ids) if ids else {}
    to_hide = await since.held.stored(Meeting, hidden) if hidden else {}
    return Page(
        records=shown,
        deletions=[Deletion(kind, call) for call in to_hide for kind in (Meeting, Transcript)],
        pending=[Pending(call, "transcript not read yet", "transcripts") for call in ids if call not in written],
        **resumes,
    )


async def _transcripts(api: _Api, since: Since) -> AsyncIterator[Page]:
    fresh = [one.external_id for one in since.backlog if one.attempts == 0]
    due = [*fresh[: api.link.options["max_new_per_run"]], *(one.external_id for one in since.backlog if one.attempts)]
    batches = deque(_parts(due, _BATCH))
    failed = 0
    while batches:
        batch = batches.popleft()
        meetings = await since.held.stored(Meeting, batch, "parties", "metaData")
        if gone := [call for call in batch if call not in meetings]:
            yield Page(resolved=gone)  # announced with its meeting: that was deleted or became private
        missing = [call for call in batch if call in meetings]
        if not missing:  # contract: an empty callIds is a 400
            continue
        asked = {"filter": {"callIds": missing}}
        try:
            async with aclosing(api.pages("calls/transcript", "callTranscripts", asked)) as pages:
                async for rows, _ in pages:
                    named = [(row, call) for row in rows if (call := id_text(row.get("callId"))) in missing]
                    found = [one for row, call in named if (one := transcript(row, *meetings[call])).segments]
                    missing = [call for call in missing if call not in {one.external_id for one in found}]
                    yield Page(records=found, resolved=[one.external_id for one in found])
        except (Rejected, Transient) as error:
            if len(missing) > 1:  # it may be a single one: smaller parts, at once, until that one is alone
                batches.extendleft(reversed(_parts(missing, -(-len(missing) // _PARTS))))
                continue
            failed = failed + 1 if isinstance(error, Transient) else 0
            yield Page(pending=[Pending(call, error.message) for call in missing])
            if failed == _DOWN:
                raise
            continue
        failed = 0
        yield Page(pending=[Pending(call, "transcript not ready") for call in missing])


def _parts(calls: list[str], size: int) -> list[list[str]]:
    return [calls[at : at + size] for at in range(0, len(calls), size)]


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
    spaces = {id_text(row.get("id")): text(row.get("name")) or "unnamed" for row in seen.get("workspaces", ())}
    facts += [f"workspace {space}: {name}" for space, name in spaces.items()]
    if seen.get("users") == []:
        problems.append(("no user is visible", "widen the access; check that base_url is the account's host"))
    unseen = set(api.link.settings.get("workspace_ids") or ()).difference(spaces) if "workspaces" in seen else ()
    problems += [(f"workspace {one} is not visible", "correct workspace_ids or widen the access") for one in unseen]
    emails = [email for row in seen.get("users", ()) if (email := person(row).email) and "@" in email]
    return Report(f"Gong, {emails[0].rpartition('@')[2] if emails else 'company unknown'}", facts, problems)


def _slices(cursor: datetime | None, now: datetime, lookback: timedelta) -> Iterator[tuple[datetime, datetime]]:
    """The window in parts of at most 30 days, oldest first: it reaches back to the older of cursor and lookback."""
    end = now.replace(microsecond=0)  # Gong documents whole seconds
    start = min(cursor or end, end - lookback)
    while start < end:
        yield start, (until := min(start + _SLICE, end))
        start = until


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


SOURCE = Source(
    name="gong",
    connect=_connect,
    streams=(
        Stream("people", _people),
        Stream("meetings", _meetings),
        Stream("transcripts", _transcripts, completes=True),
    ),
    counts=Meeting,
    total_name="total_ingested",
    credentials=(
        frozenset({"access_key", "access_key_secret"}),
        frozenset({"access_token", "refresh_token", "client_id", "client_secret"}),
    ),
    settings={
        "workspace_ids": Setting(lambda ids: isinstance(ids, list) and all(map(text, ids)), "a list of ids as text"),
        "skip_private": Setting(lambda value: isinstance(value, bool), "true or false"),
    },
    check=_check,
)
