"""Whose Slack it is: the sign-in (OAuth v2), the workspace behind a token, the channels to choose from.

Slack sends a browser back to https addresses only; to this machine only for apps that it makes public for good by
PKCE, and these get no bot scopes there (https://docs.slack.dev/authentication/using-pkce). So neither is used.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, Misconfigured, RateLimited, Rejected, Transient
from syncd.net import retry_after_s
from syncd.source import Choice, OAuth, Owner, Regime
from syncd.sources.slack_text import Json, text

if TYPE_CHECKING:
    from syncd.http import Link
    from syncd.source import Grant, Known
    from syncd.sources.slack_api import Api

_SPENT = {"invalid_code", "code_already_used", "code_expired", "invalid_code_verifier"}
_PASSING = {"internal_error", "fatal_error", "service_unavailable", "request_timeout"}
_KINDS = ("public_channel", "private_channel", "mpim")


async def _exchange(link: Link, grant: Grant) -> dict[str, Any]:
    """A bot's token for a code. With token rotation switched on it comes with a refresh token and ends."""
    app = {key: str(link.credentials[key]) for key in ("client_id", "client_secret")}
    form = {**app, "grant_type": "authorization_code", "code": grant.code, "redirect_uri": grant.redirect_uri}

    async def attempt() -> Json:
        url = f"{str(link.options['base_url']).rstrip('/')}/oauth.v2.access"
        answer = await link.net.ask("POST", url, data=form)
        if fault := answer.passing_fault():
            raise fault
        body = answer.json()
        code = text(body, "error")[:100] or f"HTTP {answer.status} without a reason"
        if body.get("ok") is True and text(body, "access_token"):
            return body
        if code == "ratelimited":
            raise RateLimited(code, retry_after_s=retry_after_s(answer.headers))
        if code in _PASSING:
            raise Transient(code, retry_after_s=retry_after_s(answer.headers))
        if code in _SPENT:
            raise Rejected(code)
        hint = "compare sources.slack.oauth, and the redirect URLs of the Slack app, under OAuth & Permissions"
        raise Misconfigured(code, hint=hint)

    got = await link.call("oauth.v2.access", attempt, draws={"token": 1}, renews=False)
    if not text(got, "refresh_token"):
        return {"token": got["access_token"]}
    life = got.get("expires_in")
    ends = link.now() + timedelta(seconds=min(max(life, 0), 10**9)) if isinstance(life, int) else None
    pair = {key: got[key] for key in ("access_token", "refresh_token")}
    return {**pair, "expires_at": ends and f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", **app}


async def owner(api: Api) -> Owner:
    """The workspace that the token is for."""
    who = await api.call("auth.test", "POST")
    if not text(who, "team_id"):
        raise AuthError("auth.test: Slack does not say whose token it is", hint="copy the bot token again")
    return Owner(text(who, "team_id"))


async def _channels(api: Api) -> list[tuple[str, str]]:
    """The channels that the app is in, of the kinds that its scopes open."""
    found: list[tuple[str, str]] = []
    for kind in _KINDS:
        try:
            async for rooms, _, _ in api.listing("users.conversations", "channels", types=kind):
                found += [(text(room, "id"), text(room, "name")) for room in rooms]
        except Misconfigured:  # `check` names the scope
            continue
    return sorted(found, key=lambda one: one[1])


def regime(known: Known) -> Regime:
    """Whether Slack restricts the app: set, found out, or not known yet."""
    methods = " and ".join(known.low_rates)
    match known.settings.get("app_kind") or known.options.get("app_kind"):
        case "restricted":
            return Regime("restricted app", "restricted app, by the setting app_kind")
        case "full":
            return Regime("full limits", "full limits, by the setting app_kind")
    if known.low_s:
        low, hours = next(iter(known.low_rates.values())), max(known.low_s.values()) / 3600
        found = f"restricted app: {low} of {methods}; the full limits are tried again in {hours:.1f} h"
        return Regime("restricted app", found)
    if any(known.used.get(name, 0) > low.calls for name, low in known.low_rates.items()):
        return Regime("full limits", "full limits: more was read lately than a restricted app may")
    return Regime("app not known yet", f"whether Slack restricts the app shows once much is read by {methods}")


CHOICE = Choice("channels", _channels, "all that the app is in, also those it is invited to later")
OAUTH = OAuth(
    scopes="channels:read,channels:history,groups:read,groups:history,im:read,im:history,mpim:read,mpim:history,"
    "users:read,users:read.email",
    exchange=_exchange,
)
