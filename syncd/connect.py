"""Connecting an account: signed links, the vendor's sign-in (OAuth's code grant), trying what came of it, storing it.

The terminal (`cli/connect.py`) and the daemon's pages (`web/connect.py`) put it before a person; no HTTP server and no
prompt is here.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from syncd.credentials import NO_KEY
from syncd.errors import OtherAccount, SealError, UsageError
from syncd.source import Grant, Owner
from syncd.store import Connection
from syncd.store.connections import refuse_other

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from syncd.plan import Plan
    from syncd.runs import Runs
    from syncd.settings import Settings
    from syncd.source import OAuth, Report
    from syncd.store import Line, Store

ATTEMPT_S = 600.0  # from leaving for the vendor to coming back
_SIGNED = ("workspace", "account", "expires")  # the parameters of a link, beside its path


class Refused(Exception):
    """A link or a way back that is not to be trusted; ``str()`` says why, for whoever opened it."""


@dataclass(frozen=True, slots=True)
class App:
    """The product's OAuth app at a vendor, of the settings. ``scopes``: empty = the source's own."""

    client_id: str
    client_secret: str = field(repr=False)
    authorize_url: str
    scopes: str = ""


def app_of(settings: Settings, source: str) -> App | None:
    """The app with which people sign in there; None where none is set."""
    mine = getattr(settings.sources, source).oauth
    return App(mine.client_id, mine.secret(), mine.authorize_url, mine.scopes) if mine.client_id else None


# --- signed links -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a link says: whoever opens it may connect an account of theirs to this workspace, until then."""

    source: str
    workspace: str
    account: str
    expires_at: datetime


class Signer:
    """Signs with a key derived from the first of the Fernet keys, and knows what any of them signed.

    Raises `SealError` without a key.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        if not keys:
            raise SealError(NO_KEY)
        self._keys = [_derived(key) for key in keys]

    def link(self, base: str, invitation: Invitation) -> str:
        """The address that carries the invitation; ``base``: where the daemon's pages are reached from outside."""
        said = {
            "workspace": invitation.workspace,
            "account": invitation.account,
            "expires": str(int(invitation.expires_at.timestamp())),
        }
        signature = self.sign("link", invitation.source, *(said[name] for name in _SIGNED))
        return f"{base.rstrip('/')}/connect/{invitation.source}?{urlencode({**said, 'signature': signature})}"

    def read(self, source: str, query: Sequence[tuple[str, str]], now: datetime) -> Invitation:
        """What a link's parameters say. Raises `Refused` unless we signed exactly these, and their time is not over."""
        said = dict(query)
        if len(said) != len(query) or set(said) != {*_SIGNED, "signature"}:
            raise Refused("This link is not complete, or something was added to it.")
        if not self.signed(said["signature"], "link", source, *(said[name] for name in _SIGNED)):
            raise Refused("This link was not made here, or it was changed.")
        expires_at = now.fromtimestamp(int(said["expires"]), now.tzinfo)
        if now >= expires_at:
            raise Refused("This link has expired. Ask for a new one where you got it.")
        return Invitation(source, said["workspace"], said["account"], expires_at)

    def sign(self, *parts: str) -> str:
        return _mac(self._keys[0], parts)

    def signed(self, signature: str, *parts: str) -> bool:
        """Whether one of our keys signed these parts; in a time that tells nothing of the right signature."""
        given = signature.encode(errors="replace")
        return any(hmac.compare_digest(_mac(key, parts).encode(), given) for key in self._keys)


def _derived(key: str) -> bytes:
    """A key of its own for this purpose: what is signed here tells nothing of what seals the credentials."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"syncd connect links")
    return derivation.derive(base64.urlsafe_b64decode(key))


def _mac(key: bytes, parts: Sequence[str]) -> str:
    return base64.urlsafe_b64encode(hmac.digest(key, framed(parts), "sha256")).decode().rstrip("=")


def framed(parts: Sequence[str]) -> bytes:
    """What is signed of them, each with its length: two ways of cutting one text must not have one signature.

    A browser may send bytes that are no text: these come as lone surrogates.
    """
    texts = [part.encode(errors="surrogatepass") for part in parts]
    return b"".join(len(text).to_bytes(4, "big") + text for text in texts)


def link_for(settings: Settings, base: str, invitation: Invitation) -> str:
    """The link of an invitation. Raises UsageError where nobody could follow it, SealError without a key."""
    source = invitation.source
    if app_of(settings, source) is None:
        raise UsageError(f"nobody can sign in at {source}: set sources.{source}.oauth.client_id and .client_secret")
    return Signer(settings.keys()).link(base, invitation)


# --- the sign-in ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in under way. ``url``: where the person goes; ``state``: what must come back with them."""

    url: str = field(repr=False)
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    redirect_uri: str

    def grant(self, code: str) -> Grant:
        return Grant(code, self.redirect_uri, self.verifier)


