"""The emulated consent pages and the codes they give."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from tests.connecting import Person, person

BACK = "http://127.0.0.1:9/callback"
VENDORS = ("slack", "gong", "fathom", "gmail")
VERIFIER = "a-verifier-of-at-least-forty-three-characters-1"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")


class Vendors:
    def __init__(self, box: Sandbox, somebody: Person) -> None:
        self.box, self.person, self._known = box, somebody, box.environment()

    def of(self, vendor: str, key: str) -> str:
        return self._known[f"SYNCD_SOURCES__{vendor.upper()}__{key}"]

    def url(self, vendor: str, **asked: str) -> str:
        query = {"client_id": self.of(vendor, "OAUTH__CLIENT_ID"), "redirect_uri": BACK, "state": "s", "scope": "a"}
        return f"{self.of(vendor, 'OAUTH__AUTHORIZE_URL')}?{urlencode(query | asked)}"

    async def code(self, vendor: str, **asked: str) -> str:
        back = await self.person.decides(self.url(vendor, **asked))
        assert parse_qs(urlsplit(back).query)["state"] == ["s"]
        return parse_qs(urlsplit(back).query)["code"][0]

    async def buys(self, vendor: str, code: str, **changed: str) -> str:
        """What the code brings: ``token``, or the vendor's word for why not."""
        app = {key: self.of(vendor, f"OAUTH__{key.upper()}") for key in ("client_id", "client_secret")}
        form = {**app, "grant_type": "authorization_code", "code": code, "redirect_uri": BACK, **changed}
        auth = (form.pop("client_id"), form.pop("client_secret")) if vendor == "gong" else None
        slack = self.of("slack", "BASE_URL") + "oauth.v2.access"
        url = slack if vendor == "slack" else self.of(vendor, "TOKEN_URL")
        answer = (await self.person.http.post(url, data=form, auth=auth)).json()  # type: ignore[arg-type]
        return "token" if answer.get("access_token") else str(answer["error"])


@pytest.fixture
async def vendors(sandbox) -> AsyncIterator[Vendors]:
    async with person() as somebody:
        yield Vendors(await sandbox(Options(workspaces=1, days=1, limits=False)), somebody)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_code_buys_a_token_once(vendors: Vendors, vendor: str) -> None:
    code = await vendors.code(vendor)
    assert await vendors.buys(vendor, code) == "token"
    assert await vendors.buys(vendor, code) in {"invalid_code", "invalid_grant"}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_a_code_is_good_for_ten_minutes(vendors: Vendors, vendor: str) -> None:
    from datetime import timedelta

    code = await vendors.code(vendor)
    vendors.box.world.clock.advance(timedelta(minutes=10))
    assert await vendors.buys(vendor, code) in {"invalid_code", "invalid_grant"}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_redirect_address_must_be_the_one_of_the_consent(vendors: Vendors, vendor: str) -> None:
    code = await vendors.code(vendor)
    said = await vendors.buys(vendor, code, redirect_uri=BACK + "/other")
    assert said in {"bad_redirect_uri", "redirect_uri_mismatch", "invalid_grant"}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("given", [{}, {"code_verifier": "another"}, {"code_verifier": VERIFIER}])
async def test_a_challenge_wants_its_verifier(vendors: Vendors, vendor: str, given: dict[str, str]) -> None:
    code = await vendors.code(vendor, code_challenge=CHALLENGE, code_challenge_method="S256")
    assert (await vendors.buys(vendor, code, **given) == "token") is (given.get("code_verifier") == VERIFIER)


@pytest.mark.parametrize("vendor", VENDORS)
async def test_the_app_must_prove_itself(vendors: Vendors, vendor: str) -> None:
    code = await vendors.code(vendor)
    assert await vendors.buys(vendor, code, client_secret="guessed") in {"bad_client_secret", "invalid_client"}


@pytest.mark.parametrize("vendor", VENDORS)
async def test_denied_is_told_without_a_code(vendors: Vendors, vendor: str) -> None:
    back = await vendors.person.decides(vendors.url(vendor), answer="deny")
    assert parse_qs(urlsplit(back).query) == {"state": ["s"], "error": ["access_denied"]}


@pytest.mark.parametrize("wrong", [{"client_id": "x"}, {"redirect_uri": "http://evil.example/"}, {"redirect_uri": ""}])
async def test_nobody_is_sent_to_an_address_that_is_not_registered(vendors: Vendors, wrong: dict[str, str]) -> None:
    answer = await vendors.person.http.get(vendors.url("gmail", **wrong))
    assert (answer.status_code, "location" in answer.headers) == (400, False)


async def test_what_an_app_asks_for_is_shown_as_text(vendors: Vendors) -> None:
    page = await vendors.person.http.get(vendors.url("gmail", scope="<script>", state='"><script>'))
    assert "<script>" not in page.text
