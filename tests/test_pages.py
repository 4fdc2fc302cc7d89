"""The status page without a browser: what it says, whom it lists, what its buttons do, and that nothing breaks out."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sqlalchemy import insert, update

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts
from syncd.errors import AuthError
from syncd.settings import Settings
from syncd.source import Page
from syncd.store import Line
from tests.connecting import Form, serving
from tests.scripted import message, pages, plan, source


def now() -> datetime:
    return datetime.now(UTC)


class Visit:
    """A browser of a sort: the text of pages, and their buttons."""

    def __init__(self, parts: Parts, base: str) -> None:
        self.parts = parts
        self.http = httpx.AsyncClient(base_url=base, trust_env=False, follow_redirects=True, timeout=20)

    async def html(self, path: str, status: int = 200) -> str:
        answer = await self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    async def text(self, path: str, status: int = 200) -> str:
        return seen(await self.html(path, status))

    async def press(self, number: int, act: str, **fields: str) -> httpx.Response:
        known = Form(await self.html(f"/connections/{number}")).fields
        return await self.http.post(f"/connections/{number}/{act}", data=known | fields)

    async def listed(self, path: str) -> list[int]:
        """The numbers of the connections in the list, in order."""
        table = (await self.html(path)).partition('id="list"')[2]
        return [int(one) for one in re.findall(r'<a href="/connections/(\d+)"', table)]

    async def set(self, *ids: int, **values: Any) -> None:
        async with self.parts.store.database.write() as session:
            of = tables.connections
            await session.execute(update(of).where(of.c.id.in_(ids)).values(**values))

    async def add(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        async with self.parts.store.database.write() as session:
            await session.execute(insert(tables.metadata.tables[table]), rows)


def seen(html: str) -> str:
    """What a person reads of a page, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html.partition("<main")[2])).split())


def lines(*workspaces: str, source: str = "slack", account: str = "") -> list[Line]:
    return [Line(workspace_id=one, source=source, account=account, credentials={"token": "t"}) for one in workspaces]


@asynccontextmanager
async def visiting(url: str) -> AsyncIterator[Visit]:
    """Three Slack connections that were read a moment ago."""
    settings = Settings(database={"url": url}, secret_keys=generate_key(), http={"port": 0})
    async with serving(settings) as (parts, base):
        await parts.store.connections.put(lines("acme", "globex", "hooli"), parts.vault.seal)
        one = Visit(parts, base)
        await one.set(1, 2, 3, last_success_at=now(), next_sync_at=now() + timedelta(minutes=9))
        yield one
        await one.http.aclose()


@pytest_asyncio.fixture
async def visit(sqlite_url: str) -> AsyncIterator[Visit]:
    async with visiting(sqlite_url) as one:
        yield one


@pytest_asyncio.fixture
async def both(database_url: str) -> AsyncIterator[Visit]:
    """The same on each database: for what the page asks of it."""
    async with visiting(database_url) as one:
        yield one


def scripted(visit: Visit, *steps: Page | Exception) -> None:
    """Slack is read by a script from now on."""
    visit.parts.engine.plans["slack"] = plan(source(pages(*steps)))  # type: ignore[index]


# ── the overview ────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_all_well_says_so_in_the_first_line(both: Visit) -> None:
    text = await both.text("/")
    assert text.startswith('id="main"> Nothing needs you 3 of 3 active connections are up to date.')
    assert "Slack all well" in text


async def test_nothing_connected_says_how_to_begin(sqlite_url: str) -> None:
    settings = Settings(database={"url": sqlite_url}, http={"port": 0})
    async with serving(settings) as (_, base), httpx.AsyncClient(base_url=base, trust_env=False) as http:
        assert "syncd connections add --help" in (await http.get("/")).text


async def test_the_reason_of_a_trouble_comes_with_its_way_out(visit: Visit) -> None:
    scripted(visit, AuthError("token_revoked", hint="install the app again"))
    await visit.parts.engine.cycle("slack", trigger="cli", only=2)
    text = await visit.text("/")
    assert "1 thing needs you Slack: 1 connection waits for new credentials globex : token_revoked" in text
    assert (
        "Install the app again. Connect it again: syncd connect slack --workspace globex , or syncd connect-link --source"
        in text
    )


async def test_the_worst_comes_first(both: Visit) -> None:
    await both.set(3, status="needs_reauth")
    await both.set(2, failures=1)
    assert await both.listed("/") == [3, 2, 1]


ASKED = {
    "source=gmail": [4],
    "state=paused": [1],
    "trouble=failing": [2],
    "workspace=GLOB": [2],
    "workspace=me%40example": [4],
    "workspace=3": [3],
    "source=slack&workspace=o": [2, 3],
    "source=&state=&trouble=&workspace=": [2, 4, 1, 3],
    "state=nonsense": [],
    "workspace=%00%ED%A0%80%25": [],
    f"workspace={'9' * 40}": [],
}