def begin(oauth: OAuth, app: App, redirect_uri: str, state: str) -> SignIn:
    """A sign-in at the vendor, with a challenge of its own where the vendor takes one (RFC 7636)."""
    verifier = secrets.token_urlsafe(48) if oauth.pkce else ""
    query = {"response_type": "code", "client_id": app.client_id, "redirect_uri": redirect_uri, "state": state}
    query |= {"scope": app.scopes or oauth.scopes, **oauth.extra}
    if verifier:
        digest = hashlib.sha256(verifier.encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        query |= {"code_challenge": challenge, "code_challenge_method": "S256"}
    return SignIn(
        f"{app.authorize_url}{'&' if '?' in app.authorize_url else '?'}{urlencode(query)}",
        state,
        verifier,
        redirect_uri,
    )


class Attempts:
    """The sign-ins that left for a vendor, in this process's memory: each comes back once, within `ATTEMPT_S`.

    A restart forgets them, and the person begins again. ``most``: beyond that number the oldest is forgotten.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._held: dict[str, tuple[float, Invitation, SignIn]] = {}

    def add(self, nonce: str, invitation: Invitation, sign_in: SignIn) -> None:
        now = time.monotonic()
        self._held = {one: held for one, held in self._held.items() if held[0] > now}
        while len(self._held) >= self._most:
            del self._held[next(iter(self._held))]
        self._held[nonce] = (now + ATTEMPT_S, invitation, sign_in)

    def take(self, nonce: str) -> tuple[Invitation, SignIn]:
        """Raises `Refused` when it is not there: it came back before, too late, or to another process."""
        ends, invitation, sign_in = self._held.pop(nonce, (0.0, None, None))
        if invitation is None or sign_in is None or time.monotonic() > ends:
            raise Refused("This sign-in was finished before, or it took too long. Open the link again.")
        return invitation, sign_in


# --- what came of it --------------------------------------------------------------------------------------------------


async def exchanged(runs: Runs, plan: Plan, app: App, grant: Grant) -> dict[str, Any]:
    """The credentials for a code. It is good for one try, so it is tried once. Raises `SourceError`."""
    oauth = plan.source.oauth
    assert oauth is not None  # noqa: S101 - who has a grant has begun a sign-in
    client = {"client_id": app.client_id, "client_secret": app.client_secret}
    link = runs.link(plan, _unsaved(), client)
    link.secrets |= {app.client_secret, grant.code, *([grant.verifier] if grant.verifier else ())}
    link.patience_s = 0.0
    return await oauth.exchange(link, grant)


@dataclass(frozen=True, slots=True)
class Tried:
    """What credentials turned out to open. ``credentials``: as given, or as they were renewed meanwhile."""

    credentials: Mapping[str, Any] = field(repr=False)
    owner: Owner
    report: Report | None = None
    choices: Sequence[tuple[str, str]] = ()


async def tried(runs: Runs, plan: Plan, line: Line, *, thoroughly: bool = True) -> Tried:
    """Ask the vendor with a line's credentials whose they are; ``thoroughly``: also what they show. Stores nothing.

    Raises `SourceError` when they open nothing.
    """
    kept = dict(line.credentials or {})
    link = runs.link(plan, _unsaved(line.account, line.settings), kept)

    async def keep(renewed: Mapping[str, Any]) -> None:
        kept.update(renewed)

    link.save, link.alone = keep, nullcontext  # nobody else knows them yet
    source, report, choices = plan.source, None, list[tuple[str, str]]()
    async with source.connect(link) as api:
        owner = await source.owner(api) if source.owner else Owner("")
        if thoroughly:
            report = await source.check(api)
            choices = list(await source.choice.listed(api)) if source.choice else []
    return Tried(kept, owner, report, choices)


async def placed(store: Store, line: Line, found: Tried, *, force: bool = False) -> Line:
    """The line as it is to be stored: with what was found out, under the account's own name where none was given.

    Raises `OtherAccount` when the account is not the one that was asked for, or not the one that is connected.
    """
    name = found.owner.account
    if line.account and name and "@" in line.account and line.account.casefold() != name.casefold() and not force:
        raise OtherAccount(
            f"{line.source} of {line.workspace_id}: this was to be the account {line.account}, "
            f"but the sign-in was as {name}; sign in as the other, or connect this one under its own name"
        )
    known = {one.account: one for one in await store.connections.all(source=line.source, workspace=line.workspace_id)}
    if not line.account and line.account not in known:  # one that is there without a name goes on without
        line = replace(line, account=name)
    line = replace(line, credentials=found.credentials, identity=found.owner.identity or None)
    if line.account in known and not force:
        refuse_other(line, known[line.account].identity)
    return line


def _unsaved(account: str = "", settings: Mapping[str, Any] | None = None) -> Connection:
    """As `Runs.link` wants a connection; it is not in the database (yet)."""
    nothing: dict[str, Any] = dict.fromkeys(Connection.__dataclass_fields__)
    return Connection(**nothing | {"id": 0, "account": account, "settings": dict(settings or {})})
