"""What a backfill takes, told beforehand, and its half of each limit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from syncd.backfill import least_s
from syncd.errors import AuthError, RateLimited
from syncd.limits import Buckets, Rate
from syncd.source import Estimate, Since
from syncd.store import Store
from syncd.tables import connections
from tests.conftest import Clock
from tests.scripted import Bench, older, pages, plan, source
from tests.test_backfill import BACK_TO, made, read_bench, stored


async def test_the_estimate_is_told_with_its_time_under_the_limits(store: Store, clock: Clock) -> None:
    async def estimate(api: Any, since: Since) -> Estimate:
        assert since.back_to == BACK_TO
        return Estimate(100, {"calls": 100, "day": 100}, "about 1,240 messages")

    bench = Bench(store, source(pages(), backfill=[older("1")], estimate=estimate), clock)
    bench.engine.plans = {
        "slack": plan(
            bench.engine.plans["slack"].source, rates={"calls": Rate(20, 60.0), "day": Rate(10_000, 86400.0)}
        ).halved()
    }
    await bench.connect("acme")
    work = await made(bench, clock)
    await work.estimate()
    (part,) = work.parts
    assert part.estimate is not None
    assert (part.estimate.items, part.least_s) == ("about 1,240 messages", 540.0)
    assert await bench.rows("cycles") == []


def test_the_least_time_is_the_slowest_limits() -> None:
    rates = {"day": Rate(5000, 86400.0), "calls": Rate(1, 1.0)}
    assert least_s({"day": 5000, "calls": 5000, "free": 10**9}, rates) == 4999.0
    assert least_s({"day": 5001, "calls": 5001}, rates) == 86400.0
    assert least_s({}, rates) == least_s({"day": 0, "calls": 1}, rates) == 0.0


async def test_what_cannot_be_estimated_stops_nobody_else(store: Store, clock: Clock) -> None:
    async def estimate(link: Any, since: Since) -> Estimate:
        match link.credentials["token"]:
            case "t-b":
                raise AuthError("token_revoked", hint="give it new ones")
            case "t-c":
                raise RateLimited("HTTP 429", retry_after_s=30)
        return Estimate(1, {}, "1 message")

    bench = await read_bench(store, clock, "a", "b", "c", backfill=[older("1")], estimate=estimate)
    work = await made(bench, clock)
    await work.estimate()
    assert [part.error for part in work.parts] == [None, "token_revoked - give it new ones", None]
    assert work.parts[2].unknown == "HTTP 429 - wait 30 s, then try again"
    await work.run()
    assert [part.status for part in work.parts] == ["finished", "failed", "finished"]


async def test_a_vendor_that_asks_to_wait_is_not_asked_for_an_estimate(store: Store, clock: Clock) -> None:
    async def estimate(link: Any, since: Since) -> Estimate:
        raise AssertionError("it was asked")

    bench = await read_bench(store, clock, backfill=[older("1")], estimate=estimate)
    async with store.database.write() as session:
        await session.execute(update(connections).values(limited_until=clock() + timedelta(minutes=10)))
    work = await made(bench, clock)
    await work.estimate()
    assert (work.parts[0].status, work.parts[0].unknown) == ("running", "its vendor asks to wait until 12:10 UTC")


async def test_a_connection_that_waits_for_a_person_is_told_and_not_asked(store: Store, clock: Clock) -> None:
    bench = Bench(store, source(pages(AuthError("token_revoked")), backfill=[older("1")]), clock)
    await bench.connect("acme")
    await bench.cycle()
    work = await made(bench, clock)
    await work.estimate()
    await work.run()
    assert work.parts[0].error == "it waits for a person (needs reauth): token_revoked"
    assert await stored(bench) == []


@pytest.mark.parametrize(
    ("whole", "half"), [("50/1m", "25/1m"), ("10000/1d", "5000/1d"), ("3/1s", "1/1s"), ("1/1s", "1/2s")]
)
def test_half_a_rate_leaves_as_much_in_every_window(whole: str, half: str) -> None:
    assert str(Rate.parse(whole).half()) == half


async def test_our_own_budget_is_told_from_the_vendors_word() -> None:
    buckets, rates = Buckets(clock=lambda: 0.0), {"calls": Rate(1, 3600.0)}
    await buckets.acquire("one", {"calls": 1}, rates, 0.0)
    with pytest.raises(RateLimited) as used_up:
        await buckets.acquire("one", {"calls": 1}, rates, 0.0)
    buckets.close("one", {"calls": 1}, rates, 3600)
    with pytest.raises(RateLimited) as closed:
        await buckets.acquire("one", {"calls": 1}, rates, 0.0)
    assert (used_up.value.ours, closed.value.ours) == (True, False)
