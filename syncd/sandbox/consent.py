"""OAuth's consent pages, emulated for all four vendors: who signs in as whom, and the codes that this gives.

A code is good for one use, ten minutes, the redirect address it was asked for, and the holder of the PKCE verifier
where a challenge was sent. Redirect addresses are taken as registered when they are https, or http on this machine.
"""

from __future__ import annotations

import base64
import hashlib
import html
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from syncd.sandbox.world import World

_LIVES = timedelta(minutes=10)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>The app asks for: {scopes}</p>
<form method="post">{hidden}
<label>Sign in as <select name="account">{options}</select></label>
<button name="answer" value="allow">Allow</button> <button name="answer" value="deny">Deny</button>
</form></body></html>"""
_KNOWN = ("client_id", "redirect_uri", "state", "scope", "response_type", "code_challenge", "code_challenge_method")


class CodeRefused(Exception):
    """A code that buys nothing; ``str()``: ``code``, ``redirect_uri`` or ``verifier``, whichever is wrong."""


@dataclass(frozen=True, slots=True)
class Consented:
    """What a person allowed: ``workspace`` is whose account it is, ``scopes`` as they were asked for."""

    workspace: str
    scopes: str
    redirect_uri: str
    challenge: str
    until: datetime


class Consent:
    """One vendor's page at ``path`` (below ``/<vendor>``), for the app ``client``; ``accounts``: workspace → shown."""

    def __init__(
        self, world: World, vendor: str, path: str, client: Mapping[str, str], accounts: Mapping[str, str]
    ) -> None:
        self._world, self._vendor, self._client = world, vendor, client
        self._path, self._accounts = f"/{vendor}{path}", accounts
        self._codes: dict[str, Consented] = {}
        self._given = 0

    def routes(self) -> list[web.RouteDef]:
        return [web.get(self._path, self._ask), web.post(self._path, self._answer)]

    def environment(self, base: str) -> Mapping[str, str]:
        prefix = f"SYNCD_SOURCES__{self._vendor.upper()}__OAUTH__"
        given = {"AUTHORIZE_URL": base + self._path, **{key.upper(): value for key, value in self._client.items()}}
        return {prefix + key: value for key, value in given.items()}

    def redeem(self, form: Mapping[str, object]) -> Consented:
        """What a code stands for; it is spent by that, also when it is refused. Raises `CodeRefused`."""
        consented = self._codes.pop(str(form.get("code", "")), None)
        if consented is None or self._world.clock.now() >= consented.until:
            raise CodeRefused("code")
        if str(form.get("redirect_uri", "")) != consented.redirect_uri:
            raise CodeRefused("redirect_uri")
        digest = hashlib.sha256(str(form.get("code_verifier", "")).encode()).digest()
        if consented.challenge and base64.urlsafe_b64encode(digest).decode().rstrip("=") != consented.challenge:
            raise CodeRefused("verifier")
        return consented

    async def _ask(self, request: web.Request) -> web.Response:
        self._world.seen(request, self._vendor, "consent")
        asked = {key: request.query[key] for key in _KNOWN if key in request.query}
        if fault := self._fault(asked):
            return web.Response(text=f"Error 400: {fault}\n", status=400)
        hidden = "".join(f'<input type="hidden" name="{key}" value="{html.escape(asked[key])}">' for key in asked)
        options = "".join(
            f'<option value="{html.escape(name)}">{html.escape(shown)}</option>'
            for name, shown in self._accounts.items()
        )
        title = f"{self._vendor.capitalize()} (sandbox): sign in"
        text = _PAGE.format(title=title, scopes=html.escape(asked.get("scope", "")), hidden=hidden, options=options)
        return web.Response(text=text, content_type="text/html")

    async def _answer(self, request: web.Request) -> web.Response:
        """The button that was pressed: back to where the app wants the person, with a code or a refusal."""
        self._world.seen(request, self._vendor, "consent")
        asked = {key: str(value) for key, value in (await request.post()).items()}
        if fault := self._fault(asked):
            return web.Response(text=f"Error 400: {fault}\n", status=400)
        back = {"state": asked["state"]} if "state" in asked else {}
        if asked.get("answer") != "allow" or asked.get("account") not in self._accounts:
            back["error"] = "access_denied"
        else:
            back["code"] = self._code(asked)
        joint = "&" if urlsplit(asked["redirect_uri"]).query else "?"
        return web.Response(status=302, headers={"Location": f"{asked['redirect_uri']}{joint}{urlencode(back)}"})

    def _code(self, asked: Mapping[str, str]) -> str:
        self._given += 1
        code = f"code-{self._world.random(self._vendor, 'code', self._given).randbytes(16).hex()}"
        self._codes[code] = Consented(
            asked["account"],
            asked.get("scope", ""),
            asked["redirect_uri"],
            asked.get("code_challenge", ""),
            self._world.clock.now() + _LIVES,
        )
        return code

    def _fault(self, asked: Mapping[str, str]) -> str:
        """Why the vendor shows an error of its own instead of sending the person anywhere."""
        if asked.get("client_id") != self._client["client_id"]:
            return "invalid_client"
        to = urlsplit(asked.get("redirect_uri", ""))
        if not (to.scheme == "https" or (to.scheme == "http" and to.hostname in {"127.0.0.1", "localhost"})):
            return "redirect_uri_mismatch"
        if asked.get("response_type", "code") != "code":
            return "unsupported_response_type"
        if "code_challenge" in asked and asked.get("code_challenge_method") != "S256":
            return "invalid_request: code_challenge_method"
        return ""
