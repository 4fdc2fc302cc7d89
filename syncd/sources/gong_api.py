"""Asking Gong: credentials, pages and refusals of its public API v2.

- "Nothing found" is a 404 with a sentence of its own; any other 404 is a wrong host or path.
- A page token (Gong: cursor) goes into the query of a GET and the body of a POST; it lives an hour from the first page.
- A refresh token is good for one use. OAuth accounts live on the host that the token reply names.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, CursorExpired, Misconfigured, Rejected, SourceError, Transient
from syncd.listing import Walk
from syncd.sources.gong_calls import dicts, dig, id_text, number, text

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from syncd.http import Link
    from syncd.net import Answer

    Pages = AsyncGenerator[tuple["Rows", bool], None]

BATCH = 100  # callIds per request, and Gong's page
_DRAWS = {"calls": 1, "day": 1}  # contract: 3 calls/s and 10,000/day per company, whatever the method
_BLOCKS = "structure topics trackers trackerOccurrences pointsOfInterest brief outline highlights callOutcome keyPoints"
SELECTOR = {
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
Rows = list[dict[str, Any]]
Batch = tuple[Rows, str, float | None]  # one answer: its rows, the next page's cursor or "", the total where told


@dataclass(frozen=True, slots=True)
class Api:
    """Gong for one connection and run."""

    link: Link

    async def ask(self, path: str, rows_key: str, body: Mapping[str, Any] | None = None, cursor: str = "") -> Batch:
        """One request of a listing: a POST where it has a body, else a GET. Raises `SourceError`."""
        token = {"cursor": cursor} if cursor else {}
        verb, request = ("POST", {"json": {**body, **token}}) if body else ("GET", {"params": token})

        async def attempt() -> Batch:
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

    async def pages(self, path: str, rows_key: str, body: Mapping[str, Any] | None = None) -> Pages:
        """The rows of each page, and whether it is the last one. Raises `SourceError`.

        A page token that expired or that Gong no longer takes starts the listing again, once.
        """
        cursor, walk, read, restarted, last = "", Walk(f"the listing of {path}"), 0, False, False
        while not last:
            try:
                rows, cursor, total = await self.ask(path, rows_key, body, cursor)
            except CursorExpired as error:
                if restarted or not cursor:
                    raise Transient(error.message) from None
                cursor, walk, read, restarted = "", Walk(f"the listing of {path}"), 0, True
                continue
            read += len(rows)
            if total is not None and read > total + BATCH:
                raise Transient(f"the listing of {path} is longer than it says")
            walk.step(cursor, rows, {one for row in rows if (one := _identity(row))})
            last = not cursor
            # A short page may be the last all the same: the total is the first page's, and some may be gone by now.
            if last and len(rows) >= BATCH and read < (total or 0):
                raise Transient(f"the listing of {path} ends after {read} of {total} rows")
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
async def connect(link: Link) -> AsyncIterator[Api]:
    if not link.credentials.get("access_key"):
        link.refresh = partial(_refresh, link)
    yield Api(link)


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
            message = f"the token is not renewed: HTTP {answer.status}, {code[:200]}"
            if code == "invalid_client" or answer.status not in {400, 401, 403}:
                raise Misconfigured(message, hint="check client_id, client_secret and token_url")
            raise AuthError(message, hint=_RECONNECT)
        return answer.json()

    reply = await link.call("oauth2/generate-customer-token", attempt, draws={"token": 1}, renews=False)
    members = ("access_token", "refresh_token", "api_base_url_for_customer", "api_base_url")
    taken = {key: text(reply.get(key)) for key in members}
    if not taken["access_token"]:
        raise Transient("the token endpoint's reply holds no access_token")
    expires_at = link.now() + timedelta(seconds=number(reply.get("expires_in")) or 86400)  # contract: a day
    return {key: value for key, value in taken.items() if value} | {"expires_at": iso(expires_at)}


def _refusal(answer: Answer) -> SourceError | None:
    """What Gong's error envelope means; None for a success, which its 404 for "nothing found" is too."""
    if answer.status < 300:  # before its body is decoded, which is so once more
        return None
    errors = dig(answer.object_or_none(), "errors")
    words = " ".join(one for one in errors if text(one))[:200] if isinstance(errors, list) else ""
    if answer.status == 404 and re.match("No (calls|users) found corresponding", words):
        return None
    message = f"HTTP {answer.status}: {words}" if words else f"HTTP {answer.status}"
    for status, part, error, hint in _REFUSALS:
        if answer.status == status and re.search(part, words, re.IGNORECASE):
            return error(message, hint=hint)
    return Rejected(message)


def _batch(body: Mapping[str, Any], rows_key: str) -> Batch:
    """Rows and paging of a 200. Raises `Transient` when it is no listing, which must not pass for "nothing found"."""
    rows, records = body.get(rows_key), body.get("records")
    total = number(dig(records, "totalRecords"))
    # null is nothing found where nothing is counted; transcripts that are not ready may be
    found_none = rows is None and isinstance(records, dict) and (not total or rows_key == "callTranscripts")
    if not isinstance(rows, list) and not found_none:
        raise Transient(f"an answer without {rows_key}")
    cursor = dig(records, "cursor")
    if cursor is not None and not isinstance(cursor, str):  # taken for none, the rest would be missed
        raise Transient("a cursor that is no text")
    return dicts(rows), cursor or "", total


def _identity(row: Mapping[str, Any]) -> str | None:
    """The id of a user, a transcript's or a call's, whichever the row is of."""
    return id_text(row.get("id")) or id_text(row.get("callId")) or id_text(dig(row, "metaData", "id"))


def iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
