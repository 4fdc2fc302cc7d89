"""Slack's Web API through slack_sdk: one call, one listing, the renewal of tokens. Belongs to `slack`."""

from __future__ import annotations

import logging
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
from syncd.listing import Walk
from syncd.net import retry_after_s
from syncd.sources.slack_text import Json, objects, text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from syncd.http import Link
    from syncd.net import Net

ADD_SCOPE = "add the scope under OAuth & Permissions of the Slack app, then install the app to the workspace again"
PER_PAGE = 200  # what Slack advises at most
FEW_PER_PAGE = 15  # the most that an app which Slack restricts is given, one page a minute
_RESTRICTED = {"conversations.history", "conversations.replies"}
_PASSING = {"internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org"}
_AGAIN = "install the Slack app to the workspace again and store its new token"
_REAUTH = dict.fromkeys(
    (
        "not_authed", "token_expired", "two_factor_setup_required", "enterprise_is_restricted", "accesslimited",
        "access_denied",
    ), _AGAIN,
) | {  # code → the way out (contract: error catalogue)
    "invalid_auth": f"{_AGAIN}; if the app allows only some IP addresses, add this machine's",
    "account_inactive": f"the app was removed, or its bot or the workspace deleted: {_AGAIN}",
    "token_revoked": f"the app was removed from the workspace, or its token revoked: {_AGAIN}",
    "invalid_refresh_token": f"the app was removed, or its refresh token was used elsewhere: {_AGAIN}",
    "org_login_required": f"the workspace moves into an Enterprise organisation: once it has, {_AGAIN}",
    "team_access_not_granted": "an administrator of the organisation must grant the app access to this workspace",
    "ekm_access_denied": "the organisation's administrators suspended its encryption keys: ask them",
}  # fmt: skip
_CLIENT = {"bad_client_secret", "invalid_client_id"}
_NOT_TAKEN = ("invalid_", "missing_", "json_", "limit_", "not_allowed_", "no_permission", "method_dep", "deprecated")
_OUTSIDE = {"not_in_channel", "channel_not_found"}
_SDK_LOG = logging.getLogger(f"{__name__}.sdk")
_SDK_LOG.setLevel(logging.WARNING)  # below it, the SDK writes out a proxy's address, which may hold a password


class Client(AsyncWebClient):
    """slack_sdk's client, whose requests go out as all of ours do: no redirect is followed, no call is sent twice, and
    what comes back is bounded.
    """

    def __init__(self, net: Net, base_url: str) -> None:
        super().__init__(logger=_SDK_LOG)
        self._net, self._base = net, f"{base_url.rstrip('/')}/"
        self.base_url = ""  # it takes an address apart and joins it anew for each call: a method alone is left as it is

    async def _request(self, *, http_verb: str, api_url: str, req_args: Json) -> Json:
        """The SDK's own sending. Raises `SourceError`; what Slack refuses, the SDK finds in what is given here."""
        sent = {name: req_args[name] for name in ("params", "headers", "data") if req_args.get(name)}
        answer = await self._net.ask(http_verb, self._base + api_url, **sent)
        if 300 <= answer.status < 400 and (redirected := answer.passing_fault()):
            raise redirected
        data = answer.json() if answer.status == 200 else answer.object_or_none() or {}
        return {"data": data, "headers": answer.headers, "status_code": answer.status}


