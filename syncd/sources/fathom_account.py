"""Whose Fathom it is: the sign-in, and what can be told of who is behind a key.

Redirect addresses are https only, one per app; PKCE is mentioned nowhere, so it is not used.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import Misconfigured, Rejected
from syncd.source import OAuth, Owner, Regime
from syncd.sources.fathom_meetings import Json, fields, text, zulu

if TYPE_CHECKING:
    from syncd.http import Link
    from syncd.source import Grant, Known
    from syncd.sources.fathom_api import Api


async def _exchange(link: Link, grant: Grant) -> dict[str, Any]:
    """Tokens for a code."""
    app = {key: str(link.credentials[key]) for key in ("client_id", "client_secret")}
    form = {**app, "grant_type": "authorization_code", "code": grant.code, "redirect_uri": grant.redirect_uri}

    async def attempt() -> Json:
        answer = await link.net.ask("POST", str(link.options["token_url"]), data=form)
        if fault := answer.passing_fault():
            raise fault
        if answer.status == 200 and text(answer.json().get("access_token")):
            return answer.json()
        code = text(fields(answer.object_or_none()).get("error")) or f"HTTP {answer.status} without a reason"
        if code == "invalid_grant":
            raise Rejected(code)
        raise Misconfigured(code[:200], hint="compare sources.fathom.oauth and token_url with the Fathom app's page")

    got = await link.call("oauth2.token", attempt, draws={"token": 1}, whose=link.app(), renews=False)
    if not text(got.get("refresh_token")):
        raise Misconfigured("the reply holds no refresh_token", hint="ask Fathom whether the app is set up for OAuth")
    life = got.get("expires_in")
    ends = link.now() + timedelta(seconds=min(max(life, 0), 10**9)) if isinstance(life, int) else None
    pair = {key: got[key] for key in ("access_token", "refresh_token")}
    return {**pair, "expires_at": ends and zulu(ends), **app}


async def owner(api: Api) -> Owner:
    """The company, known by the domains of its members' addresses: nothing tells which of them the user is."""
    try:
        members, _ = await api.page("team_members", {}, None)
    except Rejected:
        return Owner("")
    addresses = [address.casefold() for one in members if (address := text(one.get("email")))]
    return Owner(" ".join(sorted({address.rpartition("@")[2].strip() for address in addresses if "@" in address})))


def regime(known: Known) -> Regime:
    """Whether Fathom has lowered the limit of transcripts and summaries, as it does while much is asked of it."""
    if "heavy" in known.low_s:
        minutes = known.low_s["heavy"] / 60
        words = f"transcripts and summaries lowered to {known.low_rates['heavy']}; tried again in {minutes:.0f} min"
        return Regime("heavy limit low", words)
    return Regime("heavy limit full", f"transcripts and summaries: {known.rates['heavy']}, not lowered")


OAUTH = OAuth(scopes="public_api", exchange=_exchange)
