"""Budgets in the database: shared by processes, never counting too little, on both databases."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from syncd.bucket import Grant
from syncd.errors import RateLimited
from syncd.http import Link
from syncd.limits import Buckets, Budget, Rate, app_budget
from syncd.memory import tell
from syncd.store import Store
from syncd.store.budgets import reserved
from tests.conftest import Clock

DAY = Rate(10_000, 86400.0)
FEW = Rate(100, 86400.0)


async def only(store: Store) -> Budget:
    (known,) = await store.budgets.of("c")
    return known


async def test_what_is_closed_and_lowered_is_known_until_then(store: Store, clock: Clock) -> None:
    await store.budgets.save("c", [Budget("m", closed_s=90.0, low_s=300.0)])
    clock.advance(seconds=60)
    assert await only(store) == Budget("m", closed_s=30.0, low_s=240.0)
    clock.advance(seconds=300)
    assert await only(store) == Budget("m", closed_s=0.0, low_s=0.0)


async def test_credentials_have_budgets_of_their_own(store: Store) -> None:
    await store.budgets.save("c", [Budget("m", closed_s=90.0)])
    assert await store.budgets.of("d") == []


async def test_a_closing_is_never_shortened(store: Store) -> None:
    for seconds in (90.0, 10.0):
        await store.budgets.save("c", [Budget("m", closed_s=seconds)])
    assert (await only(store)).closed_s == 90.0


async def test_a_limit_that_is_up_again_is_taken_back(store: Store) -> None:
    for low_s in (300.0, None, 0.0):
        await store.budgets.save("c", [Budget("m", low_s=low_s)])
        assert bool((await only(store)).low_s) is (low_s != 0.0)


async def test_what_each_process_drew_is_kept_as_long_as_it_counts(store: Store, clock: Clock) -> None:
    await store.budgets.save("c", [Budget("m", drawn={"one": [(5.0, 20)]})])
    clock.advance(seconds=10)
    await store.budgets.save("c", [Budget("m", drawn={"two": [(1.0, 7)]})])
    found = (await only(store)).drawn
    assert {by: [(pytest.approx(ago), units) for ago, units in held] for by, held in found.items()} == {
        "one": [(15.0, 20)],
        "two": [(1.0, 7)],
    }
    clock.advance(hours=2)
    await store.budgets.save("c", [Budget("m", drawn={"two": [(1.0, 7)]})])
    assert list((await only(store)).drawn) == ["two"]


async def test_a_long_limit_is_granted_in_blocks(store: Store) -> None:
    assert await store.budgets.reserve("c", "day", DAY, 1) == Grant(20, 3600.0)


@pytest.mark.parametrize(("used", "granted"), [(0, 20), (9000, 20), (9400, 12), (9990, 1), (10_000, 0)])
def test_blocks_get_smaller_when_little_is_left(used: int, granted: int) -> None:
    """Else one process would hold for an hour what others could have drawn."""
    assert reserved({"3600": used}, 1800.0, DAY, 1)[1] == granted


async def test_no_more_is_granted_than_the_limit_has_however_many_ask(store: Store) -> None:
    granted = await asyncio.gather(*(store.budgets.reserve("c", "day", FEW, 30) for _ in range(6)))
    assert sum(one.units for one in granted) == 90


async def test_what_was_granted_counts_in_the_next_process(store: Store, clock: Clock) -> None:
    """After a crash as well: it is written before it is drawn."""
    rates = {"day": Rate(2, 86400.0)}
    for _ in range(2):
        buckets = Buckets(reserve=store.budgets.reserve)
        await buckets.acquire("c", {"day": 1}, rates, 0)
    assert (await store.budgets.reserve("c", "day", rates["day"], 1))[0] == 0


async def test_units_are_free_again_a_whole_period_after_their_hour(store: Store, clock: Clock) -> None:
    clock.advance(minutes=40)
    await store.budgets.reserve("c", "day", FEW, 100)
    answer = await store.budgets.reserve("c", "day", FEW, 1)
    assert answer[1] == 20 * 60 + 86400 + 60
    clock.advance(seconds=answer[1] - 1)
    assert (await store.budgets.reserve("c", "day", FEW, 1))[0] == 0
    clock.advance(seconds=1)
    assert (await store.budgets.reserve("c", "day", FEW, 1))[0] > 0


async def test_the_day_slides(store: Store, clock: Clock) -> None:
    """Half of it at noon and half in the evening: at the next noon only the first half is free."""
    await store.budgets.reserve("c", "day", FEW, 50)
    clock.advance(hours=6)
    await store.budgets.reserve("c", "day", FEW, 50)
    clock.advance(hours=20)
    assert (await store.budgets.reserve("c", "day", FEW, 51))[0] == 0
    assert (await store.budgets.reserve("c", "day", FEW, 50))[0] == 50


async def test_a_clock_that_ran_ahead_closes_a_limit_for_a_day_at_most(store: Store, clock: Clock) -> None:
    clock.advance(days=300)
    await store.budgets.reserve("c", "day", FEW, 100)
    clock.advance(days=-300)
    assert await store.budgets.reserve("c", "day", FEW, 1) == Grant(0, 3600 + 86400 + 60)


async def test_rows_that_nobody_wrote_for_long_are_forgotten(store: Store, clock: Clock) -> None:
    year_s = 300 * 86400.0
    await store.budgets.save("c", [Budget("m", closed_s=1.0), Budget("closed", closed_s=year_s)])
    clock.advance(days=40)
    await store.budgets.save("c", [Budget("new", closed_s=1.0)])
    await store.budgets.prune(timedelta(days=1))
    assert sorted(one.name for one in await store.budgets.of("c")) == ["closed", "new"]


async def test_what_closes_an_apps_limit_closes_it_in_other_processes(store: Store) -> None:
    """None of their connections was refused itself."""

    async def refused() -> None:
        raise RateLimited("HTTP 429", retry_after_s=900.0)

    here, elsewhere = (Buckets(reserve=store.budgets.reserve) for _ in range(2))
    draws, rates, own = {"token": 1}, {"token": Rate(60, 60.0)}, {"client_id": "our app"}
    link = Link(
        source="fathom", credential="c", net=None, buckets=here, credentials=own, rates=rates, save=None, patience_s=0
    )
    with pytest.raises(RateLimited):
        await link.call("oauth2.token", refused, draws=draws, whose=link.app(), renews=False)
    await tell(link, store)
    with pytest.raises(RateLimited) as caught:
        await elsewhere.acquire(link.app(), draws, rates, 0)
    assert caught.value.retry_after_s == pytest.approx(900, abs=5)


async def test_what_another_process_was_told_is_the_vendors_word_here_too(store: Store) -> None:
    """Not a budget of ours that is used up, for which a call may wait on the spot beyond its patience."""
    app = app_budget("fathom", "our app")
    await store.budgets.save(app, [Budget("token", closed_s=290.0)])
    buckets = Buckets(reserve=store.budgets.reserve, sleep=_never)
    with pytest.raises(RateLimited, match="the vendor has closed token") as caught:
        await buckets.acquire(app, {"token": 1}, {"token": Rate(60, 60.0)}, 60)
    assert (caught.value.ours, buckets.state(app)) == (False, [])


async def _never(seconds: float) -> None:
    raise AssertionError(f"waits for {seconds} s")
