"""A vendor that says when to come back is not asked before, whatever its status, and whatever was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from syncd.errors import RateLimited
from syncd.http import Link
from syncd.limits import Buckets
from syncd.net import Net
from syncd.source import Grant
from syncd.sources import SOURCES

TOKENS = {
    "access_token": "a", "refresh_token": "r", "client_id": "c", "client_secret": "s",
    "expires_at": "2020-01-01T00:00:00Z",
}  # fmt: skip
KEYS: dict[str, Any] = {
    "slack": {"token": "t"},
    "gong": {"access_key": "k", "access_key_secret": "s"},
    "fathom": {"api_key": "k"},
    "gmail": TOKENS | {"expires_at": "2999-01-01T00:00:00Z"},
}
LATER = timedelta(hours=2)


@asynccontextmanager
async def saying_later(status: int) -> AsyncIterator[str]:
    """A vendor's address; whatever is asked there, it says so."""

    async def every(request: web.Request) -> web.Response:
        return web.Response(
            status=status, text="<h1>later</h1>", headers={"Retry-After": f"{LATER.total_seconds():.0f}"}
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", every)
    async with TestServer(app) as server:
        yield str(server.make_url("/"))


@pytest.mark.parametrize("status", [429, 408, 500, 503])
@pytest.mark.parametrize("source", KEYS)
async def test_a_run_is_deferred_until_then(reader: Callable[..., Awaitable[Any]], source: str, status: int) -> None:
    async with saying_later(status) as base:
        r = await reader(source, box=object(), base_url=base, credentials=KEYS[source])
        ended = await r.run()
    until = (await r.connection())["limited_until"]
    assert ended["deferred_workspaces"] == 1
    assert abs(until - datetime.now(UTC) - LATER) < timedelta(minutes=1)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("source", KEYS)
async def test_no_token_is_renewed_before_then(reader: Callable[..., Awaitable[Any]], source: str, status: int) -> None:
    async with saying_later(status) as base:
        token_url = None if source == "slack" else f"{base}token"
        r = await reader(source, box=object(), base_url=base, token_url=token_url, credentials=TOKENS)
        await r.run()
    [closed] = await r.rows("budgets")
    assert closed["name"] == "token"
    assert closed["closed_until"] >= (await r.connection())["limited_until"] > datetime.now(UTC)


@pytest.mark.parametrize("source", KEYS)
async def test_no_code_is_exchanged_before_then(source: str) -> None:
    oauth = SOURCES[source].oauth
    assert oauth is not None
    async with saying_later(429) as base, Net() as net:
        app = {"client_id": "c", "client_secret": "s"}
        urls = {"base_url": base, "token_url": f"{base}token"}
        link = Link(
            source=source,
            credential="c",
            net=net,
            buckets=Buckets(),
            credentials=app,
            options=urls,
            patience_s=0.0,
            save=None,  # type: ignore[arg-type]
        )
        for _ in range(2):
            with pytest.raises(RateLimited) as caught:
                await oauth.exchange(link, Grant("code", "http://127.0.0.1/back", "verifier"))
        assert (caught.value.limit, link.calls) == ("token", 1)
