"""The daemon's pages by which a customer connects an account: each vendor end to end, and each way to abuse them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from structlog.testing import capture_logs

from syncd.connect import Invitation, Signer
from syncd.credentials import generate_key
from syncd.daemon import Parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from tests.connecting import Form, Person, person, serving, settings

MakeSandbox = Callable[..., Awaitable[Sandbox]]


class Scene:
    """A daemon's pages, the sandbox behind them, a person in front of them."""

    def __init__(self, box: Sandbox, parts: Parts, base: str, somebody: Person) -> None:
        self.box, self.parts, self.base, self.person = box, parts, base, somebody

    def link(self, source: str = "gong", account: str = "", *, minutes: float = 60, workspace: str = "w1") -> str:
        invitation = Invitation(source, workspace, account, datetime.now(UTC) + timedelta(minutes=minutes))
        return Signer(self.parts.settings.keys()).link(self.base, invitation)

    async def stored(self) -> list[tuple[str, str | None, str, str | None]]:
        return [
            (one.source, one.workspace_id, one.account, one.identity)
            for one in await self.parts.store.connections.all()
        ]


@pytest.fixture
async def scene(sandbox: MakeSandbox, sqlite_url: str) -> AsyncIterator[Scene]:
    box = await sandbox(Options(workspaces=2, days=1, limits=False))
    async with serving(settings(box, sqlite_url)) as (parts, base), person() as somebody:
        yield Scene(box, parts, base, somebody)


async def refused(scene: Scene, answer: httpx.Response, status: int, words: str) -> None:
    """A plain page with the reason, and nothing else: nothing stored, no way in, no stack."""
    assert (answer.status_code, words in answer.text) == (status, True), answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert "Traceback" not in answer.text
    assert "script" not in answer.text
    assert await scene.stored() == []


@pytest.mark.parametrize("name", ["slack", "gong", "fathom", "gmail"])
async def test_a_link_leads_to_a_connection_that_is_read(scene: Scene, name: str) -> None:
    ended = await scene.person.connects(scene.link(name))
    assert (ended.status_code, "You can close this window." in ended.text) == (200, True), ended.text
    (stored,) = await scene.stored()
    assert stored[:2] == (name, "w1")
    assert stored[3]
    cycle = await scene.parts.engine.cycle(name, trigger="cli")
    assert (cycle["successful_workspaces"], cycle["failures"]) == (1, [])


async def test_a_customer_who_was_cut_off_is_back_after_connecting_again(scene: Scene) -> None:
    await scene.person.connects(scene.link("slack"))
    scene.box.slack.act("acme", "revoke", {})
    assert (await scene.parts.engine.cycle("slack", trigger="cli"))["failed_workspaces"] == 1
    await scene.person.connects(scene.link("slack"))
    (one,) = await scene.parts.store.connections.all()
    assert (one.status, one.failures) == ("ok", 0)
    assert (await scene.parts.engine.cycle("slack", trigger="cli"))["successful_workspaces"] == 1


async def test_pages_allow_nothing_and_the_cookie_is_ours_alone(scene: Scene) -> None:
    shown, left = await scene.person.http.get(scene.link("slack")), await scene.person.goes_on(scene.link("slack"))
    cookie = left.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Lax", "Path=/connect/slack", "Max-Age=600"))
    ended = await scene.person.http.get(f"{scene.base}/connect/slack/callback")
    for answer in (shown, left, ended):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "script-src" not in answer.headers["content-security-policy"]
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


async def test_behind_https_the_cookie_and_the_way_back_are_the_public_ones(box_at: Callable[..., object]) -> None:
    async with box_at("https://sync.example.com/in/") as (parts, base), person() as somebody:  # type: ignore[attr-defined]
        expires = datetime.now(UTC) + timedelta(hours=1)
        link = Signer(parts.settings.keys()).link(base, Invitation("gmail", "w", "", expires))
        shown = await somebody.http.get(link)
        cookie = {"Cookie": shown.headers["set-cookie"].partition(";")[0]}  # its path is not ours
        left = await somebody.http.get(shown.url.join(Form(shown.text).on), headers=cookie)
    back = parse_qs(urlsplit(left.headers["location"]).query)["redirect_uri"]
    assert back == ["https://sync.example.com/in/connect/gmail/callback"]
    assert "Secure" in left.headers["set-cookie"]
    assert "Path=/in/connect/gmail" in left.headers["set-cookie"]


async def test_a_link_first_shows_for_whom_it_is(scene: Scene) -> None:
    shown = await scene.person.http.get(scene.link("gmail", "ann@acme.example", workspace="w <b>"))
    assert shown.status_code == 200
    for words in ("Connect Gmail for w &lt;b&gt;", "Sign in as ann@acme.example.", scene.base.removeprefix("http://")):
        assert words in shown.text