async def test_the_list_shows_what_was_asked_for(both: Visit) -> None:
    known = Line(workspace_id="acme", source="gmail", account="me@example.com", credentials={"token": "t"})
    await both.parts.store.connections.put([known], both.parts.vault.seal)
    await both.set(1, is_active=False)
    await both.set(2, failures=1)
    await both.set(4, last_success_at=now())
    assert {query: await both.listed(f"/?{query}") for query in ASKED} == ASKED


async def test_a_long_list_has_pages_that_keep_the_filter(both: Visit) -> None:
    await both.parts.store.connections.put(lines(*(f"w{n:03}" for n in range(150))), both.parts.vault.seal)
    first = await both.html("/?source=slack&workspace=w")
    assert "150 connections of this kind, the worst first; page 1 of 2" in first
    assert 'href="/?source=slack&amp;workspace=w&amp;page=2#connections"' in first
    assert len(await both.listed("/?source=slack&workspace=w&page=2")) == 50
    assert await both.listed("/?page=999999999") == []


async def test_the_form_shows_what_was_chosen(visit: Visit) -> None:
    html = await visit.html("/?state=failing&workspace=a%22b")
    assert '<option value="failing" selected>' in html
    assert 'value="a&#34;b"' in html


async def test_a_limit_is_told_with_its_end_and_asks_nobody(visit: Visit) -> None:
    until = now() + timedelta(minutes=30)
    await visit.set(1, limited_until=until, limited_by="conversations.history", next_sync_at=until)
    text = await visit.text("/")
    assert (
        "Nothing needs you Slack: 1 connection waits for a limit acme : the limit conversations.history allows no more"
        in text
    )
    assert "Limits 1 for conversations.history" in text


# ── one connection ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_run_is_told_with_its_counts_its_cursors_its_error_and_the_way_out(both: Visit) -> None:
    run = {"cycle_id": 1, "connection_id": 1, "status": "failed", "started_at": now(), "finished_at": now(),
           "records": 1200, "added": 4, "changed": 3, "deleted": 2, "calls": 61, "error_kind": "transient",
           "error": "HTTP 503", "hint": "wait a bit", "cursors": {"messages/C1": [None, "1700.5"]}}  # fmt: skip
    await both.add("runs", [run])
    text = await both.text("/connections/1")
    assert "failed transient: HTTP 503 wait a bit 1,200 4 3 2 61 messages/C1: none → 1700.5" in text


async def test_what_is_read_now_is_told_with_live_figures(visit: Visit) -> None:
    texts: list[str] = []

    async def read(link: Any, since: Any) -> AsyncIterator[Page]:
        yield Page(records=[message("a"), message("b")], cursor="1", notes=["stored at once"])
        texts.append(await visit.text("/connections/1"))
        yield Page()

    visit.parts.engine.plans["slack"] = plan(source(read))  # type: ignore[index]
    await visit.parts.engine.cycle("slack", trigger="cli", only=1)
    assert re.search(r"Reading now Run 1, began \d s ago Stream messages Records 2 read, 2 added", texts[0])
    assert "Reading now" not in await visit.text("/connections/1")


async def test_the_backlog_is_told_by_reason_and_item_by_item_in_pages(both: Visit) -> None:
    rows = [
        {"connection_id": 1, "stream": "calls", "external_id": f"c{n:03}", "reason": "not ready", "attempts": 2,
         "next_try_at": now(), "last_error": "HTTP 404", "created_at": now() + timedelta(seconds=n)} for n in range(130)
    ]  # fmt: skip
    await both.add("backlog", rows)
    first, second = await both.text("/connections/1"), await both.text("/connections/1?after=100")
    assert "130 of calls: not ready" in first
    assert re.search(
        r"calls c000 \S+ s ago 2 \S+ s ago not ready HTTP 404".replace(r"\S+ s ago", "(in )?.{3,12}"), first
    )
    assert ("c099" in first, "c100" in first) == (True, False)
    assert ("c099" in second, "c129" in second) == (False, True)


async def test_older_runs_are_one_link_away(both: Visit) -> None:
    run = {"cycle_id": 1, "connection_id": 1, "status": "succeeded", "started_at": now(), "finished_at": now()}
    await both.add("runs", [run] * 60)
    html = await both.html("/connections/1")
    assert 'href="/connections/1?before=11#runs"' in html
    older = await both.html("/connections/1?before=11")
    assert re.findall(r'data-label="Run"><span class="nowrap">(\d+)', older) == [str(n) for n in range(10, 0, -1)]


async def test_an_unknown_connection_is_a_page_that_says_so(both: Visit) -> None:
    for path in ("/connections/99", "/connections/" + "9" * 18):
        assert "There is no such connection" in await both.text(path, status=404)


# ── buttons ─────────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_run_now_starts_a_run_and_says_which(visit: Visit) -> None:
    scripted(visit, Page())
    answer = await visit.press(1, "run")
    assert "The run has started as run 1." in answer.text
    await visit.parts.engine.drain(5)
    assert [run["status"] for run in await visit.parts.store.status.runs(1)] == ["succeeded"]


