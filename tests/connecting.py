"""What a person does in a browser, without one: open a page, press a button of the vendor's consent form, come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import httpx
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from syncd.credentials import generate_key
from syncd.daemon import Parts, open_parts
from syncd.sandbox.app import Sandbox
from syncd.settings import Settings
from syncd.web.server import Web

SOURCES = ("slack", "gong", "fathom", "gmail")


def settings(box: Sandbox, url: str, *, cron: str = "", **more: Any) -> Settings:
    """Of a daemon whose vendors are the sandbox, with its OAuth apps. ``cron``: of each source."""
    sources: dict[str, Any] = {name: {} for name in SOURCES}
    for key, value in box.environment().items():
        _, _, name, *path = (part.lower() for part in key.replace("SYNCD_SOURCES", "SYNCD__SOURCES").split("__"))
        at = sources[name]
        for step in path[:-1]:
            at = at.setdefault(step, {})
        at[path[-1]] = value
    for name in SOURCES:
        sources[name] |= {"patience": "0s", **({"cron": cron} if cron else {})}
    chosen = {"secret_keys": generate_key(), "http": {"port": 0}, **more}
    return Settings(database={"url": url}, sources=sources, **chosen)


@asynccontextmanager
async def serving(configured: Settings) -> AsyncIterator[tuple[Parts, str]]:
    """The daemon's pages on loopback, without its jobs: (parts, address)."""
    async with open_parts(configured) as parts:
        web = Web(parts, AsyncIOScheduler(timezone="UTC"))
        address = await web.start()
        try:
            yield parts, address
        finally:
            await web.stop()


class Form(HTMLParser):
    """A consent page's hidden fields; ``on``: where our own page goes on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.on = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "input" and given.get("type") == "hidden":
            self.fields[str(given["name"])] = str(given["value"])
        if tag == "a" and given.get("class") == "go":
            self.on = str(given["href"])


class Person:
    """Somebody with a browser: keeps cookies, follows redirects only where told."""

    def __init__(self) -> None:
        self.http = httpx.AsyncClient(trust_env=False, timeout=20)

    async def decides(self, url: str, workspace: str = "acme", answer: str = "allow") -> str:
        """On the vendor's page at ``url``: the address that the vendor sends the browser back to."""
        page = await self.http.get(url)
        assert page.status_code == 200, page.text
        fields = Form(page.text).fields | {"account": workspace, "answer": answer}
        sent = await self.http.post(url, data=fields)
        assert sent.status_code == 302, sent.text
        return sent.headers["location"]

    async def leaves(self, link: str) -> str:
        """Opens a link of ours and goes on: the vendor's address that it leads to."""
        answer = await self.goes_on(link)
        assert answer.status_code == 302, answer.text
        return answer.headers["location"]

    async def goes_on(self, link: str) -> httpx.Response:
        """What answers the button of the page that the link shows."""
        shown = await self.http.get(link)
        assert shown.status_code == 200, shown.text
        return await self.http.get(shown.url.join(Form(shown.text).on))

    async def connects(self, link: str, workspace: str = "acme", answer: str = "allow") -> httpx.Response:
        """From a link of ours to the page at the end."""
        return await self.http.get(await self.decides(await self.leaves(link), workspace, answer))


@asynccontextmanager
async def person() -> AsyncIterator[Person]:
    one = Person()
    try:
        yield one
    finally:
        await one.http.aclose()
