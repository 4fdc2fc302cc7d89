"""Who may do what over HTTP: loopback, a token, or a proxy that knows its users; and that a form is one of ours.

A browser carries its cookies, and reaches this machine's loopback, on behalf of whatever page it shows. So without a
password only our own names are answered to (a foreign name that leads here is DNS rebinding), and what changes
something must come from our own pages.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from syncd.connect import framed
from syncd.errors import UsageError
from syncd.web.answers import Problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jinja2 import Environment

    from syncd.settings import Settings

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger(__name__)

SESSION_S = 12 * 3600
MOST_WRONG, WRONG_PER_S = 20, 60.0  # so many wrong tries from one address in that time; then it waits
WHO, CSRF = web.RequestKey("who", str), web.RequestKey("csrf", str)
_COOKIE = "syncd_session"
_SAFE = {"GET", "HEAD", "OPTIONS"}
# By their routes, not by the text of an address, which may be written in more than one way. Beside these, /connect/ is
# open; all else is guarded.
_OPEN = {"/healthz", "/readyz", "/login", "/style.css", "/live.js"}
_EVER = _OPEN - {"/login", "/live.js"}  # also where nothing but probes is served


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. ``name``: for a log line; ``form_of``: what the forms that we give them are bound to."""

    name: str
    form_of: str


