"""Slack's Web API through slack_sdk: one call, one listing, the renewal of tokens. Belongs to `slack`."""

from __future__ import annotations

import re
from base64 import b64encode
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from syncd.errors import AuthError, CursorExpired, Misconfigured, RateLimited, Rejected, SourceError, Transient
from syncd.http import retry_after_s
from syncd.sources.slack_text import Json, objects, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.http import Link

ADD_SCOPE = "add the scope under OAuth & Permissions of the Slack app, then install the app to the workspace again"
PER_PAGE = 200  # what Slack advises at most
_PASSING = {"internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
_REAUTH = {
    "invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "two_factor_setup_required",
    "org_login_required", "team_access_not_granted", "ekm_access_denied", "enterprise_is_restricted", "accesslimited",
    "access_denied", "invalid_refresh_token", "bad_client_secret", "invalid_client_id",
}  # fmt: skip
_NOT_TAKEN = ("invalid_", "missing_", "json_", "limit_", "not_allowed_", "no_permission", "method_dep", "deprecated")
_OUTSIDE = {"not_in_channel", "channel_not_found"}


@dataclass
class Api:
    """Calls to one workspace. ``channels``: what the conversations stream found for messages. ``scopes``: once told.

    ``closed``: channel → what a person must put right before it can be read; told when the others are read.
    ``threads``: ``<channel>:<ts>`` of those that were read in this run. ``until``: in an audit, channel → the ts up to
    which the cycles have read.
    """

    link: Link
    client: AsyncWebClient
    channels: list[str] = field(default_factory=list)
    scopes: list[str] = field(default_factory=list)
    closed: dict[str, Misconfigured] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    until: dict[str, str] = field(default_factory=dict)

    async def call(self, method: str, verb: str = "GET", **arguments: Any) -> Json:
        """One answered call. Raises `SourceError`."""

        async def attempt() -> tuple[Json, Mapping[str, str]]:
            token = self.link.credentials.get("token") or await self.link.access_token()
            return await _sent(method, self.client, verb, params={**arguments, "token": token})

        answer, headers = await self.link.call(method, attempt)
        self.scopes = re.findall(r"[^,\s]+", headers.get("x-oauth-scopes", ""))
        return answer

    async def pages(self, method: str, member: str, **asked: Any) -> AsyncIterator[tuple[list[Json], bool, Json]]:
        """Pages of a listing, each with whether it is the last, and the whole answer. Raises `SourceError`;
        `CursorExpired` where Slack no longer takes a page token.
        """
        token = ""
        while True:
            answer = await self.call(method, **{"limit": PER_PAGE, **asked}, cursor=token or None)
            before, token = token, text(answer, "response_metadata", "next_cursor")
            if not isinstance(answer.get(member) or [], list) or (token and token == before):
                raise Transient(f"{method}: no list of {member}, or a page token twice")
            yield objects(answer.get(member), "ts" if member == "messages" else "id"), not token, answer
            if not token:
                return

    async def listing(self, method: str, member: str, **asked: Any) -> AsyncIterator[tuple[list[Json], bool, Json]]:
        """As `pages`; after a stale page token it starts again, once: then what was given comes a second time."""
        for last_try in (False, True):
            begun = False
            try:
                async for page in self.pages(method, member, **asked):
                    begun = True
                    yield page
                return
            except CursorExpired as error:
                if last_try or not begun:  # not CursorExpired: that would forget how far each channel was read
                    raise Transient(f"{error.message} after a fresh start") from None

    async def renewed(self) -> Mapping[str, Any]:
        """A new pair of tokens. Contract: a refresh token serves once, both come anew, ``expires_in`` is in seconds."""
        method, held = "oauth.v2.access", self.link.credentials
        form = {"grant_type": "refresh_token", "refresh_token": held["refresh_token"]}
        basic = "Basic " + b64encode(f"{held['client_id']}:{held['client_secret']}".encode()).decode()
        attempt = partial(_sent, method, self.client, "POST", data=form, headers={"Authorization": basic})
        answer, _ = await self.link.call(method, attempt, draws={}, renews=False)
        renewed = {key: answer[key] for key in ("access_token", "refresh_token") if text(answer, key)}
        if "access_token" not in renewed:
            raise Transient(f"{method}: no access_token in the answer")
        life = answer.get("expires_in")
        ends = self.link.now() + timedelta(seconds=min(max(life, 0), 10**9)) if isinstance(life, int) else None
        return {**renewed, "expires_at": ends and f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


async def _sent(method: str, client: AsyncWebClient, verb: str, **request: Any) -> tuple[Json, Mapping[str, str]]:
    """One request through the SDK: the answer and its headers. The one place that knows how the SDK fails."""
    try:
        response: Any = await client.api_call(method, http_verb=verb, **request)
        answer = {**response.data}
    except SlackApiError as error:  # `from None`: its text holds the whole body
        answered = error.response  # after an undecodable body it is aiohttp's own response
        status = answered.status_code if hasattr(answered, "status_code") else answered.status
        raise _fault(method, status, answered.headers, getattr(answered, "data", None)) from None
    except (AttributeError, TypeError, ValueError) as error:  # text/plain, a JSON list, bytes that are no UTF-8
        raise Transient(f"{method}: an answer that is not Slack's ({type(error).__name__})") from None
    return answer, response.headers


def _fault(method: str, status: int, headers: Mapping[str, str], answer: object) -> SourceError:
    """What an unsuccessful answer means (contract: error catalogue)."""
    code = text(answer, "error")[:100]
    said = f"{method}: {code or f'HTTP {status} without an answer of Slack'}"
    if status == 429 or code == "ratelimited":
        return RateLimited(said, retry_after_s=retry_after_s(headers))
    if status >= 500 or status == 408 or code in _PASSING or (status == 200 and not code):
        return Transient(said)
    if code == "invalid_cursor":
        return CursorExpired(said)
    if code == "missing_scope":
        return Misconfigured(f"{said}, needs {text(answer, 'needed')[:100]}", hint=ADD_SCOPE)
    if code in _REAUTH:
        return AuthError(said, hint="install the Slack app to the workspace again and store its new token")
    if not code or code.startswith(_NOT_TAKEN):
        return Misconfigured(said, hint="check sources.slack.base_url, any proxy on the way, and the token's kind")
    return Rejected(said + (": the app is not a member, /invite it there" if code in _OUTSIDE else ""))


@asynccontextmanager
async def connect(link: Link) -> AsyncIterator[Api]:
    """An api object for one run, on the process's shared session."""
    client = AsyncWebClient(base_url=link.options["base_url"], session=link.net.aiohttp, retry_handlers=[])
    client.proxy = None  # it ignores NO_PROXY; the session reads the environment itself
    api = Api(link, client)
    if not link.credentials.get("token"):
        link.refresh = api.renewed
    yield api
