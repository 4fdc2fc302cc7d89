"""The status page in a real browser: how it looks, whether everybody can use it, and what its script does.

``SYNCD_PICTURES=DIR`` keeps the pictures that are taken: those of the README.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import insert, update

from syncd import tables
from syncd.credentials import generate_key
from syncd.daemon import Parts
from syncd.sandbox.app import Sandbox
from syncd.sandbox.world import StandingClock, World
from syncd.settings import Settings
from syncd.store import Database
from tests.browser import CHROMIUM, Browser, Tab, browser
from tests.connecting import serving
from tests.hundred import SMALL, hundred
from tests.test_pages import Visit, lines

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")

WIDTHS, SCHEMES = (390, 820, 1280), ("light", "dark")
AXE = files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
PICTURES = os.environ.get("SYNCD_PICTURES")
PAGES = {
    "overview": "/",
    "connection": "/connections/3",
    "waiting": "/connections/53?after=0",
    "login": "/login",
    "missing": "/connections/999",
}


@pytest_asyncio.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as one:
        yield one


@asynccontextmanager
async def migrated(folder: Path) -> AsyncIterator[str]:
    url = f"sqlite+aiosqlite:///{folder}/syncd.db"
    database = Database(url)
    await database.migrate()
    await database.close()
    yield url


@pytest_asyncio.fixture(scope="module")
async def staged(tmp_path_factory: Any) -> AsyncIterator[Callable[[str], str]]:
    """The address of a page, of a daemon with a hundred connections, of which some are in trouble, and one is being read."""
    async with (
        migrated(tmp_path_factory.mktemp("pages")) as url,
        Sandbox(SMALL, world=World(SMALL, StandingClock())) as box,
        hundred(box, url) as (parts, base),
    ):
        await _under_way(parts)
        guarded = {"port": 0, "token": "sixteen-or-more-characters"}
        async with serving(Settings(database={"url": url}, http=guarded)) as (_, asking):
            yield lambda name: (asking if name == "login" else base) + PAGES[name]


async def _under_way(parts: Parts) -> None:
    """Fathom's limited connection is read again, has a backlog and cursors."""
    now = datetime.now(UTC)
    run = {"cycle_id": 1, "connection_id": 53, "status": "running", "started_at": now - timedelta(seconds=80),
           "records": 1204, "added": 37, "changed": 4, "calls": 61}  # fmt: skip
    ended = run | {"status": "succeeded", "finished_at": now, "cursors": {"meetings": ["2026-01-05", "2026-01-06"]}}
    item = {"connection_id": 53, "stream": "transcripts", "reason": "no transcript yet", "attempts": 3,
            "next_try_at": now + timedelta(minutes=40), "last_error": "HTTP 404", "created_at": now}  # fmt: skip
    cursor = {"connection_id": 53, "stream": "meetings", "partition": "", "cursor": "2026-01-06", "updated_at": now}
    of = tables.connections
    async with parts.store.database.write() as session:
        await session.execute(insert(tables.runs), [ended])
        await session.execute(insert(tables.runs), [run])
        await session.execute(insert(tables.backlog), [item | {"external_id": f"10{n}"} for n in range(3)])
        await session.execute(insert(tables.cursors), [cursor])
        leased = update(of).where(of.c.id == 53).values(lease="x", leased_until=now + timedelta(hours=1))
        await session.execute(leased)


