"""Connecting an account: signed links, the vendor's sign-in with a way back to this machine, whose account it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest

from syncd import connect as room
from syncd.cli.connect import picked, sign_in
from syncd.connect import Attempts, Invitation, Refused, Signer, app_of, begin, exchanged, placed, tried
from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.errors import AuthError, OtherAccount, Rejected, SealError, Transient, UsageError
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import Options
from syncd.settings import load, masked
from syncd.source import Grant, OAuth, Owner
from syncd.sources import SOURCES
from syncd.store import Line, Store
from tests.connecting import person, settings

KEY = generate_key()
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
INVITED = Invitation("slack", "acme", "main & co", NOW + timedelta(hours=1))
MakeSandbox = Callable[..., Awaitable[Sandbox]]


def opened(link: str) -> list[tuple[str, str]]:
    return parse_qsl(urlsplit(link).query, keep_blank_values=True)


# ── signed links


def test_a_link_says_what_was_signed_into_it() -> None:
    link = Signer([KEY]).link("https://sync.example.com/", INVITED)
    assert link.startswith("https://sync.example.com/connect/slack?workspace=acme&account=main+%26+co&expires=")
    assert Signer([KEY]).read("slack", opened(link), NOW) == INVITED


@pytest.mark.parametrize("name", ["workspace", "account", "expires", "signature"])
def test_a_link_with_another_value_is_refused(name: str) -> None:
    query = dict(opened(Signer([KEY]).link("https://x", INVITED)))
    changed = {**query, name: "1" + query[name]}
    with pytest.raises(Refused, match="changed"):
        Signer([KEY]).read("slack", list(changed.items()), NOW)


def test_a_link_for_one_source_opens_no_other() -> None:
    with pytest.raises(Refused, match="changed"):
        Signer([KEY]).read("gong", opened(Signer([KEY]).link("https://x", INVITED)), NOW)


@pytest.mark.parametrize("change", [lambda q: [*q, ("force", "1")], lambda q: [*q, q[0]], lambda q: q[1:]])
def test_a_link_with_a_parameter_more_or_less_is_refused(change: Callable[..., list[tuple[str, str]]]) -> None:
    with pytest.raises(Refused, match="complete"):
        Signer([KEY]).read("slack", change(opened(Signer([KEY]).link("https://x", INVITED))), NOW)


def test_a_link_of_another_key_is_refused() -> None:
    with pytest.raises(Refused, match="not made here"):
        Signer([KEY]).read("slack", opened(Signer([generate_key()]).link("https://x", INVITED)), NOW)


def test_a_link_outlives_a_change_of_the_first_key() -> None:
    link = Signer([KEY]).link("https://x", INVITED)
    assert Signer([generate_key(), KEY]).read("slack", opened(link), NOW) == INVITED


def test_a_link_is_good_until_it_expires() -> None:
    query = opened(Signer([KEY]).link("https://x", INVITED))
    Signer([KEY]).read("slack", query, INVITED.expires_at - timedelta(seconds=1))
    with pytest.raises(Refused, match="expired"):
        Signer([KEY]).read("slack", query, INVITED.expires_at)


def test_parts_cut_elsewhere_have_another_signature() -> None:
    assert Signer([KEY]).sign("ab", "c") != Signer([KEY]).sign("a", "bc")


def test_what_seals_credentials_does_not_sign_links() -> None:
    """Who learns a signature's key learns nothing that opens credentials."""
    assert Signer([KEY])._keys[0].hex() not in {KEY, room.base64.urlsafe_b64decode(KEY).hex()}


def test_without_a_key_nothing_is_signed() -> None:
    with pytest.raises(SealError, match="keys generate"):
        Signer([])


# ── sign-ins under way


def test_an_attempt_comes_back_once() -> None:
    attempts, one = Attempts(), begin(OAuth(scopes="s", exchange=None), app(), "https://x/callback", "state")  # type: ignore[arg-type]
    attempts.add("n", INVITED, one)
    assert attempts.take("n") == (INVITED, one)
    with pytest.raises(Refused):
        attempts.take("n")


def test_an_attempt_that_took_too_long_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts()
    attempts.add("n", INVITED, begin(SOURCES["gong"].oauth, app(), "https://x/callback", "state"))  # type: ignore[arg-type]
    later = room.time.monotonic() + room.ATTEMPT_S + 1
    monkeypatch.setattr(room.time, "monotonic", lambda: later)
    with pytest.raises(Refused):
        attempts.take("n")


