"""Whose mailbox it is: Google's sign-in, the address behind it, the labels to choose from."""

from __future__ import annotations

from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Any

from syncd.errors import AuthError, Misconfigured, Rejected, Transient
from syncd.source import Choice, OAuth, Owner, Regime
from syncd.sources.gmail_mail import number, text
from syncd.sources.gmail_refusals import SCOPE, refusal, refused

if TYPE_CHECKING:
    from syncd.http import Link
    from syncd.source import Grant, Known
    from syncd.sources.gmail_api import Mailbox


async def _exchange(link: Link, grant: Grant) -> dict[str, Any]:
    """Tokens for a code. The refresh token comes only with access_type=offline, and again only with prompt=consent."""
    app = {key: str(link.credentials[key]) for key in ("client_id", "client_secret")}
    form = {**app, "grant_type": "authorization_code", "code": grant.code, "redirect_uri": grant.redirect_uri}
    form |= {"code_verifier": grant.verifier} if grant.verifier else {}

    async def attempt() -> dict[str, Any]:
        answer = await link.net.ask("POST", str(link.options["token_url"]), data=form)
        if answer.status == 200:
            return answer.json()
        reasons, said = refused(answer)
        if "invalid_grant" in reasons:
            raise Rejected(f"invalid_grant: {said}"[:200])
        if "redirect_uri_mismatch" in reasons:
            raise Misconfigured(said[:200], hint="add this redirect address to the OAuth client in the Cloud console")
        raise refusal(answer, reasons, said, link.now())

    got = await link.call("token", attempt, draws={"token": 1}, renews=False)
    if not text(got.get("access_token")) or not text(got.get("refresh_token")):
        raise Transient("the token endpoint sent no refresh_token")
    granted = text(got.get("scope")).split()
    if granted and SCOPE not in granted:  # a person may untick it on Google's page
        hint = "sign in again and leave the permission to read mail ticked"
        raise AuthError("reading mail was not allowed", hint=hint)
    ends = link.now() + timedelta(seconds=number(got.get("expires_in")) or 3600)
    pair = {key: got[key] for key in ("access_token", "refresh_token")}
    return {**pair, "expires_at": f"{ends.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}", **app}


async def owner(mailbox: Mailbox) -> Owner:
    """The mailbox's address."""
    address = text((await mailbox.need("getProfile")).get("emailAddress")).strip().casefold()
    return Owner(address, address)


async def _labels(mailbox: Mailbox) -> list[tuple[str, str]]:
    names = await mailbox.label_names()
    return sorted(names.items(), key=lambda one: (one[0] == one[1], one[1]))  # a person's own before Gmail's


def regime(known: Known) -> Regime:
    """Which of Google's price lists is counted by: the setting says so, no answer does."""
    name = f"{known.options.get('price_list')} price list"
    return Regime(name, f"{name}: {known.rates['units']} quota units per user")


CHOICE = Choice("labels", _labels, "INBOX")
OAUTH = OAuth(
    scopes=SCOPE,
    exchange=_exchange,
    pkce=True,
    loopback=True,
    extra={"access_type": "offline", "prompt": "consent"},
)