@dataclass
class Api:
    """Calls to one workspace. ``channels``: what the conversations stream found for messages.

    ``closed``: channel → what a person must put right before it can be read; told when the others are read.
    ``threads``: ``<channel>:<ts>`` of those that were read in this run. ``until``: in an audit, channel → the ts up to
    which the cycles have read. ``faults``: channels and threads in a row that failed in passing, with no page between
    them. ``any_read``: whether a channel was read to its end.
    """

    link: Link
    client: Client
    channels: list[str] = field(default_factory=list)
    closed: dict[str, Misconfigured] = field(default_factory=dict)
    threads: set[str] = field(default_factory=set)
    until: dict[str, str] = field(default_factory=dict)
    faults: int = 0
    any_read: bool = False
    _scopes: str = ""

    @property
    def scopes(self) -> set[str]:
        """The token's, as the last answer told them; none where it did not."""
        return set(re.findall(r"[^,\s]+", self._scopes))

    async def call(self, method: str, verb: str = "GET", **arguments: Any) -> Json:
        """One answered call. Raises `SourceError`."""

        async def attempt() -> tuple[Json, Mapping[str, str]]:
            token = self.link.credentials.get("token") or await self.link.access_token()
            return await _sent(method, self.client, verb, params={**arguments, "token": token})

        answer, headers = await self.link.call(method, attempt)
        self._scopes = headers.get("x-oauth-scopes", "")
        return answer

    async def pages(self, method: str, member: str, **asked: Any) -> AsyncIterator[tuple[list[Json], bool, Json]]:
        """Pages of a listing, each with whether it is the last, and the whole answer. Raises `SourceError`;
        `CursorExpired` where Slack no longer takes a page token.
        """
        token, walk, key = "", Walk(method), "ts" if member == "messages" else "id"
        asked = {"limit": self.per_page(method), **asked}  # the same for all: a page token fits no other request
        while True:
            try:
                answer = await self.call(method, **asked, cursor=token or None)
            except Misconfigured as error:
                if not self._is_too_many(error, method, asked["limit"]):
                    raise
                if token:
                    raise CursorExpired(error.message) from None
                asked["limit"] = FEW_PER_PAGE
                continue
            token, given = text(answer, "response_metadata", "next_cursor"), answer.get(member)
            if not isinstance(given, list):  # nobody has seen Slack leave out an empty one
                raise Transient(f"{method}: no list of {member}")
            rows = objects(given, key)
            walk.step(token, given, {row[key] for row in rows})
            self._learn(method, [row for row in rows if row.get("ts") != asked.get("ts")], len(rows), more=bool(token))
            self.faults = 0
            yield rows, not token, answer
            if not token:
                return

    def per_page(self, method: str) -> int:
        """How many objects a page may have: few where Slack restricts the app, once that is certain."""
        kind = self.link.settings.get("app_kind") or self.link.options.get("app_kind")
        few = method in _RESTRICTED and (kind == "restricted" or self.link.is_proven_low(method))
        return FEW_PER_PAGE if few else PER_PAGE

    def _is_too_many(self, error: Misconfigured, method: str, limit: int) -> bool:
        """Whether Slack refuses the size of a page because it restricts the app; from then on that is certain."""
        return "invalid_limit" in error.message and limit > FEW_PER_PAGE and self.link.prove_low(method)

    def _learn(self, method: str, rows: list[Json], shown: int, *, more: bool) -> None:
        """What a page tells of a limit that seems low. ``rows``: less a thread's parent, which may count or not."""
        if self.link.is_low(method):
            if len(rows) > FEW_PER_PAGE:
                self.link.raise_again(method)
            elif more and FEW_PER_PAGE in {len(rows), shown}:
                self.link.prove_low(method)

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
        answer, _ = await self.link.call(method, attempt, draws={"token": 1}, renews=False)
        renewed = {key: answer[key] for key in ("access_token", "refresh_token") if text(answer, key)}
        if "access_token" not in renewed:
            raise Transient(f"{method}: no access_token in the answer")
        life = answer.get("expires_in")
        ends = self.link.now() + timedelta(seconds=min(max(life, 0), 10**9)) if isinstance(life, int) else None
        return {**renewed, "expires_at": ends and f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"}


async def _sent(method: str, client: Client, verb: str, **request: Any) -> tuple[Json, Mapping[str, str]]:
    """One request through the SDK: the answer and its headers. The one place that knows how the SDK fails."""
    try:
        response: Any = await client.api_call(method, http_verb=verb, **request)
    except SlackApiError as error:  # `from None`: its text holds the whole body
        answered: Any = error.response
        raise _fault(method, answered.status_code, answered.headers, answered.data) from None
    return response.data, response.headers


def _fault(method: str, status: int, headers: Mapping[str, str], answer: object) -> SourceError:
    """What an unsuccessful answer means (contract: error catalogue)."""
    code = text(answer, "error")[:100]
    said = f"{method}: {code or f'HTTP {status} without an answer of Slack'}"
    if status == 429 or code == "ratelimited":
        return RateLimited(said, retry_after_s=retry_after_s(headers))
    if status >= 500 or status == 408 or code in _PASSING or (status == 200 and not code):
        return Transient(said, retry_after_s=retry_after_s(headers))
    if code == "invalid_cursor":
        return CursorExpired(said)
    if code == "missing_scope":
        return Misconfigured(f"{said}, needs {text(answer, 'needed')[:100]}", hint=ADD_SCOPE)
    if code in _REAUTH:
        return AuthError(said, hint=_REAUTH[code])
    if code in _CLIENT:
        return Misconfigured(said, hint="check client_id and client_secret: Basic Information of the Slack app")
    if not code or code.startswith(_NOT_TAKEN):
        return Misconfigured(said, hint="check sources.slack.base_url, any proxy on the way, and the token's kind")
    return Rejected(said + (": the app is not a member, /invite it there" if code in _OUTSIDE else ""))


@asynccontextmanager
async def connect(link: Link) -> AsyncIterator[Api]:
    """An api object for one run."""
    api = Api(link, Client(link.net, link.options["base_url"]))
    if not link.credentials.get("token"):
        link.refresh = api.renewed
    yield api