def test_attempts_are_bounded_and_the_oldest_goes() -> None:
    attempts, one = Attempts(most=2), begin(SOURCES["gong"].oauth, app(), "https://x/callback", "state")  # type: ignore[arg-type]
    for nonce in ("first", "second", "third"):
        attempts.add(nonce, INVITED, one)
    assert attempts.take("third")
    assert attempts.take("second")
    with pytest.raises(Refused):
        attempts.take("first")


def app(**more: str) -> room.App:
    return room.App("id", "hidden-secret", "https://vendor.example/authorize", **more)


@pytest.mark.parametrize(("name", "pkce"), [("slack", False), ("gong", True), ("fathom", False), ("gmail", True)])
def test_the_vendors_address_holds_state_scopes_and_a_challenge_where_it_is_taken(name: str, pkce: bool) -> None:
    oauth = SOURCES[name].oauth
    assert oauth is not None
    one = begin(oauth, app(), "https://x/callback", "the-state")
    query = parse_qs(urlsplit(one.url).query)
    assert query["state"] == ["the-state"]
    assert query["redirect_uri"] == ["https://x/callback"]
    assert query["scope"] == [oauth.scopes]
    assert query["client_id"] == ["id"]
    assert (query.get("code_challenge_method") == ["S256"]) is pkce
    assert bool(one.verifier) is pkce
    assert not pkce or one.verifier not in one.url
    assert "hidden-secret" not in one.url


def test_scopes_of_the_settings_go_before_the_sources_own() -> None:
    one = begin(SOURCES["slack"].oauth, app(scopes="channels:read"), "https://x/callback", "s")  # type: ignore[arg-type]
    assert parse_qs(urlsplit(one.url).query)["scope"] == ["channels:read"]


def test_no_secret_of_a_sign_in_is_in_its_repr() -> None:
    one = begin(SOURCES["gong"].oauth, app(), "https://x/callback", "the-state")  # type: ignore[arg-type]
    shown = f"{one!r} {app()!r} {one.grant('the-code')!r}"
    assert not [secret for secret in ("the-state", one.verifier, "hidden-secret", "the-code") if secret in shown]


# ── settings


def test_an_app_needs_its_id_and_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__OAUTH__CLIENT_ID", "id")
    with pytest.raises(UsageError, match=r"sources\.slack\.oauth"):
        load()


def test_the_apps_secret_comes_from_a_file_and_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "secret").write_text("s3cret-of-the-app\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SOURCES__GONG__OAUTH__CLIENT_ID", "id")
    monkeypatch.setenv("SYNCD_SOURCES__GONG__OAUTH__CLIENT_SECRET_FILE", "secret")
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__OAUTH__CLIENT_ID", "id")
    monkeypatch.setenv("SYNCD_SOURCES__SLACK__OAUTH__CLIENT_SECRET", "s3cret-of-slack")
    in_force = load()
    found = app_of(in_force, "gong")
    assert found is not None
    assert found.client_secret == "s3cret-of-the-app"
    assert "s3cret" not in f"{masked(in_force)} {in_force!r} {found!r}"
    assert app_of(in_force, "gmail") is None


def test_a_secret_file_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SYNCD_SOURCES__GONG__OAUTH__CLIENT_ID", "id")
    monkeypatch.setenv("SYNCD_SOURCES__GONG__OAUTH__CLIENT_SECRET_FILE", "nowhere")
    with pytest.raises(UsageError, match="client_secret_file nowhere cannot be read"):
        app_of(load(), "gong")


# ── the terminal's sign-in: the vendor sends the browser back to this machine


@pytest.fixture
async def box(sandbox: MakeSandbox) -> Sandbox:
    return await sandbox(Options(workspaces=3, days=1, limits=False))


@pytest.fixture
async def parts(box: Sandbox, sqlite_url: str) -> AsyncIterator[Parts]:
    async with open_parts(settings(box, sqlite_url)) as made:
        yield made


async def consented(parts: Parts, name: str, answer: str = "allow", workspace: str = "acme") -> Grant:
    """By the terminal's own server, with a person who presses the vendor's button."""
    oauth, vendors_app = parts.engine.plans[name].source.oauth, app_of(parts.settings, name)
    assert oauth
    assert vendors_app
    shown: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(sign_in(vendors_app, oauth, shown.put_nowait, waits_s=20))
    async with person() as somebody:
        back = await somebody.decides(await shown.get(), workspace, answer)
        ended = await somebody.http.get(back)
    assert "close this window" in ended.text
    assert "script" not in ended.text
    assert ended.headers["content-security-policy"].startswith("default-src 'none'")
    return await waiting


