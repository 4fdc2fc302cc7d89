"""The daemon's HTTP on loopback, without its jobs and without vendors: what a browser or a program finds there."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from syncd.credentials import generate_key
from syncd.daemon import Parts
from syncd.settings import Settings
from syncd.store import Line
from tests.connecting import serving

TOKEN = "a-token-of-this-test"
NOWHERE = "http://127.0.0.1:9"
V1 = "/api/v1"


def settings(url: str, **http: Any) -> Settings:
    """No vendor answers, and none is waited for."""
    sources = {name: {"base_url": NOWHERE, "patience": "0s"} for name in ("slack", "gong", "fathom", "gmail")}
    http = {"port": 0, **http}
    return Settings(database={"url": url}, secret_keys=generate_key(), sources=sources, http=http)


class Site:
    """A daemon's HTTP and a client in front of it."""

    def __init__(self, parts: Parts, base: str, client: httpx.AsyncClient) -> None:
        self.parts, self.base, self.client = parts, base, client

    async def connect(self, *workspaces: str, **more: Any) -> list[int]:
        """Slack connections; their ids."""
        lines = [
            Line(workspace_id=one, source="slack", credentials={"token": "xoxb-hidden"}, **more) for one in workspaces
        ]
        await self.parts.store.connections.put(lines, self.parts.vault.seal)
        return [one.id for one in await self.parts.store.connections.all() if one.workspace_id in workspaces]

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def send(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """JSON; without a body, none."""
        if body is None and method != "DELETE":
            headers = {"Content-Type": "application/json", **headers}
        return await self.client.request(method, path, json=body, headers=headers)


@asynccontextmanager
async def site(url: str, **http: Any) -> AsyncIterator[Site]:
    async with (
        serving(settings(url, **http)) as (parts, base),
        httpx.AsyncClient(base_url=base, trust_env=False, timeout=20) as client,
    ):
        yield Site(parts, base, client)


@contextmanager
def in_a_thread(url: str, *workspaces: str, **http: Any) -> Iterator[Site]:
    """The same with a loop of its own, for what blocks while it asks; ``workspaces`` are connected."""
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    ready, found = threading.Event(), list[Site]()

    async def serve() -> None:
        async with site(url, **http) as one:
            await one.connect(*workspaces)
            found.append(one)
            ready.set()
            await stop.wait()
            await one.parts.engine.drain(10)

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(30)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


def problem(answer: httpx.Response, status: int, words: str = "") -> dict[str, Any]:
    """The answer as RFC 9457 has it."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"]) == (status, status), body
    assert body["type"] == "about:blank"
    assert body["title"]
    assert words in body["detail"], body
    assert "\n" not in body["detail"]
    return body


async def signs_in(one: Site, token: str = TOKEN, **headers: str) -> httpx.Response:
    return await one.client.post("/login", data={"token": token, "next": "/?state=ok"}, headers=headers)


async def csrf_of(one: Site) -> str:
    (connection_id,) = await one.connect("acme")
    page = await one.get(f"/connections/{connection_id}")
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
    assert found, page.text
    return found[1]
