"""What of a limit outlives the process, and what of a long one the database grants to all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from syncd.bucket import Grant
from syncd.errors import RateLimited
from syncd.limits import Buckets, Budget, Rate, app_budget
from tests.test_limits import FULL, LOW, Seconds, refuse


def handed_over(before: Buckets, clock: Seconds, full: Mapping[str, Rate] = FULL) -> Buckets:
    """Another process's buckets, with what the first one had to say."""
    after = Buckets(clock)
    after.restore("c", before.state("c"), full, LOW)
    return after


def test_a_closing_outlives_the_process() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    buckets.close("c", {"m": 1}, FULL, 300)
    assert handed_over(buckets, clock).bucket("c", "m", FULL["m"]).closed_s() == pytest.approx(300.05)


def test_a_lowered_limit_outlives_the_process() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 60.0)
    after = handed_over(buckets, clock)
    assert (after.is_low("c", "m"), after.bucket("c", "m", FULL["m"]).in_force) == (True, LOW["m"])


def test_a_limit_that_is_up_again_is_so_for_other_processes_too() -> None:
    clock = Seconds()
    one, news = Buckets(clock), []
    refuse(one, 60.0)
    two = handed_over(one, clock)
    one.saved("c", one.state("c"))
    one.raise_again("c", "m")
    news = one.state("c")
    two.restore("c", news, FULL, LOW)
    assert not two.is_low("c", "m")


def test_what_a_process_found_out_itself_is_not_overruled_by_older_news() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 60.0)
    buckets.restore("c", [Budget("m")], FULL, LOW)
    assert buckets.is_low("c", "m")


def test_what_was_drawn_counts_in_the_next_process() -> None:
    """A run by hand right after the daemon's must not ask twice as much in one minute."""
    clock = Seconds()
    buckets = Buckets(clock)
    for _ in range(50):
        buckets.bucket("c", "m", FULL["m"]).draw()
    clock.at += 20
    assert 40 <= handed_over(buckets, clock).bucket("c", "m", FULL["m"]).wait_s() <= 40.1


def test_what_a_process_drew_itself_does_not_count_twice() -> None:
    buckets = Buckets(Seconds())
    for _ in range(30):
        buckets.bucket("c", "m", FULL["m"]).draw()
    buckets.restore("c", buckets.state("c"), FULL, LOW)
    assert buckets.bucket("c", "m", FULL["m"]).wait_s(20) == 0


def test_a_few_calls_are_nothing_to_tell() -> None:
    buckets = Buckets(Seconds())
    for _ in range(5):
        buckets.bucket("c", "m", FULL["m"]).draw()
    assert buckets.state("c") == []


def test_what_was_told_is_not_told_again() -> None:
    buckets = Buckets(Seconds())
    refuse(buckets, 60.0, draws=20)
    buckets.close("c", {"m": 1}, FULL, 60)
    buckets.saved("c", buckets.state("c"))
    assert buckets.state("c") == []


def test_what_was_learnt_is_not_told_again() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 60.0)
    buckets.close("c", {"m": 1}, FULL, 60)
    assert handed_over(buckets, clock).state("c") == []


# ── long limits, granted by the database ────────────────────────────────────────────────────────────────────────────


async def test_units_of_a_long_limit_are_granted_before_they_are_drawn() -> None:
    asked: list[int] = []

    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        asked.append(units)
        return Grant(3, 3600.0)

    buckets, rates = Buckets(clock := Seconds(), clock.sleep, reserve), {"day": Rate(10, 86400.0)}
    for _ in range(4):
        await buckets.acquire("c", {"day": 1}, rates, 0)
        buckets.settle("c", {"day": 1}, rates, well=True)
    assert asked == [1, 1]


async def test_what_is_granted_is_not_drawn_when_its_hour_is_over() -> None:
    asked: list[int] = []

    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        asked.append(units)
        return Grant(20, 100.0)

    clock = Seconds()
    buckets, rates = Buckets(clock, clock.sleep, reserve), {"day": Rate(10_000, 86400.0)}
    for _ in range(2):
        await buckets.acquire("c", {"day": 1}, rates, 0)
        buckets.settle("c", {"day": 1}, rates, well=True)
        clock.at += 101
    assert len(asked) == 2


async def test_calls_at_the_same_time_draw_no_unit_twice() -> None:
    """Each takes its unit when it goes out, not when it is answered."""
    granted: list[int] = []

    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        await asyncio.sleep(0)
        granted.append(1)
        return Grant(1, 3600.0)

    buckets, rates = Buckets(Seconds(), reserve=reserve), {"day": Rate(10, 86400.0)}
    await asyncio.gather(*(buckets.acquire("c", {"day": 1}, rates, 0) for _ in range(5)))
    assert len(granted) == 5


async def test_a_long_limit_that_is_used_up_says_when_it_is_free() -> None:
    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        return Grant(0, 7200.0)

    buckets = Buckets(Seconds(), reserve=reserve)
    with pytest.raises(RateLimited) as caught:
        await buckets.acquire("c", {"day": 1}, {"day": Rate(10, 86400.0)}, 60)
    assert (caught.value.retry_after_s, caught.value.ours, caught.value.limit) == (7200.0, True, "day")


async def test_who_draws_on_an_apps_limit_waits_for_several_of_its_periods() -> None:
    """Many connections wait for it at once, and who comes last would never come."""
    left = [60.0, 60.0, 60.0]

    async def reserve(credential: str, limit: str, rate: Rate, units: int) -> Grant:
        return Grant(0, left.pop()) if left else Grant(1, 60.0)

    buckets = Buckets(clock := Seconds(), clock.sleep, reserve)
    await buckets.acquire(app_budget("fathom", "our app"), {"token": 1}, {"token": Rate(60, 60.0)}, 0)
    assert clock.at >= 180
