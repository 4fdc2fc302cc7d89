"""Who is let in over HTTP, who is not, and what every answer tells a browser."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from syncd.daemon import serve
from syncd.errors import UsageError
from syncd.settings import load
from syncd.settings_http import HttpSettings
from syncd.web import access
from tests.serving import TOKEN, Site, csrf_of, settings, signs_in, site

OPEN = ("/healthz", "/readyz", "/style.css", "/live.js")
GUARDED = ("/", "/connections/1", "/api/v1/status", "/api/v1/connections", "/api/v1/openapi.json", "/nothing")
PROXY = {"proxy_header": "X-Forwarded-User"}


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ── what the settings allow


@pytest.mark.parametrize(
    ("http", "named"),
    [
        ({"host": "0.0.0.0"}, ["http.host", "http.token", "http.proxy_header", "http.access", "127.0.0.1"]),
        ({"host": "::"}, ["http.host"]),
        ({"host": "example.internal"}, ["http.host"]),
        ({"host": "0.0.0.0", **PROXY}, ["http.proxy_from"]),
        ({"metrics": "token"}, ["http.metrics", "http.token"]),
        ({"host": "0.0.0.0", "access": "probes", "metrics": "token"}, ["http.metrics"]),
    ],
)
def test_what_would_let_everybody_in_is_refused_with_the_keys_to_set(http: dict[str, Any], named: list[str]) -> None:
    why = HttpSettings(**http).unsafe() or ""
    assert all(name in why for name in named), why
    assert "\n" not in why


@pytest.mark.parametrize(
    "http",
    [
        {},
        {"host": "::1"},
        {"host": "localhost"},
        {"host": "127.8.8.8"},
        {"host": "0.0.0.0", "token": TOKEN},
        {"host": "0.0.0.0", "access": "probes"},
        {"host": "0.0.0.0", **PROXY, "proxy_from": "10.0.0.0/8"},
    ],
)
def test_what_asks_who_it_is_may_be_served(http: dict[str, Any]) -> None:
    assert HttpSettings(**http).unsafe() is None


async def test_serve_does_not_begin_where_everybody_would_be_let_in(sqlite_url: str) -> None:
    with pytest.raises(UsageError, match=r"http\.token"):
        async with asyncio.timeout(20):
            await serve(settings(sqlite_url, host="0.0.0.0"))


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ('token = "short"', "http.token: 16 characters"),
        ('token = "with a blank within it"', "http.token: only ASCII"),
        ('proxy_from = "somewhere"', "http.proxy_from: write addresses"),
        ('proxy_header = "X Forwarded"', "http.proxy_header: write the name"),
        ('proxy_header = "Cookie"', "http.proxy_header: Cookie has a meaning"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_without_its_value(tmp_path: Path, written: str, why: str) -> None:
    (tmp_path / "syncd.toml").write_text(f"[http]\n{written}")
    with pytest.raises(Exception, match=re.escape(why)) as refused:
        load(tmp_path / "syncd.toml")
    assert "within" not in str(refused.value)


def test_the_token_may_stand_in_a_file_and_addresses_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    text = f'[http]\ntoken_file = "{tmp_path}/token"\nproxy_from = ["10.0.0.1", "fd00::/8"]'
    (tmp_path / "syncd.toml").write_text(text)
    http = load(tmp_path / "syncd.toml").http
    assert http.token.get_secret_value() == TOKEN
    assert [str(one) for one in http.proxies] == ["10.0.0.1/32", "fd00::/8"]
    assert TOKEN not in repr(http)


# ── without a password, on loopback


async def test_on_loopback_nobody_is_asked(bare: Site) -> None:
    for path in (*OPEN, "/", "/api/v1/status", "/metrics"):
        assert (await bare.get(path)).status_code in {200, 503}, path
    assert "Nobody signs in here" in (await bare.get("/login")).text


async def test_a_foreign_name_that_leads_here_is_not_answered(bare: Site) -> None:
    """DNS rebinding: a page of theirs would read us as if we were theirs."""
    for name in ("evil.example", "evil.example:8080", "10.0.0.1", "localhost.evil.example", ""):
        answer = await bare.get("/api/v1/status", Host=name)
        assert (answer.status_code, answer.json()["status"]) == (421, 421), name
        assert (await bare.get("/metrics", Host=name)).status_code == 421, name
        assert (await bare.get("/healthz", Host=name)).status_code in {200, 503}, name


async def test_our_own_names_are_answered(bare: Site) -> None:
    for name in ("localhost", "localhost:1", "127.0.0.1:8080", "[::1]:8080", "syncd.localhost"):
        assert (await bare.get("/api/v1/status", Host=name)).status_code == 200, name


async def test_behind_a_proxy_the_public_name_is_ours(sqlite_url: str) -> None:
    async with site(sqlite_url, public_url="https://sync.example.com/") as one:
        assert (await one.get("/", Host="sync.example.com")).status_code == 200
        assert (await one.get("/", Host="other.example.com")).status_code == 421


# ── with a token


async def test_without_the_token_nothing_is_shown(locked: Site) -> None:
    for path in GUARDED:
        answer = await locked.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="syncd"'), path
        by_person = await locked.get(path, Accept="text/html,*/*")
        assert by_person.status_code == 303, path
        assert by_person.headers["location"].startswith("/login?next="), path


async def test_probes_and_the_login_page_are_open(locked: Site) -> None:
    for path in OPEN:
        assert (await locked.get(path)).status_code in {200, 503}, path
    assert (await locked.get("/connect/slack?x=y")).status_code == 403  # it is the link that is refused
    assert (await locked.get("/login")).status_code == 200


async def test_an_address_written_in_another_way_does_not_lead_past_the_guard(locked: Site) -> None:
    for path in ("//api/v1/status", "/%61pi/v1/status", "/healthz/../api/v1/status", "/healthz/", "/HEALTHZ"):
        assert (await locked.get(path)).status_code in {401, 404}, path


async def test_a_program_is_let_in_by_the_token_alone(locked: Site) -> None:
    assert (await locked.get("/api/v1/status", **bearer())).status_code == 200
    assert (await locked.get("/api/v1/status", **bearer(TOKEN + "x"))).status_code == 401
    not_ascii = await locked.client.get("/api/v1/status", headers={b"Authorization": "Bearer wröng".encode()})  # type: ignore[dict-item]
    assert not_ascii.status_code == 401
    assert (await locked.get("/api/v1/status", Authorization=f"Basic {TOKEN}")).status_code == 401


async def test_a_person_signs_in_and_out(locked: Site) -> None:
    answer = await signs_in(locked)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?state=ok")
    cookie = answer.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"))
    assert TOKEN not in cookie
    csrf, held = await csrf_of(locked), dict(locked.client.cookies)
    assert (await locked.client.post("/logout", data={"csrf": csrf})).status_code == 303
    assert (await locked.get("/", Cookie=f"syncd_session={held['syncd_session']}")).status_code == 401


async def test_a_link_from_elsewhere_finds_who_is_signed_in(locked: Site) -> None:
    """A browser sends the cookie along with what our own page leads to, not with what an alert's link does."""
    from_elsewhere = {"Accept": "text/html", "Sec-Fetch-Site": "cross-site"}
    first = await locked.get("/connections/1?x=y", **from_elsewhere)
    page = await locked.get(first.headers["location"], **from_elsewhere)
    anew = re.search(r'http-equiv="refresh" content="0;url=([^"]+)"', page.text)
    assert anew, page.text
    await signs_in(locked)
    led = await locked.get(anew[1], **{"Sec-Fetch-Site": "same-origin"})
    assert (led.status_code, led.headers["location"]) == (303, "/connections/1?x=y")
    locked.client.cookies.clear()
    assert "refresh" not in (await locked.get(anew[1], **{"Sec-Fetch-Site": "same-origin"})).text


