"""Asking Fathom: credentials, pages and refusals of its external API, https://api.fathom.ai/external/v1.

- Any unlisted or unready recording is a 404; an empty listing is not.
- OAuth apps may not list transcripts and summaries: they ask ``/recordings`` one by one. A key gets both in a listing.
- Refresh tokens are good for one use. Error bodies have no schema; a 429 may be an empty text/html page.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, Misconfigured, Rejected, Transient
from syncd.listing import Walk
from syncd.sources.fathom_meetings import Json, identity, objects, text, zulu

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from datetime import datetime

    from syncd.http import Link
    from syncd.net import Answer

DOWN = 3  # passing faults in a row, each of another meeting or day, after which the vendor is taken to be down
_SECOND = timedelta(seconds=1)  # whether created_after and created_before are inclusive is not told
_KEY_HINT = "the API key is wrong, revoked or of a user who left: make a new one in Fathom's settings"
_OAUTH_HINT = "connect Fathom again: it was revoked there, or its refresh token was used elsewhere"


class Api:
    """Fathom's calls for one run. Whatever it answers but success is raised as a `SourceError`.

    ``account``: whose credentials these are, as the connection says (an address), in lower case.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._base = str(link.options["base_url"]).rstrip("/") + "/"
        self.key = text(link.credentials.get("api_key"))
        self.teams: Sequence[str] = link.settings.get("teams", ())
        self.account = link.account.casefold()
        self.max_new: int = link.options["max_new_per_run"]
        self.content_wait: timedelta = link.options["content_wait"]

    async def listing(
        self, *parts: str, after: datetime | None = None, before: datetime | None = None, of_teams: bool = True
    ) -> AsyncGenerator[tuple[list[Json], bool], None]:
        """Meetings with action items, newest recording first, a page at a time: (meetings, whether it is the last).

        ``parts``: transcript, summary. ``after``, ``before``: of ``created_at``, with a second to spare. ``of_teams``:
        only what the setting teams names. A page token that is refused (400; how long one lives is not told) starts the
        listing again, once: a meeting may then come twice.
        """
        params: Json = {"include_action_items": "true", "teams[]": self.teams if of_teams else ()}
        params |= {"created_after": zulu(after - _SECOND)} if after else {}
        params |= {"created_before": zulu(before + _SECOND)} if before else {}
        params |= {f"include_{part}": "true" for part in parts}
        walk = Walk("the listing of meetings")
        token, restarted, last = None, False, False
        while not last:
            try:
                items, token = await self.page("meetings", params, token, heavy=bool(parts))
            except Rejected as error:
                if token is None:
                    raise
                if restarted:
                    raise Transient(f"{error.message} after a fresh start") from None
                token, restarted, walk = None, True, Walk("the listing of meetings")
                continue
            walk.step(token, items, {one for item in items if (one := identity(item))})
            last = token is None
            yield items, last

    async def recording(self, recording_id: str, part: str) -> Any:
        """``part`` is transcript or summary; None while it is not ready."""
        body = await self._get(f"recordings/{recording_id}/{part}", {}, heavy=True)
        return body and body.get(part)

    async def unknown(self, recording_id: str) -> bool:
        """Whether it is a 404: of a recording that is gone, out of sight or, at some, without a transcript yet."""
        return await self._get(f"recordings/{recording_id}/transcript", {}, heavy=True) is None

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
        return {"X-Api-Key": token} if self.key else {"Authorization": f"Bearer {token}"}


@asynccontextmanager
async def connect(link: Link) -> AsyncIterator[Api]:
    api = Api(link)
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
            words, code = f"no new token: {_words(answer)}", text((answer.object_or_none() or {}).get("error"))
            if code == "invalid_client" or answer.status not in {400, 401, 403}:
                raise Misconfigured(words, hint="check client_id, client_secret and token_url")
            raise AuthError(words, hint=_OAUTH_HINT)
        return answer.json()

    got = await link.call("oauth2.token", attempt, draws={"token": 1}, whose=link.app(), renews=False)
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


def _words(answer: Answer) -> str:
    body = answer.object_or_none() or {}
    words = next((said for name in ("error_description", "message", "error") if (said := text(body.get(name)))), "")
    return f"HTTP {answer.status} {words[:200]}".strip()