@pytest.mark.parametrize("name", ["slack", "gong", "fathom", "gmail"])
async def test_a_sign_in_ends_in_credentials_that_open_the_account(parts: Parts, name: str) -> None:
    plan, vendors_app = parts.engine.plans[name], app_of(parts.settings, name)
    assert vendors_app
    held = await exchanged(parts.engine.runs, plan, vendors_app, await consented(parts, name))
    assert plan.source.refuse(held, {}) is None
    line = Line(workspace_id="acme", source=name, credentials=held)
    found = await tried(parts.engine.runs, plan, line)
    assert found.owner.identity
    assert found.report
    assert not found.report.problems
    await parts.store.connections.put([await placed(parts.store, line, found)], parts.vault.seal)
    ended = await parts.engine.cycle(name, trigger="cli")
    assert (ended["successful_workspaces"], ended["failures"]) == (1, [])


@pytest.mark.parametrize("name", ["slack", "gong", "fathom", "gmail"])
async def test_a_code_is_good_for_one_use(parts: Parts, name: str) -> None:
    plan, vendors_app = parts.engine.plans[name], app_of(parts.settings, name)
    assert vendors_app
    grant = await consented(parts, name)
    await exchanged(parts.engine.runs, plan, vendors_app, grant)
    with pytest.raises(Rejected) as refused:
        await exchanged(parts.engine.runs, plan, vendors_app, grant)
    assert grant.code not in str(refused.value)


async def test_a_code_is_never_sent_twice(parts: Parts, box: Sandbox) -> None:
    """The first try may have spent it, and a vendor may revoke what a code gave that comes again."""
    plan, vendors_app = replace(parts.engine.plans["gong"], patience_s=30.0), app_of(parts.settings, "gong")
    assert vendors_app
    grant = await consented(parts, "gong")
    box.world.faults.add({"kind": "500", "vendor": "gong", "method": "oauth2*", "times": 1})
    with pytest.raises(Transient):
        await exchanged(parts.engine.runs, plan, vendors_app, grant)
    assert box.world.counts["gong", "oauth2/generate-customer-token"] == 1


async def test_a_denied_consent_ends_the_wait(parts: Parts) -> None:
    oauth, vendors_app = SOURCES["gong"].oauth, app_of(parts.settings, "gong")
    assert oauth
    assert vendors_app
    with pytest.raises(Rejected, match="refused in the browser"):
        await consented(parts, "gong", answer="deny")


async def test_who_brings_another_state_is_turned_away_and_the_wait_goes_on(parts: Parts) -> None:
    oauth, vendors_app = SOURCES["gong"].oauth, app_of(parts.settings, "gong")
    assert oauth
    assert vendors_app
    shown: asyncio.Queue[str] = asyncio.Queue()
    waiting = asyncio.create_task(sign_in(vendors_app, oauth, shown.put_nowait, waits_s=20))
    query = parse_qs(urlsplit(await shown.get()).query)
    back, state = query["redirect_uri"][0], query["state"][0]
    async with httpx.AsyncClient(trust_env=False) as http:
        wrong = await http.get(back, params={"state": "another", "code": "theirs"})
        assert (wrong.status_code, waiting.done()) == (403, False)
        await http.get(back, params={"state": state, "code": "mine"})
    assert (await waiting).code == "mine"


async def test_nobody_coming_back_is_told(parts: Parts) -> None:
    vendors_app = app_of(parts.settings, "gong")
    with pytest.raises(Rejected, match="nobody came back"):
        await sign_in(vendors_app, SOURCES["gong"].oauth, lambda _: None, waits_s=0.01)  # type: ignore[arg-type]


# ── whose account it is


async def test_bad_credentials_are_refused_and_nothing_is_stored(parts: Parts) -> None:
    line = Line(workspace_id="acme", source="slack", credentials={"token": "xoxb-nobodys-token"})
    with pytest.raises(AuthError) as refused:
        await tried(parts.engine.runs, parts.engine.plans["slack"], line)
    assert "nobodys" not in f"{refused.value} {refused.value.hint}"
    assert await parts.store.connections.all() == []


async def test_tokens_renewed_while_they_are_tried_are_the_ones_to_store(parts: Parts, box: Sandbox) -> None:
    given = next(line for line in box.gong.connections() if "refresh_token" in line["credentials"])
    line = Line(workspace_id="w", source="gong", credentials=given["credentials"] | {"expires_at": 1})
    found = await tried(parts.engine.runs, parts.engine.plans["gong"], line, thoroughly=False)
    assert found.credentials["refresh_token"] != given["credentials"]["refresh_token"]
    again = Line(workspace_id="w", source="gong", credentials=found.credentials)
    assert (await tried(parts.engine.runs, parts.engine.plans["gong"], again, thoroughly=False)).owner == found.owner


