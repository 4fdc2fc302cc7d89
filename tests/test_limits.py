"""Buckets: never more than the rate in any window, by a clock that a test moves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.errors import RateLimited
from syncd.limits import Bucket, Buckets, Rate


class Seconds:
    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3)), max_size=60))
def test_no_window_ever_holds_more_than_the_rate(steps: list[tuple[float, int]]) -> None:
    clock = Seconds()
    bucket = Bucket(Rate(5, 10.0), clock)
    drawn: list[tuple[float, int]] = []
    for pause, cost in steps:
        clock.at += pause
        clock.at += bucket.wait_s(cost)
        assert bucket.wait_s(cost) == 0
        bucket.draw(cost)
        drawn.append((clock.at, cost))
    for start, _ in drawn:
        assert sum(cost for at, cost in drawn if start <= at < start + 10.0) <= 5


def test_a_long_window_keeps_few_entries() -> None:
    """10,000 calls a day must not mean 10,000 entries per company."""
    clock = Seconds()
    bucket = Bucket(Rate(10_000, 86400.0), clock)
    for _ in range(10_000):
        bucket.draw()
        clock.at += 8.64
    assert len(bucket._drawn) < 2500


def test_a_closed_bucket_stays_closed_for_the_longest_time_told() -> None:
    clock = Seconds()
    bucket = Bucket(Rate(5, 1.0), clock)
    bucket.close(60)
    bucket.close(10)
    assert bucket.wait_s() == 60


def test_a_cost_above_the_whole_rate_waits_for_an_empty_window() -> None:
    """Dearer than the budget allows at all: asked alone rather than never."""
    clock = Seconds()
    bucket = Bucket(Rate(5, 10.0), clock)
    bucket.draw(1)
    assert bucket.wait_s(50) == pytest.approx(10.05)


async def test_two_limits_are_drawn_together() -> None:
    clock = Seconds()
    buckets = Buckets(clock, clock.sleep)
    rates = {"second": Rate(100, 1.0), "day": Rate(1, 100.0)}
    await buckets.acquire("c", {"second": 1, "day": 1}, rates, 1000)
    began = clock.at
    await buckets.acquire("c", {"second": 1, "day": 1}, rates, 1000)
    assert clock.at - began == pytest.approx(100.05)


async def test_credentials_have_budgets_of_their_own() -> None:
    clock = Seconds()
    buckets = Buckets(clock, clock.sleep)
    rates = {"m": Rate(1, 100.0)}
    await buckets.acquire("one", {"m": 1}, rates, 0)
    await buckets.acquire("two", {"m": 1}, rates, 0)
    with pytest.raises(RateLimited):
        await buckets.acquire("one", {"m": 1}, rates, 0)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50/1m", Rate(50, 60)), ("3/s", Rate(3, 1)), ("10000/1d", Rate(10000, 86400)), (" 5 / 2h ", Rate(5, 7200))],
)
def test_rates_are_read(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate
    assert Rate.parse(str(rate)) == rate


@pytest.mark.parametrize("text", ["", "50", "0/1m", "5/0m", "-1/1m", "5/1y", "5/1m/1m"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a rate"):
        Rate.parse(text)