class Access:
    """The guard before every handler. ``base``: where browsers reach us, set once we listen.

    A handler finds ``request[WHO]``, a `Caller`'s name, and ``request[CSRF]``, the text for a form's hidden field
    ``csrf``. Raises `UsageError` where the settings would let everybody in.
    """

    def __init__(self, settings: Settings, templates: Environment) -> None:
        http = self._http = settings.http
        if why := http.unsafe():
            raise UsageError(why)
        self._token = http.token.get_secret_value().encode()
        self._asks = bool(self._token or http.proxy_header)
        self._key = _key(self._token, settings.keys())
        self._templates = templates
        self._tries = Tries()
        self._ended: dict[str, int] = {}
        self.base = ""

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/login", self._login_page),
            web.post("/login", self._login),
            web.post("/logout", self._logout),
        ]

    @property
    def middleware(self) -> Any:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            await self._pass(request)
            return await handler(request)

        return guard

    async def _pass(self, request: web.Request) -> None:
        """Raises `Problem` unless the request may be done by whoever asks."""
        resource = request.match_info.route.resource
        route = resource.canonical if resource else ""
        request[WHO] = request[CSRF] = ""
        connecting = route.startswith("/connect/")
        if self._http.access == "probes" and not connecting and route not in _EVER | {"/metrics"}:
            raise Problem(404, 'there is nothing here: http.access is "probes"')
        if connecting or route in _OPEN or (route == "/metrics" and self._metrics_open(request)):
            if request.method not in _SAFE:
                self._of_our_pages(request)
            return
        caller = self._caller(request)
        request[WHO], request[CSRF] = caller.name, self._sign("csrf", caller.form_of)
        if request.method not in _SAFE and request.match_info.http_exception is None:
            self._of_our_pages(request)
            if not route.startswith("/api/"):
                await self._our_form(request)

    def _metrics_open(self, request: web.Request) -> bool:
        """Whether whoever asks may read them; False: who may see the page. Raises `Problem` where nobody may."""
        chosen = self._http.metrics
        if chosen == "auto" and self._http.on_loopback:
            self._our_name(request)
            return True
        if chosen == "off" or (chosen == "auto" and not self._asks):
            raise Problem(404, "metrics are off: http.metrics says who may read them")
        return chosen == "open"

    # ── who asks ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _caller(self, request: web.Request) -> Caller:
        """Raises `Problem`: 401 with a way in, 403, 421 or 429."""
        if not self._asks:
            self._our_name(request)
            return Caller("", "loopback")
        caller = self._by_proxy(request) or self._by_session(request) or self._by_token(request)
        if caller is not None:
            return caller
        if not self._token:
            raise Problem(403, f"only who comes through the proxy that sets {self._http.proxy_header} is let in")
        by_person = request.method in _SAFE and "text/html" in request.headers.get("Accept", "")
        if by_person and self._http.access != "probes":
            # A problem like any other, and at the same time the way to its end.
            raise Problem(303, "sign in first", {"Location": f"/login?next={quote(request.path_qs, safe='/')}"})
        raise Problem(
            401,
            "send the token of http.token as `Authorization: Bearer …`",
            {"WWW-Authenticate": 'Bearer realm="syncd"'},
        )

    def _our_name(self, request: web.Request) -> None:
        name = _host(request.headers.get("Host", ""))
        known = {_host(urlsplit(address).netloc) for address in (self._http.public_url or "", self.base)}
        known |= {"localhost", self._http.host.lower()}
        if name not in known - {""} and not _is_loopback(name):
            raise Problem(421, "this name is not ours; if a proxy passes it on, set http.public_url to its address")

    def _by_proxy(self, request: web.Request) -> Caller | None:
        header = self._http.proxy_header
        names = request.headers.getall(header, []) if header else []
        peer = _peer(request)
        if not names or peer is None or not any(peer in network for network in self._http.proxies):
            return None
        if peer.is_loopback:
            self._our_name(request)  # a page under a foreign name that leads here could send this header too
        if len(names) > 1 or not names[0].strip():
            raise Problem(403, f"{header} came more than once, or empty: the proxy must replace what it was sent")
        return Caller(names[0].strip()[:100], f"proxy {names[0].strip()}")

    def _by_session(self, request: web.Request) -> Caller | None:
        expires, _, rest = request.cookies.get(_COOKIE, "").partition(".")
        nonce, _, signature = rest.partition(".")
        if not self._token or not re.fullmatch(r"\d{1,12}", expires) or nonce in self._ended:
            return None
        if not self._signed(signature, "session", expires, nonce) or int(expires) <= time.time():
            return None
        return Caller("token", f"session {nonce}")

    def _by_token(self, request: web.Request) -> Caller | None:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given or not self._token:
            return None
        self._right(request, given.strip())
        return Caller("token", "token")

    def _right(self, request: web.Request, given: str) -> None:
        """Raises `Problem` unless it is the token: 401, or 429 after too many wrong ones from that address."""
        peer = str(_peer(request))
        if wait_s := self._tries.wait_s(peer):
            raise Problem(429, "too many wrong tokens from this address: wait", {"Retry-After": str(int(wait_s) + 1)})
        if not hmac.compare_digest(given.encode(errors="replace"), self._token):
            if self._tries.wrong(peer):
                log.warning("access.shut", address=peer, wrong=MOST_WRONG, for_s=WRONG_PER_S)
            raise Problem(401, "this is not the token", {"WWW-Authenticate": 'Bearer realm="syncd"'})

    # ── what changes something ──────────────────────────────────────────────────────────────────────────────────────

    def _of_our_pages(self, request: web.Request) -> None:
        """Raises `Problem` where a browser says that another site's page made it ask. Programs say nothing."""
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site is not None:
            ours = site in {"same-origin", "none"}
        elif origin is not None:
            ours_are = {request.headers.get("Host", "").lower(), urlsplit(self._http.public_url or "").netloc.lower()}
            ours = urlsplit(origin).netloc.lower() in ours_are - {""}
        else:
            ours = True
        if not ours:
            raise Problem(403, "this was asked for by a page of another site; behind a proxy, set http.public_url")

    async def _our_form(self, request: web.Request) -> None:
        given, expected = (await _fields(request)).get("csrf", ""), request[CSRF]
        if not hmac.compare_digest(given.encode(errors="replace"), expected.encode()):
            raise Problem(403, "this form is not one of ours, or too old: open the page again")

    # ── signing in ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _login_page(self, request: web.Request) -> web.StreamResponse:
        goal = _local(request.query.get("next", "/"))
        if self._by_session(request):
            return web.Response(status=303, headers={"Location": goal})
        # Who followed a link from elsewhere, an alert's, comes without the cookie: the way from here to here has it.
        anew = f"/login?next={quote(goal, safe='/')}" if request.headers.get("Sec-Fetch-Site") == "cross-site" else ""
        return self._form(goal, anew=anew)

    async def _login(self, request: web.Request) -> web.StreamResponse:
        given = await _fields(request)
        goal = _local(given.get("next", "/"))
        if not self._token:
            raise Problem(404, "nobody signs in here: no http.token is set")
        try:
            self._right(request, given.get("token", "").strip())
        except Problem as refused:
            return self._form(goal, refused)
        expires, nonce = str(int(time.time()) + SESSION_S), secrets.token_urlsafe(16)
        response = web.Response(status=303, headers={"Location": goal})
        response.set_cookie(
            _COOKIE,
            f"{expires}.{nonce}.{self._sign('session', expires, nonce)}",
            max_age=SESSION_S,
            path="/",
            secure=self.base.startswith("https:"),
            httponly=True,
            samesite="Strict",
        )
        log.info("access.signed_in", address=str(_peer(request)))
        return response

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        """The session ends here at once; another daemon may still take its cookie, which the browser drops."""
        expires, _, rest = request.cookies.get(_COOKIE, "").partition(".")
        if self._by_session(request):
            self._ended = {one: until for one, until in self._ended.items() if until > time.time()}
            self._ended[rest.partition(".")[0]] = int(expires)
        response = web.Response(status=303, headers={"Location": "/login" if self._token else "/"})
        response.del_cookie(_COOKIE, path="/", secure=self.base.startswith("https:"), httponly=True, samesite="Strict")
        return response

    def _form(self, goal: str, refused: Problem | None = None, anew: str = "") -> web.Response:
        text = self._templates.get_template("login.html").render(
            goal=goal, refused=refused and refused.detail, asks=bool(self._token), anew=anew
        )
        status, headers = (refused.status, refused.headers) if refused else (200, {})
        return web.Response(text=text, status=status, headers=headers, content_type="text/html")

    def _sign(self, *parts: str) -> str:
        return hmac.digest(self._key, framed(parts), "sha256").hex()

    def _signed(self, signature: str, *parts: str) -> bool:
        return hmac.compare_digest(signature.encode(errors="replace"), self._sign(*parts).encode())


