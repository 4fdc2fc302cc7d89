"""Each vendor connected in a real browser, against the sandbox's consent pages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from syncd.connect import Invitation, Signer
from syncd.sandbox.world import Options
from tests.browser import CHROMIUM, Browser, Tab, browser
from tests.connecting import serving, settings
from tests.terminal import Shell, Terminal, shell

__all__ = ["shell"]

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
OPTIONS = Options(workspaces=1, days=1, limits=False)


@pytest_asyncio.fixture(scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as one:
        yield one


async def goes_on(tab: Tab, link: str) -> str:
    """Opens a link of ours and presses the button of its page; what that page said."""
    await tab.opens(link)
    await tab.until("document.querySelector('a.go')")
    said = await tab.text()
    await tab.runs("document.querySelector('a.go').click()")
    return said


async def presses(tab: Tab, answer: str) -> str:
    """The vendor's button, once its page is there; what our page says after it."""
    await tab.until("document.querySelector('button[value=allow]')")
    await tab.runs(f"document.querySelector('button[value={answer}]').click()")
    await tab.until("document.querySelector('main h1')")
    return await tab.text()


@in_a_browser
@pytest.mark.parametrize("name", ["slack", "gong", "fathom", "gmail"])
async def test_a_customer_connects_in_a_browser(chromium: Browser, sandbox, sqlite_url: str, name: str) -> None:
    async with serving(settings(await sandbox(OPTIONS), sqlite_url)) as (parts, base):
        invitation = Invitation(name, "w1", "", datetime.now(UTC) + timedelta(hours=1))
        link, tab = Signer(parts.settings.keys()).link(base, invitation), await chromium.tab()
        assert f"Connect {name.capitalize()} for w1" in await goes_on(tab, link)
        assert "You did not allow it" in await presses(tab, "deny")
        assert await parts.store.connections.all() == []
        await goes_on(tab, link)
        said = await presses(tab, "allow")
        assert f"{name.capitalize()} is connected" in said
        assert "You can close this window" in said
        # the page's own style is taken, though nothing else may be loaded
        assert await tab.runs("getComputedStyle(document.querySelector('h1')).borderLeftStyle") == "solid"
        await tab.runs("history.back()")
        await tab.opens(await tab.runs("location.href"))
        (stored,) = await parts.store.connections.all()
        assert (stored.source, stored.workspace_id, stored.status) == (name, "w1", "ok")


@in_a_browser
async def test_the_terminals_sign_in_goes_through_a_browser(chromium: Browser, shell: Shell) -> None:
    async with Terminal(shell.env, "connect", "gmail", "--workspace", "w1", "--no-browser") as terminal:
        await terminal.types("1 or 2 [1]: ", "1")
        await terminal.until("Open this address in a browser:\r\n")
        tab = await chromium.tab()
        await tab.opens((await terminal.until("\r\n")).strip())
        assert "Go on in the terminal" in await presses(tab, "allow")
        await terminal.types("Enter for INBOX: ", "1")
        assert await terminal.ends() == 0
    assert [row[:3] for row in shell.stored()] == [("gmail", "w1", {"labels": ["Label_1"]})]
