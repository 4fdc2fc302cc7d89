"""Pages by which a product's users connect accounts: a signed link → for whom it is → the vendor → back → stored.

What the sign-in needs on its way back stands in this process's memory: a person who comes back after a restart, or to
another daemon behind the same address, is asked to begin again.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import structlog
from aiohttp import web
from jinja2 import Environment, PackageLoader, select_autoescape
from sqlalchemy.exc import SQLAlchemyError

from syncd.connect import ATTEMPT_S, Attempts, Refused, Signer, app_of, begin, exchanged, placed, tried
from syncd.credentials import NO_KEY
from syncd.errors import AuthError, OtherAccount, Rejected, SealError, SourceError, StoreFailed
from syncd.runs import told, words
from syncd.store import Line

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from syncd.connect import Invitation, SignIn
    from syncd.daemon import Parts
    from syncd.settings import Settings

log = structlog.get_logger(__name__)

CLOSE = "You can close this window."
_OTHER = "Sign in with the account that is connected already. For a further one, ask for a link of its own."
_AGAIN = "Nothing was connected. Open the link again to try once more."
_COOKIE = "syncd_connect"
_GO = "go"  # the parameter by which a link's own page leads on
_STYLE = (
    ":root{color-scheme:light dark}body{font:17px/1.5 system-ui,sans-serif;margin:0;padding:2rem 1rem}"
    "main{max-width:34rem;margin:12vh auto 0}"
    "h1{font-size:1.5rem;margin:0 0 1rem;padding-left:.8rem;border-left:.3rem solid}"
    ".well{border-color:#2a8a4a}.ill{border-color:#c33a3a}"
    ".go{display:inline-block;padding:.6rem 1.1rem;border-radius:.4rem;background:#1f5fbf;color:#fff}"
    ".go:focus-visible{outline:.2rem solid;outline-offset:.2rem}"
)
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TEMPLATE = Environment(loader=PackageLoader("syncd.web"), autoescape=select_autoescape()).get_template("connect.html")


def page(title: str, *lines: str, status: int = 200, on: tuple[str, str] | None = None) -> web.Response:
    """A page that says one thing. Whatever it is given is shown as text. ``on``: words and address of its button."""
    text = _TEMPLATE.render(title=title, lines=lines, well=status == 200, style=_STYLE, on=on)
    return web.Response(text=text, status=status, headers=_HEADERS, content_type="text/html")


def public_url(settings: Settings, listening: str) -> str:
    """Where a browser reaches this daemon, without a slash at its end."""
    return (settings.http.public_url or listening).rstrip("/")


class Connecting:
    """``GET /connect/<source>`` and its ``/callback``. ``base``: where browsers reach us, set once we listen."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._apps = {name: app for name in parts.engine.plans if (app := app_of(parts.settings, name))}
        keys = parts.settings.keys()
        self._signer = Signer(keys) if keys else None
        self._attempts = Attempts()
        self.base = ""

    def routes(self) -> list[web.RouteDef]:
        # No HEAD: what a mail filter looks at is not to finish a sign-in.
        return [
            web.get("/connect/{source}", self._guarded(self._leave), allow_head=False),
            web.get("/connect/{source}/callback", self._guarded(self._back), allow_head=False),
        ]

    def _guarded(
        self, handler: Callable[[web.Request, Signer], Awaitable[web.StreamResponse]]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A page's edge: whatever goes wrong is a page of its own, in words for the person who opened it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            source = request.match_info["source"]
            if source not in self._parts.engine.plans:
                return page("There is nothing here", "Check the address.", status=404)
            try:
                if self._signer is None:
                    raise SealError(NO_KEY)
                return await handler(request, self._signer)
            except Refused as error:
                log.warning("connect.refused", source=source, reason=str(error))
                return page("This does not work", str(error), status=403)
            except OtherAccount as error:
                log.warning("connect.refused", source=source, reason=str(error))
                return page("This is another account", _OTHER, _AGAIN, status=409)
            except SourceError as error:
                log.warning("connect.failed", source=source, error=told(error))
                return _failure(source, error)
            except (SealError, StoreFailed, SQLAlchemyError, OSError) as error:
                log.error("connect.failed", source=source, error=words(error))
                return page("This does not work now", "The service is not ready. " + _AGAIN, status=503)
            except Exception as error:
                log.error("connect.defect", source=source, error=words(error), exc_info=error)
                return page("This does not work now", "Something is wrong here. " + _AGAIN, status=500)

        return handle

    async def _leave(self, request: web.Request, signer: Signer) -> web.StreamResponse:
        """A signed link was opened: first for whom it is, and from there to the vendor.

        Who was only sent the way on, which this browser did not get here, sees that page too. The state that goes to
        the vendor can be brought back by this browser alone.
        """
        source, said = request.match_info["source"], list(request.query.items())
        asked = [pair for pair in said if pair[0] != _GO]
        invitation = signer.read(source, asked, datetime.now(UTC))
        app, oauth = self._apps.get(source), self._parts.engine.plans[source].source.oauth
        if app is None or oauth is None:
            return page("This is not set up", f"No sign-in is configured for {source}.", status=404)
        browser, seen = request.cookies.get(_COOKIE, ""), request.query.get(_GO, "")
        signed = request.query["signature"]  # else the page of one link would lead on to another's
        if not browser or not signer.signed(seen, _GO, source, browser, signed):
            browser = secrets.token_urlsafe(32)
            on = urlencode([*asked, (_GO, signer.sign(_GO, source, browser, signed))])
            return self._known_by(browser, source, self._invited(invitation, f"?{on}"))
        nonce = secrets.token_urlsafe(32)
        state = f"{nonce}.{signer.sign('state', source, nonce, browser)}"
        sign_in = begin(oauth, app, f"{self.base}/connect/{source}/callback", state)
        self._attempts.add(nonce, invitation, sign_in)
        left = web.Response(status=302, headers={"Location": sign_in.url, **_HEADERS})
        return self._known_by(browser, source, left)

    def _invited(self, invitation: Invitation, on: str) -> web.Response:
        """What whoever opens the link is about to do: links are forwarded, and this one gives something away."""
        vendor = invitation.source.capitalize()
        lines = [f"You go on to {vendor}, sign in there, and allow that it is read."]
        if invitation.account:
            lines.append(f"Sign in as {invitation.account}.")
        lines.append(
            f"What is read is stored at {urlsplit(self.base).netloc} for {invitation.workspace}. "
            "Go on only if that is where you want it."
        )
        return page(f"Connect {vendor} for {invitation.workspace}", *lines, on=(f"Go on to {vendor}", on))

    def _known_by(self, browser: str, source: str, response: web.Response) -> web.Response:
        """The response, by which this browser is known when it comes again."""
        response.set_cookie(
            _COOKIE,
            browser,
            max_age=int(ATTEMPT_S),
            path=self._path(source),
            secure=self.base.startswith("https:"),
            httponly=True,
            samesite="Lax",
        )
        return response

    async def _back(self, request: web.Request, signer: Signer) -> web.StreamResponse:
        """The vendor sent the person back, or somebody wants us to think so."""
        source, query = request.match_info["source"], request.query
        nonce, _, signature = query.get("state", "").partition(".")
        browser = request.cookies.get(_COOKIE, "")
        if not browser or not signer.signed(signature, "state", source, nonce, browser):
            raise Refused("This browser did not begin this sign-in, or began it too long ago. Open the link again.")
        invitation, sign_in = self._attempts.take(nonce)
        if error := query.get("error"):
            log.info("connect.denied", source=source, workspace=invitation.workspace, error=error[:100])
            response = page("You did not allow it", _AGAIN, status=403)
        elif not (code := query.get("code")):
            raise Refused("The vendor sent neither a code nor a reason. Open the link again.")
        else:
            response = await self._connected(invitation, sign_in, code)
        response.del_cookie(_COOKIE, path=self._path(source))
        return response

    async def _connected(self, invitation: Invitation, sign_in: SignIn, code: str) -> web.Response:
        parts, source = self._parts, invitation.source
        plan, runs = parts.engine.plans[source], parts.engine.runs
        credentials = await exchanged(runs, plan, self._apps[source], sign_in.grant(code))
        line = Line(
            workspace_id=invitation.workspace, source=source, account=invitation.account, credentials=credentials
        )
        found = await tried(runs, plan, line, thoroughly=False)
        line = await placed(parts.store, line, found)
        await parts.store.connections.put([line], parts.vault.seal)
        log.info("account.connected", source=source, workspace=line.workspace_id, account=line.account)
        whose: Sequence[str] = [found.owner.account] if found.owner.account else []
        return page(f"{source.capitalize()} is connected", *whose, CLOSE)

    def _path(self, source: str) -> str:
        return f"{urlsplit(self.base).path}/connect/{source}"


def _failure(source: str, error: SourceError) -> web.Response:
    """What a vendor's refusal means to a person who cannot change our settings; the log has its words."""
    if isinstance(error, Rejected):
        return page("The sign-in was not accepted", f"{source.capitalize()} did not take the code.", _AGAIN, status=400)
    if isinstance(error, AuthError) and error.hint:
        return page("The sign-in was not enough", f"{error.hint[0].upper()}{error.hint[1:]}.", _AGAIN, status=400)
    return page("This does not work now", f"{source.capitalize()} refused or did not answer.", _AGAIN, status=502)