async def test_who_is_sent_the_way_on_sees_for_whom_it_is_too(scene: Scene) -> None:
    """A forwarded link must not skip the page, whichever part of it was forwarded."""
    shown = await scene.person.http.get(scene.link())
    async with person() as somebody:
        again = await somebody.http.get(shown.url.join(Form(shown.text).on))
        assert (again.status_code, "Connect Gong for w1" in again.text) == (200, True)
        await somebody.leaves(str(again.url))


async def test_the_page_of_one_link_leads_on_by_no_other(scene: Scene) -> None:
    mine = await scene.person.http.get(scene.link(workspace="mine"))
    go = Form(mine.text).on.rpartition("&")[2]
    other = await scene.person.http.get(f"{scene.link(workspace='theirs')}&{go}")
    assert (other.status_code, "Connect Gong for theirs" in other.text) == (200, True)


@pytest.fixture
def box_at(sandbox: MakeSandbox, sqlite_url: str) -> Callable[..., object]:
    """Serving with that ``http.public_url``."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def made(public_url: str) -> AsyncIterator[tuple[Parts, str]]:
        box = await sandbox(Options(workspaces=1, days=1, limits=False))
        async with serving(settings(box, sqlite_url, http={"port": 0, "public_url": public_url})) as served:
            yield served

    return made


# ── links that are not good


async def test_an_expired_link_is_refused(scene: Scene) -> None:
    await refused(scene, await scene.person.http.get(scene.link(minutes=-0.1)), 403, "has expired")


async def test_a_foreign_link_is_refused(scene: Scene) -> None:
    invitation = Invitation("gong", "w1", "", datetime.now(UTC) + timedelta(hours=1))
    foreign = Signer([generate_key()]).link(scene.base, invitation)
    await refused(scene, await scene.person.http.get(foreign), 403, "was not made here")


@pytest.mark.parametrize("change", [("workspace=w1", "workspace=w2"), ("/gong?", "/slack?"), ("account=", "account=x")])
async def test_an_altered_link_is_refused(scene: Scene, change: tuple[str, str]) -> None:
    await refused(scene, await scene.person.http.get(scene.link().replace(*change)), 403, "was changed")


async def test_a_link_with_something_added_is_refused(scene: Scene) -> None:
    await refused(scene, await scene.person.http.get(scene.link() + "&account=x"), 403, "something was added")


async def test_no_parameter_of_a_link_reaches_a_page_as_html(scene: Scene) -> None:
    answer = await scene.person.http.get(f"{scene.base}/connect/gong?workspace=<script>alert(1)</script>&signature=x")
    await refused(scene, answer, 403, "not complete")


async def test_an_unknown_source_is_not_there(scene: Scene) -> None:
    await refused(scene, await scene.person.http.get(f"{scene.base}/connect/<b>"), 404, "There is nothing here")


async def test_a_head_request_begins_and_ends_nothing(scene: Scene) -> None:
    assert (await scene.person.http.head(scene.link())).status_code == 405
    assert (await scene.person.http.head(f"{scene.base}/connect/gong/callback?state=a.b&code=c")).status_code == 405


# ── ways back that are not good


async def way_back(scene: Scene, **changed: str) -> httpx.Response:
    """An honest sign-in up to the way back, whose parameters are then changed."""
    back = await scene.person.decides(await scene.person.leaves(scene.link()))
    query = {key: values[0] for key, values in parse_qs(urlsplit(back).query).items()} | changed
    return await scene.person.http.get(back.partition("?")[0], params=query)


async def test_a_wrong_state_is_refused(scene: Scene) -> None:
    await refused(scene, await way_back(scene, state="abc.def"), 403, "did not begin this sign-in")


async def test_a_state_that_another_browser_began_is_refused(scene: Scene) -> None:
    """Else an attacker's own account could be connected in the name of whoever opens the attacker's way back."""
    async with person() as victim:
        back = await scene.person.decides(await scene.person.leaves(scene.link()))
        await victim.leaves(scene.link())
        await refused(scene, await victim.http.get(back), 403, "did not begin this sign-in")


async def test_a_state_of_another_source_is_refused(scene: Scene) -> None:
    back = await scene.person.decides(await scene.person.leaves(scene.link("gong")))
    cookie = {"Cookie": "syncd_connect=" + scene.person.http.cookies["syncd_connect"]}
    elsewhere = back.replace("/connect/gong/", "/connect/slack/")
    await refused(scene, await scene.person.http.get(elsewhere, headers=cookie), 403, "did not begin this sign-in")


async def test_a_way_back_that_comes_twice_is_refused_the_second_time(scene: Scene) -> None:
    back = await scene.person.decides(await scene.person.leaves(scene.link()))
    cookie = {"Cookie": "syncd_connect=" + scene.person.http.cookies["syncd_connect"]}
    assert (await scene.person.http.get(back, headers=cookie)).status_code == 200
    calls = scene.box.world.counts["gong", "oauth2/generate-customer-token"]
    again = await scene.person.http.get(back, headers=cookie)
    assert (again.status_code, "finished before" in again.text) == (403, True)
    assert scene.box.world.counts["gong", "oauth2/generate-customer-token"] == calls


async def test_a_replayed_code_is_refused(scene: Scene) -> None:
    """A fresh sign-in of this browser with a code that was used before."""
    back = await scene.person.decides(await scene.person.leaves(scene.link()))
    await scene.person.http.get(back)
    code = parse_qs(urlsplit(back).query)["code"][0]
    (one,) = await scene.parts.store.connections.all()
    await scene.parts.store.connections.remove(one.id)
    again = await way_back(scene, code=code)
    assert (again.status_code, "did not take the code" in again.text) == (400, True)
    (one,) = await scene.parts.store.connections.all()
    assert one.sealed is None


async def test_a_denied_consent_stores_nothing(scene: Scene) -> None:
    await refused(scene, await scene.person.connects(scene.link(), answer="deny"), 403, "You did not allow it")


async def test_a_way_back_without_a_code_is_refused(scene: Scene) -> None:
    back = await scene.person.decides(await scene.person.leaves(scene.link()))
    query = {"state": parse_qs(urlsplit(back).query)["state"][0]}
    answer = await scene.person.http.get(back.partition("?")[0], params=query)
    await refused(scene, answer, 403, "neither a code nor a reason")


@pytest.mark.parametrize("kind", ["500", "429", "200-html", "reset", "truncated"])
async def test_a_vendor_that_fails_is_told_and_nothing_is_stored(scene: Scene, kind: str) -> None:
    scene.box.world.faults.add({"kind": kind, "vendor": "gong", "method": "oauth2*"})
    await refused(scene, await way_back(scene), 502, "refused or did not answer")


async def test_a_database_that_is_away_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise OSError("no route to postgresql://user:hidden@db")

    monkeypatch.setattr(scene.parts.store.connections, "put", away)
    answer = await way_back(scene)
    await refused(scene, answer, 503, "not ready")
    assert "hidden" not in answer.text


async def test_a_defect_of_ours_is_a_page_without_a_stack(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise KeyError("hidden")

    monkeypatch.setattr(scene.parts.store.connections, "put", broken)
    await refused(scene, await way_back(scene), 500, "Something is wrong here")


# ── whose account


async def test_a_cookie_of_bytes_that_are_no_text_is_refused_like_any_other(scene: Scene) -> None:
    with capture_logs() as logged:
        back = f"{scene.base}/connect/slack/callback?state=a.b"
        answer = await scene.person.http.get(back, headers=[(b"Cookie", b"syncd_connect=\xff")])
    assert answer.status_code == 403
    assert [one for one in logged if one["log_level"] == "error"] == []


async def test_another_account_does_not_take_the_place_of_the_one_that_is_there(scene: Scene) -> None:
    await scene.person.connects(scene.link("slack"), "acme")
    before = await scene.parts.store.connections.all()
    other = next(name for name in scene.box.world.companies if name != "acme")
    answer = await scene.person.connects(scene.link("slack"), other)
    assert (answer.status_code, "This is another account" in answer.text) == (409, True)
    assert await scene.parts.store.connections.all() == before


async def test_a_mailbox_other_than_the_one_that_the_link_names_is_refused(scene: Scene) -> None:
    answer = await scene.person.connects(scene.link("gmail", "somebody@else.example"))
    await refused(scene, answer, 409, "This is another account")


async def test_no_secret_of_a_sign_in_reaches_a_page_or_a_log(scene: Scene) -> None:
    secrets: list[str] = []
    with capture_logs() as lines:
        pages = ""
        for name in ("slack", "gong", "fathom", "gmail"):
            back = await scene.person.decides(await scene.person.leaves(scene.link(name)))
            query = parse_qs(urlsplit(back).query)
            secrets += [
                query["code"][0],
                query["state"][0],
                scene.box.environment()[f"SYNCD_SOURCES__{name.upper()}__OAUTH__CLIENT_SECRET"],
            ]
            scene.box.world.faults.add({"kind": "500", "vendor": name, "times": 1})
            pages += (await scene.person.http.get(back)).text
            pages += (await scene.person.connects(scene.link(name))).text
    for one in await scene.parts.store.connections.all():
        held = scene.parts.vault.open(one.id, one.sealed)
        secrets += [str(value) for key, value in held.items() if key.endswith(("token", "secret"))]
    assert len(secrets) > 16
    assert not [secret for secret in secrets if secret in pages or secret in repr(lines)]