async def test_behind_https_the_cookie_is_for_https_alone(sqlite_url: str) -> None:
    async with site(sqlite_url, token=TOKEN, public_url="https://sync.example.com") as one:
        assert "Secure" in (await signs_in(one)).headers["set-cookie"]


async def test_a_cookie_of_bytes_that_are_no_text_is_no_session(locked: Site) -> None:
    with capture_logs() as logged:
        answer = await locked.client.get(
            "/", headers=[(b"Accept", b"text/html"), (b"Cookie", b"syncd_session=99.\xff.x")]
        )
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")
    assert [one for one in logged if one["log_level"] == "error"] == []


async def test_a_session_ends_by_itself_and_cannot_be_made_longer(
    locked: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await signs_in(locked)
    value = locked.client.cookies["syncd_session"]
    locked.client.cookies.clear()
    expires, rest = value.split(".", 1)
    assert (await locked.get("/", Cookie=f"syncd_session={value}")).status_code == 200
    assert (await locked.get("/", Cookie=f"syncd_session={int(expires) + 1}.{rest}")).status_code == 401
    monkeypatch.setattr(access, "time", SimpleNamespace(time=lambda: time.time() + access.SESSION_S + 1))
    assert (await locked.get("/", Cookie=f"syncd_session={value}")).status_code == 401


async def test_signing_in_leads_to_no_other_site(locked: Site) -> None:
    for goal in ("//evil.example", "https://evil.example", "/\\evil.example", "/\tx", ""):
        answer = await locked.client.post("/login", data={"token": TOKEN, "next": goal})
        assert answer.headers["location"] == "/", goal


async def test_who_guesses_waits_and_who_is_signed_in_does_not(locked: Site) -> None:
    await signs_in(locked)
    session = {"Cookie": f"syncd_session={locked.client.cookies['syncd_session']}"}
    locked.client.cookies.clear()
    with capture_logs() as lines:
        for number in range(access.MOST_WRONG):
            guess = f"a-wrong-guess-number-{number}"
            wrong = await (signs_in(locked, guess) if number % 2 else locked.get("/", **bearer(guess)))
            assert wrong.status_code == 401
        for refused in (await locked.get("/", **bearer()), await signs_in(locked)):
            assert (refused.status_code, 0 < int(refused.headers["retry-after"]) <= 61) == (429, True)
    assert (await locked.get("/", **session)).status_code == 200
    assert [line["event"] for line in lines].count("access.shut") == 1
    assert "a-wrong-guess" not in repr(lines)


def test_wrong_tries_are_forgotten_after_their_time_and_never_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    tries, now_s = access.Tries(addresses=3), [1000.0]
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    for _ in range(access.MOST_WRONG):
        tries.wrong("a")
    assert tries.wait_s("a") > 0
    for address in "bcd":
        tries.wrong(address)
    assert len(tries._wrong) == 3
    for _ in range(access.MOST_WRONG):
        tries.wrong("b")
    now_s[0] += access.WRONG_PER_S
    assert tries.wait_s("b") == 0
    for _ in range(access.MOST_WRONG):
        assert tries.wait_s("b") == 0
        tries.wrong("b")
    assert tries.wait_s("b") == access.WRONG_PER_S


# ── behind a proxy that knows its users


async def test_the_proxys_word_is_taken_of_the_proxy_alone(sqlite_url: str) -> None:
    async with site(sqlite_url, **PROXY) as near, site(sqlite_url, **PROXY, proxy_from="10.0.0.1") as far:
        who = {"X-Forwarded-User": "ann@example.com"}
        assert (await near.get("/", **who)).status_code == 200
        assert (await near.get("/")).status_code == 403
        assert (await near.get("/", **{"X-Forwarded-User": ""})).status_code == 403
        assert (await far.get("/", **who)).status_code == 403


async def test_a_proxy_that_passes_on_what_it_was_sent_is_not_believed(sqlite_url: str) -> None:
    async with site(sqlite_url, **PROXY) as one:
        twice = [("X-Forwarded-User", "root"), ("X-Forwarded-User", "ann")]
        assert (await one.client.get("/", headers=twice)).status_code == 403


async def test_a_page_under_a_foreign_name_cannot_pretend_to_be_the_proxy(sqlite_url: str) -> None:
    async with site(sqlite_url, **PROXY) as one:
        answer = await one.get("/", **{"X-Forwarded-User": "root", "Host": "evil.example"})
        assert answer.status_code == 421


# ── probes alone, metrics


async def test_where_only_probes_are_served_there_is_nothing_else(sqlite_url: str) -> None:
    async with site(sqlite_url, access="probes", token=TOKEN) as one:
        for path in (*GUARDED, "/login"):
            assert (await one.get(path, **bearer())).status_code == 404, path
        assert (await one.get("/healthz")).status_code in {200, 503}
        assert (await one.get("/connect/slack?x=y")).status_code == 403


@pytest.mark.parametrize(
    ("http", "unknown", "known"),
    [
        ({}, 200, 200),
        ({"token": TOKEN}, 200, 200),
        ({"token": TOKEN, "metrics": "token"}, 401, 200),
        ({"metrics": "off"}, 404, 404),
        ({"host": "0.0.0.0", "token": TOKEN}, 401, 200),
        ({"host": "0.0.0.0", "token": TOKEN, "metrics": "open"}, 200, 200),
        ({"host": "0.0.0.0", "access": "probes"}, 404, 404),
        ({"host": "0.0.0.0", "access": "probes", "metrics": "open"}, 200, 200),
        ({"host": "0.0.0.0", "access": "probes", "token": TOKEN}, 401, 200),
    ],
    ids=str,
)
async def test_metrics_are_for_whom_the_setting_says(
    sqlite_url: str, http: dict[str, Any], unknown: int, known: int
) -> None:
    async with site(sqlite_url, **http) as one:
        one.client.base_url = httpx.URL(one.base.replace("0.0.0.0", "127.0.0.1"))
        assert (await one.get("/metrics")).status_code == unknown
        assert (await one.get("/metrics", **bearer())).status_code == known


# ── headers


async def test_every_answer_has_the_strict_headers(bare: Site) -> None:
    for path in ("/", "/nothing", "/healthz", "/api/v1/status", "/api/v1/nothing", "/login", "/style.css"):
        headers = (await bare.get(path)).headers
        rules = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert (rules["default-src"], rules["script-src"], rules["style-src"]) == ("'none'", "'self'", "'self'"), path
        assert (rules["frame-ancestors"], rules["base-uri"], rules["form-action"]) == ("'none'", "'none'", "'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "same-origin"
        assert (headers["cache-control"], headers["server"]) == ("no-store", "syncd")
        assert "access-control-allow-origin" not in headers