async def test_sweep_now_reads_the_wide_window(visit: Visit) -> None:
    sweeps: list[bool] = []

    async def read(link: Any, since: Any) -> AsyncIterator[Page]:
        sweeps.append(since.sweep)
        yield Page()

    visit.parts.engine.plans["slack"] = plan(source(read))  # type: ignore[index]
    assert "The sweep has started" in (await visit.press(1, "sweep")).text
    await visit.parts.engine.drain(5)
    assert sweeps == [True]


async def test_a_run_that_does_not_start_says_why(visit: Visit) -> None:
    await visit.set(1, status="needs_reauth", last_error="token_revoked")
    assert "It did not start: it waits for new credentials: token_revoked." in seen((await visit.press(1, "run")).text)


async def test_pause_and_resume_do_so_and_say_so(both: Visit) -> None:
    assert "Paused: it is not read until it is resumed." in (await both.press(1, "pause")).text
    assert (await both.parts.store.connections.get(1)).is_active is False
    assert "Resumed" in (await both.press(1, "resume")).text
    assert (await both.parts.store.connections.get(1)).is_active is True


async def test_a_paused_connection_offers_to_resume_and_nothing_else(visit: Visit) -> None:
    await visit.set(1, is_active=False)
    assert re.findall(r'action="/connections/1/(\w+)"', await visit.html("/connections/1")) == ["resume"]


@pytest.mark.parametrize("act", ["run", "sweep", "pause", "resume"])
async def test_a_button_without_our_forms_secret_does_nothing(visit: Visit, act: str) -> None:
    answer = await visit.press(1, act, csrf="0" * 64)
    assert answer.status_code == 403
    assert (await visit.parts.store.connections.get(1)).is_active
    assert await visit.parts.store.status.runs(1) == []


async def test_a_word_that_was_not_ours_is_not_shown(visit: Visit) -> None:
    assert "evil" not in await visit.text("/connections/1?said=evil")


# ── nothing breaks out ──────────────────────────────────────────────────────────────────────────────────────────────

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>`&lt;`{{7*7}}"


class Markup(HTMLParser):
    """The names of a page's elements, and of their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("path", ["/", "/connections/1", "/?workspace=%3Cscript%3E&source=%22%3E%3Cimg%3E"])
async def test_what_comes_from_vendors_customers_and_addresses_is_text(visit: Visit, path: str) -> None:
    until = now() + timedelta(minutes=5)
    await visit.set(
        1, workspace_id=EVIL, account=EVIL, failures=1, last_error=f"{EVIL} - {EVIL}", last_error_kind=EVIL[:30],
        limited_by=EVIL, limited_until=until,
    )  # fmt: skip
    await visit.add("runs", [
        {"cycle_id": 1, "connection_id": 1, "status": "failed", "started_at": now(), "finished_at": now(),
         "error_kind": EVIL[:30], "error": EVIL, "hint": EVIL, "cursors": {EVIL: [EVIL, EVIL]}},
    ])  # fmt: skip
    await visit.add("backlog", [
        {"connection_id": 1, "stream": "s", "external_id": EVIL, "reason": EVIL, "attempts": 1, "next_try_at": now(),
         "last_error": EVIL, "created_at": now()},
    ])  # fmt: skip
    await visit.add("cursors", [
        {"connection_id": 1, "stream": "s", "partition": EVIL, "cursor": EVIL, "updated_at": now()},
    ])  # fmt: skip
    html = await visit.html(path)
    scripts = [attrs.get("src") for tag, attrs in Markup(html).tags if tag == "script"]
    assert scripts == ["/live.js"]
    assert "img" not in {tag for tag, _ in Markup(html).tags}
    if "workspace" not in path:
        assert "alert(1)" in html
        assert "{{7*7}}" in html


@pytest.mark.parametrize("path", ["/", "/connections/1", "/connections/99"])
async def test_a_page_has_neither_style_nor_script_of_its_own(visit: Visit, path: str) -> None:
    found = Markup((await visit.http.get(path)).text).tags
    assert not [attrs for _, attrs in found if any(name == "style" or name.startswith("on") for name in attrs)]
    assert "style" not in {tag for tag, _ in found}


async def test_a_page_says_that_the_database_is_away(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(visit.parts.store.status, "sums", away)
    monkeypatch.setattr(visit.parts.store.status, "find", away)
    for path in ("/", "/connections/1"):
        assert "The database does not answer" in await visit.text(path, status=503)


async def test_without_javascript_there_is_a_link_to_refresh_that_keeps_the_filter(visit: Visit) -> None:
    assert '<a class="button" id="refresh" href="/?state=ok&amp;page=1">' in await visit.html("/?state=ok&page=1")


def test_the_script_is_small_and_asks_no_other_host() -> None:
    script = Path("syncd/web/templates/live.js").read_text(encoding="utf-8")
    assert len(script) < 6000
    assert not re.search(r"https?://|eval|innerHTML\s*=", script)