def made(account: str = "", identity: str | None = None) -> Line:
    return Line(workspace_id="acme", source="gmail", account=account, credentials={"token": "t"}, identity=identity)


def opens(identity: str, account: str = "") -> room.Tried:
    return room.Tried({"token": "new"}, Owner(identity, account))


def seal(_: int, __: object) -> str:
    return "sealed"


async def test_an_account_without_a_name_gets_its_own(store: Store) -> None:
    line = await placed(store, made(), opens("robin@acme.example", "robin@acme.example"))
    assert (line.account, line.identity) == ("robin@acme.example", "robin@acme.example")


async def test_a_connection_that_has_no_name_goes_on_without(store: Store) -> None:
    await store.connections.put([made()], seal)
    assert (await placed(store, made(), opens("robin@acme.example", "robin@acme.example"))).account == ""


async def test_another_person_than_the_one_asked_for_is_refused(store: Store) -> None:
    with pytest.raises(OtherAccount, match=r"sam@acme\.example"):
        await placed(store, made("robin@acme.example"), opens("sam@acme.example", "sam@acme.example"))
    forced = await placed(store, made("Robin@acme.example"), opens("sam@x", "sam@x"), force=True)
    assert forced.account == "Robin@acme.example"


async def test_another_account_is_not_put_in_the_place_of_the_one_that_is_there(store: Store) -> None:
    await store.connections.put([made(identity="T1 T2")], seal)
    await store.connections.put([made(identity="T2 T3")], seal)  # one in common is enough
    with pytest.raises(OtherAccount):
        await placed(store, made(), opens("T9"))
    with pytest.raises(OtherAccount):
        await store.connections.put([made(identity="T9")], seal)
    assert [one.identity for one in await store.connections.all()] == ["T2 T3"]


async def test_another_account_by_force_is_read_from_its_start(store: Store) -> None:
    from sqlalchemy import insert, select

    from syncd import tables

    await store.connections.put([made(identity="T1")], seal)
    mine = (await store.connections.all())[0].id
    cursor = {"connection_id": mine, "stream": "s", "partition": "", "cursor": "c", "updated_at": NOW}
    async with store.database.write() as session:
        await session.execute(insert(tables.cursors).values(**cursor))
    await store.connections.put([made(identity="T1")], seal)
    async with store.database.read() as session:
        assert (await session.execute(select(tables.cursors.c.cursor))).scalars().all() == ["c"]
    await store.connections.put([made(identity="T9")], seal, force=True)
    async with store.database.read() as session:
        assert (await session.execute(select(tables.cursors.c.cursor))).scalars().all() == []


async def test_credentials_that_nobody_asked_about_forget_whose_the_last_were(store: Store) -> None:
    await store.connections.put([made(identity="T1")], seal)
    await store.connections.put([made()], seal)
    assert [one.identity for one in await store.connections.all()] == [None]


# ── choosing


@pytest.mark.parametrize(
    ("text", "ids"), [("", []), ("1", ["a"]), ("3,1", ["c", "a"]), ("1-2, 2", ["a", "b"]), (" 2 - ", None)]
)
def test_numbers_and_ranges_choose(text: str, ids: list[str] | None) -> None:
    choices = [("a", "A"), ("b", "B"), ("c", "C")]
    if ids is None:
        with pytest.raises(ValueError, match="numbers from 1 to 3"):
            picked(text, choices)
    else:
        assert picked(text, choices) == ids


@pytest.mark.parametrize("text", ["0", "4", "2-1", "x", "1-9"])
def test_what_is_no_number_of_the_list_is_asked_for_again(text: str) -> None:
    with pytest.raises(ValueError, match="numbers from 1 to 3"):
        picked(text, [("a", "A"), ("b", "B"), ("c", "C")])


@pytest.mark.parametrize(("name", "setting"), [("slack", "channels"), ("gmail", "labels")])
async def test_there_is_a_choice_of_what_the_account_shows(parts: Parts, box: Sandbox, name: str, setting: str) -> None:
    given = next(line for line in box.connections() if line["source"] == name)
    line = Line(workspace_id="acme", source=name, credentials=given["credentials"])
    found = await tried(parts.engine.runs, parts.engine.plans[name], line)
    vendor = SOURCES[name]
    assert vendor.choice
    assert vendor.choice.setting == setting
    assert found.choices
    assert vendor.refuse(None, {setting: [one for one, _ in found.choices]}) is None
