"""Whose Gong it is: the sign-in of a technical administrator, and the company behind credentials."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import Misconfigured, Rejected
from syncd.source import OAuth, Owner, Regime
from syncd.sources.gong_api import iso
from syncd.sources.gong_calls import dig, id_text, number, text

if TYPE_CHECKING:
    from syncd.http import Link
    from syncd.source import Grant, Known
    from syncd.sources.gong_api import Api


async def _exchange(link: Link, grant: Grant) -> dict[str, Any]:
    """Tokens for a code; they are the company's, not the person's, and good at the host that comes with them."""
    client = (str(link.credentials["client_id"]), str(link.credentials["client_secret"]))
    # As in a refresh: documented as query parameters, sent as a form, since a secret in a URL ends up in logs.
    form = {"grant_type": "authorization_code", "code": grant.code, "client_id": client[0]}
    form |= {"redirect_uri": grant.redirect_uri} | ({"code_verifier": grant.verifier} if grant.verifier else {})

    async def attempt() -> dict[str, Any]:
        answer = await link.net.ask("POST", str(link.options["token_url"]), data=form, auth=client)
        if fault := answer.passing_fault():
            raise fault
        if answer.status == 200 and text(answer.json().get("access_token")):
            return answer.json()
        code = text(dig(answer.object_or_none(), "error")) or f"HTTP {answer.status} without a reason"
        if code == "invalid_grant":
            raise Rejected(code)
        raise Misconfigured(code[:200], hint="compare sources.gong.oauth and token_url with the Gong app's page")

    got = await link.call("oauth2/generate-customer-token", attempt, draws={"token": 1}, renews=False)
    members = ("access_token", "refresh_token", "api_base_url_for_customer", "api_base_url")
    kept = {key: value for key in members if (value := text(got.get(key)))}
    if "refresh_token" not in kept:
        raise Misconfigured("the reply holds no refresh_token", hint="ask Gong whether the app is set up for OAuth")
    ends = link.now() + timedelta(seconds=number(got.get("expires_in")) or 86400)  # contract: a day
    return {**kept, "expires_at": iso(ends), "client_id": client[0], "client_secret": client[1]}


async def owner(api: Api) -> Owner:
    """The company, known by the ids of its Gong workspaces; not told where their scope is missing."""
    try:
        spaces, _, _ = await api.ask("workspaces", "workspaces")
    except Misconfigured:  # `check` names the scope
        return Owner("")
    return Owner(" ".join(sorted(one for space in spaces if (one := id_text(space.get("id"))))))


def regime(known: Known) -> Regime:
    """How much of the day's calls is used, by our count: others who use the same key are not in it."""
    day, used = known.rates["day"], known.used.get("day", 0)
    part = "under half" if 2 * used < day.calls else "over half" if used < day.calls else "all"
    return Regime(f"{part} of the day's calls used", f"{used:,} of {day.calls:,} calls of the last 24 hours used")


OAUTH = OAuth(
    scopes="api:calls:read:extensive api:calls:read:transcript api:users:read api:workspaces:read",
    exchange=_exchange,
    pkce=True,
    loopback=True,
)
