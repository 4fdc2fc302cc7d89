"""Slack's restricted apps: one page of 15 a minute, found out by refusals, proven and disproven by pages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from sqlalchemy import update

from syncd import tables
from syncd.daemon import plan
from syncd.errors import CursorExpired, Misconfigured, RateLimited
from syncd.http import Link
from syncd.limits import Buckets, Rate
from syncd.net import Net
from syncd.settings import Settings, SlackSettings
from syncd.sources import SOURCES
from syncd.sources.slack_api import Api, connect

HISTORY, REPLIES = "conversations.history", "conversations.replies"
LOW = Rate(1, 0.01)  # as slow as a test has patience for


class Vendor:
    """A Slack with one long conversation that serves so many messages a page. ``asked``: the limits of its calls."""

    def __init__(self, most: int = 999) -> None:
        self.most, self.messages = most, 40
        self.refuses_from: int | None = None  # from which call on too large a page is an error
        self.asked: list[int] = []
        self.limited: list[int] = []  # Retry-After of the next calls

    async def serve(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        limit, start = int(asked["limit"]), int(asked.get("cursor") or 0)
        self.asked.append(limit)
        if self.limited:
            return web.json_response({}, status=429, headers={"Retry-After": str(self.limited.pop(0))})
        if self.refuses_from is not None and len(self.asked) > self.refuses_from and limit > self.most:
            return web.json_response({"ok": False, "error": "invalid_limit"})
        end = min(start + min(limit, self.most), self.messages)
        rows = [{"ts": f"17{number:08}.000100"} for number in range(start, end)]
        if "ts" in asked:
            rows = [{"ts": asked["ts"]}, *rows]
        following = str(end) if end < self.messages else ""
        return web.json_response({"ok": True, "messages": rows, "response_metadata": {"next_cursor": following}})


class Asker:
    """An api object towards a vendor of our own."""

    def __init__(self, vendor: Vendor, api: Api) -> None:
        self.vendor, self.api = vendor, api

    async def read(self, method: str = HISTORY, **arguments: str) -> list[int]:
        """Read a listing to its end; answers the limits that were asked for."""
        before = len(self.vendor.asked)
        async for _ in self.api.pages(method, "messages", channel="C", **arguments):
            pass
        return self.vendor.asked[before:]

    def lower(self, method: str = HISTORY) -> None:
        """What a refusal does."""
        self.api.link.buckets.lower("c", method, LOW, 3600)


Ask = Callable[..., Awaitable[Asker]]


@pytest_asyncio.fixture
async def ask() -> AsyncIterator[Ask]:
    async with Net() as net:
        servers: list[TestServer] = []

        async def make(vendor: Vendor, *, settings: Any = None, app_kind: str = "auto", **changes: Any) -> Asker:
            app = web.Application()
            app.router.add_route("*", "/api/{method}", vendor.serve)
            server = TestServer(app)
            await server.start_server()
            servers.append(server)
            known: dict[str, Any] = {
                "options": {"base_url": str(server.make_url("/api/")), "app_kind": app_kind},
                "rates": dict.fromkeys((HISTORY, REPLIES), Rate(10_000, 1.0)),
                "low_rates": dict.fromkeys((HISTORY, REPLIES), LOW),
                "low_for_s": 3600.0,
                "settings": settings or {},
                "buckets": Buckets(),
            }
            link = Link(
                source="slack", credential="c", net=net, credentials={"token": "x"}, save=None, **known | changes
            )
            async with connect(link) as api:
                return Asker(vendor, api)

        yield make
        for server in servers:
            await server.close()


async def test_pages_stay_large_while_nothing_says_otherwise(ask: Ask) -> None:
    asker = await ask(Vendor())
    assert await asker.read() == [200]


async def test_fifteen_messages_and_more_to_come_prove_a_limit_that_was_lowered(ask: Ask) -> None:
    """Within a listing the size stays: a page token fits no other request."""
    asker = await ask(Vendor(most=15))
    asker.lower()
    assert await asker.read() == [200, 200, 200]
    assert await asker.read() == [15, 15, 15]


async def test_the_other_method_has_a_limit_of_its_own(ask: Ask) -> None:
    asker = await ask(Vendor(most=15))
    asker.lower()
    await asker.read()
    assert (await asker.read(REPLIES))[0] == 200


async def test_more_than_fifteen_messages_show_that_the_limit_is_up(ask: Ask) -> None:
    asker = await ask(Vendor())
    asker.lower()
    await asker.read()
    assert not asker.api.link.is_low(HISTORY)


async def test_fifteen_replies_and_their_parent_are_no_more_than_fifteen(ask: Ask) -> None:
    """Whether the parent counts is not known."""
    asker = await ask(Vendor(most=15))
    asker.lower(REPLIES)
    await asker.read(REPLIES, ts="1600000000.000100")
    assert asker.api.link.is_proven_low(REPLIES)


async def test_few_messages_prove_nothing(ask: Ask) -> None:
    vendor = Vendor(most=15)
    vendor.messages = 15
    asker = await ask(vendor)
    asker.lower()
    await asker.read()
    assert asker.api.link.is_low(HISTORY)
    assert not asker.api.link.is_proven_low(HISTORY)


async def test_a_page_that_is_refused_for_its_size_is_asked_smaller_from_then_on(ask: Ask) -> None:
    vendor = Vendor(most=15)
    vendor.refuses_from = 0
    asker = await ask(vendor)
    assert await asker.read() == [200, 15, 15, 15]
    assert await asker.read() == [15, 15, 15]


async def test_a_listing_whose_size_is_refused_half_way_begins_again_smaller(ask: Ask) -> None:
    """Its page token fits no smaller page: it is stale, and whoever listed goes on below what was shown."""
    vendor = Vendor(most=15)
    vendor.refuses_from = 1
    asker = await ask(vendor)
    with pytest.raises(CursorExpired):
        await asker.read()
    assert await asker.read() == [15, 15, 15]


@pytest.mark.parametrize("how", [{"app_kind": "restricted"}, {"settings": {"app_kind": "restricted"}}])
async def test_an_app_that_is_said_to_be_restricted_asks_for_few_from_the_start(ask: Ask, how: Any) -> None:
    asker = await ask(Vendor(most=15), low_rates={}, **how)
    assert await asker.read() == [15, 15, 15]


async def test_other_listings_of_a_restricted_app_stay_large(ask: Ask) -> None:
    asker = await ask(Vendor(), app_kind="restricted")
    assert asker.api.per_page("users.list") == 200


async def test_a_connections_word_goes_before_the_sources(ask: Ask) -> None:
    asker = await ask(Vendor(), app_kind="restricted", settings={"app_kind": "full"})
    assert await asker.read() == [200]


async def test_the_size_of_a_page_of_a_full_app_may_not_be_refused(ask: Ask) -> None:
    vendor = Vendor(most=15)
    vendor.refuses_from = 0
    asker = await ask(vendor, app_kind="full", low_rates={})
    with pytest.raises(Misconfigured, match="invalid_limit"):
        await asker.read()


async def test_a_refusal_lowers_the_limit_and_the_next_pages_come_at_its_pace(ask: Ask) -> None:
    vendor = Vendor(most=15)
    vendor.limited = [1]
    low = {HISTORY: Rate(1, 1.0)}
    asker = await ask(vendor, low_rates=low, patience_s=0.0)
    with pytest.raises(RateLimited) as caught:
        await asker.read()
    bucket = asker.api.link.buckets.bucket("c", HISTORY, Rate(10_000, 1.0))
    assert (caught.value.limit, bucket.in_force) == (HISTORY, low[HISTORY])


@pytest.mark.parametrize(
    ("source", "own", "history", "may_be_lowered"),
    [
        ("auto", None, "50/1m", True),
        ("restricted", None, "1/1m", False),
        ("full", None, "50/1m", False),
        ("auto", "restricted", "1/1m", False),
        ("restricted", "full", "50/1m", False),
        ("restricted", "auto", "50/1m", True),
    ],
)
def test_the_kind_of_app_decides_on_the_limit(source: Any, own: str | None, history: str, may_be_lowered: bool) -> None:
    made = plan(Settings(sources={"slack": SlackSettings(app_kind=source)}), "slack")
    rates, lows = made.limits({"app_kind": own} if own else {})
    assert (str(rates[HISTORY]), HISTORY in lows) == (history, may_be_lowered)


def test_a_backfill_takes_half_of_a_low_limit_too() -> None:
    rates, _ = plan(Settings(), "slack").halved().limits({"app_kind": "restricted"})
    assert str(rates[HISTORY]) == "1/2m"


@pytest.mark.parametrize("value", ["auto", "restricted", "full"])
def test_a_connection_may_say_what_its_app_is(value: str) -> None:
    assert SOURCES["slack"].refuse(None, {"app_kind": value}) is None
    assert "app_kind" in (SOURCES["slack"].refuse(None, {"app_kind": [value]}) or "")


async def test_a_run_hands_on_what_it_learnt_of_its_limits(reader: Any) -> None:
    """The next process asks nothing early: here its buckets are empty."""
    r = await reader("slack")
    r.box.world.faults.add({"kind": "429", "vendor": "slack", "method": HISTORY, "seconds": 3600, "times": 1})
    await r.run()
    seen = r.box.world.counts["slack", HISTORY]
    r.parts.engine._buckets._buckets.clear()
    async with r.parts.store.database.write() as session:
        await session.execute(update(tables.connections).values(limited_until=None))
    await r.run()
    assert r.box.world.counts["slack", HISTORY] == seen
    assert [row["error_kind"] for row in await r.rows("runs")] == ["rate_limited"] * 2


async def test_a_run_that_asks_little_writes_no_budget(reader: Any) -> None:
    r = await reader("slack")
    assert (await r.run())["failures"] == []
    assert await r.rows("budgets") == []