class Tries:
    """Wrong tokens by the address that sent them. ``addresses``: beyond so many the one that waits longest goes."""

    def __init__(self, addresses: int = 1000) -> None:
        self._most = addresses
        self._wrong: dict[str, tuple[int, float]] = {}

    def wait_s(self, address: str) -> float:
        """For how long nothing from there is looked at; 0: not at all."""
        count, since_s = self._wrong.get(address, (0, 0.0))
        left_s = since_s + WRONG_PER_S - time.monotonic()
        return left_s if count >= MOST_WRONG and left_s > 0 else 0.0

    def wrong(self, address: str) -> bool:
        """A wrong one came; answers whether that was the last for now."""
        now_s = time.monotonic()
        count, since_s = self._wrong.pop(address, (0, now_s))
        if since_s + WRONG_PER_S <= now_s:
            count, since_s = 0, now_s
        while len(self._wrong) >= self._most:
            del self._wrong[next(iter(self._wrong))]
        self._wrong[address] = (count + 1, since_s)
        return count + 1 == MOST_WRONG


def _key(token: bytes, keys: list[str]) -> bytes:
    """What signs sessions and forms: the same after a restart and in every daemon of these settings, else by chance."""
    if not token and not keys:
        return secrets.token_bytes(32)
    derivation = HKDF(algorithm=SHA256(), length=32, salt="".join(keys[:1]).encode(), info=b"syncd web sessions")
    return derivation.derive(token or b"no token")


async def _fields(request: web.Request) -> dict[str, str]:
    """A form's fields, the first of each name."""
    if request.content_type != "application/x-www-form-urlencoded" or (request.charset or "utf-8").lower() != "utf-8":
        raise Problem(415, "a form is sent as application/x-www-form-urlencoded, in UTF-8")
    fields = await request.post()
    return {name: str(fields[name]) for name in fields}


def _peer(request: web.Request) -> IPv4Address | IPv6Address | None:
    """The address that the connection came from, an IPv4 one in IPv6's clothes undressed."""
    try:
        address = ip_address((request.remote or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _host(netloc: str) -> str:
    """The name of ``name:port``, ``[::1]:port``; empty where it is none."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.endswith(".localhost")


def _local(goal: str) -> str:
    """Where to go after signing in: an address of ours, whatever the link said."""
    return goal if re.fullmatch(r"/(?![/\\])[!-\[\]-~]*", goal) else "/"