@pytest.mark.parametrize("name", PAGES)
async def test_a_page_has_no_barrier_fits_its_window_and_leaves_nothing_to_complain(
    chromium: Browser, staged: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    folder, found = Path(PICTURES or tmp_path), []
    tab = await chromium.tab()
    await tab.listens()
    await tab.opens(staged(name))
    await tab.until("document.querySelector('main')")
    for scheme in SCHEMES:
        for width in WIDTHS:
            await tab.looks(width, scheme)
            await tab.picture(folder / f"{name}-{scheme}-{width}.webp", height=1900)
            if await tab.runs("document.documentElement.scrollWidth > innerWidth"):
                found.append(f"{scheme} {width}: wider than the window")
            if (scheme, width) in {("light", 390), ("dark", 1280)}:
                found += [f"{scheme} {width}: {one}" for one in await barriers(tab)]
    found += [one for one in await tab.complaints() if "404 (Not Found)" not in one]
    assert found == []


async def barriers(tab: Tab) -> list[str]:
    """What axe finds, each with the first place. Of a hundred rows alike the first dozen is looked at."""
    await tab.runs(AXE)
    told = "v => v.violations.map(one => `${one.id}: ${one.nodes[0].target} ${one.nodes[0].failureSummary}`)"
    of = "{exclude: [['#list tbody tr:nth-child(n + 13)'], ['.hit']]}"
    return list(await tab.runs(f"axe.run({of}, {{resultTypes: ['violations']}}).then({told})", awaits=True))


# ── what its script does ────────────────────────────────────────────────────────────────────────────────────────────


@pytest_asyncio.fixture
async def visit(sqlite_url: str) -> AsyncIterator[Visit]:
    settings = Settings(database={"url": sqlite_url}, secret_keys=generate_key(), http={"port": 0})
    async with serving(settings) as (parts, base):
        await parts.store.connections.put(lines("acme", "globex"), parts.vault.seal)
        one = Visit(parts, base)
        await one.set(1, 2, last_success_at=datetime.now(UTC))
        yield one
        await one.http.aclose()


@asynccontextmanager
async def opened(chromium: Browser, visit: Visit, path: str = "/", **looks: Any) -> AsyncIterator[Tab]:
    tab = await chromium.tab()
    await tab.looks(1280, **looks)
    await tab.opens(f"{str(visit.http.base_url).rstrip('/')}{path}")
    await tab.until("document.querySelector('#when')")
    yield tab
    await tab.opens("about:blank")


LOOK = "document.dispatchEvent(new Event('visibilitychange'))"  # as when its person comes back to it


async def test_an_open_page_shows_what_changed(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit) as tab:
        assert "Nothing needs you" in await tab.text()
        await visit.set(1, status="needs_reauth", last_error="token_revoked")
        await tab.runs(LOOK)
        await tab.until("document.body.innerText.includes('waits for new credentials')")


async def test_a_page_that_updates_itself_shows_no_link_to_refresh(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit) as tab:
        hidden = "['#live', '#refresh'].map(one => getComputedStyle(document.querySelector(one)).display === 'none')"
        assert await tab.runs(hidden) == [False, True]


async def test_what_is_open_and_focused_stays(chromium: Browser, visit: Visit) -> None:
    now = datetime.now(UTC)
    cursor = {"connection_id": 1, "stream": "s", "partition": "", "cursor": "1", "updated_at": now}
    await visit.add("cursors", [cursor])
    async with opened(chromium, visit, "/connections/1") as tab:
        await tab.runs("document.querySelector('#cursors-all').open = true; document.querySelector('summary').focus()")
        await tab.runs("document.querySelector('summary').id = ''")
        await visit.add("cursors", [cursor | {"stream": "another"}])
        await tab.runs(LOOK)
        await tab.until("document.body.innerText.includes('another')")
        assert await tab.runs("document.querySelector('#cursors-all').open")
    async with opened(chromium, visit) as tab:
        await tab.runs("document.querySelector('#list a').focus()")
        await visit.set(1, failures=1, last_error="odd", status_since=now)
        await tab.runs(LOOK)
        await tab.until("document.body.innerText.includes('odd')")
        assert await tab.runs("document.activeElement.getAttribute('href')") == "/connections/1"


async def test_updates_can_be_paused(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit) as tab:
        await tab.runs(
            "window.asked = 0; const real = fetch; window.fetch = (...all) => { asked++; return real(...all) }"
        )
        await tab.runs("document.querySelector('#live').click()")
        await tab.runs(LOOK)
        assert await tab.runs("[asked, document.querySelector('#live').textContent]") == [0, "Resume updates"]
        await tab.runs("document.querySelector('#live').click()")
        assert await tab.runs("[asked, document.querySelector('#live').textContent]") == [1, "Pause updates"]


async def test_a_daemon_that_is_gone_is_said_and_what_it_told_stays(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit) as tab:
        await tab.runs("window.fetch = () => Promise.reject(new TypeError('refused'))")
        await tab.runs(LOOK)
        await tab.until("document.body.innerText.includes('The daemon does not answer')")
        assert "acme" in await tab.text()


async def test_a_button_works_in_a_browser(chromium: Browser, visit: Visit) -> None:
    """With the headers that a browser sends, which the guard of forms looks at."""
    async with opened(chromium, visit, "/connections/1") as tab:
        await tab.runs("document.querySelector('form[action$=pause] button').click()")
        await tab.until("document.body.innerText.includes('Paused: it is not read')")
        assert "Resume" in await tab.text()


async def test_without_scripts_the_page_can_be_filtered_and_refreshed(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit, scripts=False) as tab:
        assert await tab.runs("[document.querySelector('#live').hidden, document.querySelector('#refresh').hidden]") == [
            True, False,
        ]  # fmt: skip
        await tab.runs("document.querySelector('[name=workspace]').value = 'glob'")
        await tab.runs("document.querySelector('.filter').requestSubmit()")
        await tab.until("location.search.includes('workspace=glob')")
        assert await tab.runs("[...document.querySelectorAll('#list th a')].map(one => one.textContent)") == ["globex"]


async def test_the_first_stop_of_the_keyboard_leads_to_the_content(chromium: Browser, visit: Visit) -> None:
    async with opened(chromium, visit) as tab:
        await tab.presses("Tab")
        assert await tab.runs("document.activeElement.textContent") == "Skip to the content"
        assert await tab.runs("document.activeElement.getBoundingClientRect().left >= 0")
