"""Buckets: never more than the rate in any window, by a clock that a test moves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

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
    rates, draws = {"second": Rate(100, 1.0), "day": Rate(1, 100.0)}, {"second": 1, "day": 1}
    await buckets.acquire("c", draws, rates, 1000)
    buckets.settle("c", draws, rates, well=True)
    began = clock.at
    await buckets.acquire("c", draws, rates, 1000)
    assert clock.at - began == pytest.approx(100.05)


async def test_credentials_have_budgets_of_their_own() -> None:
    clock = Seconds()
    buckets = Buckets(clock, clock.sleep)
    rates = {"m": Rate(1, 1000.0)}
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


# ── calls under way, closings, patience ─────────────────────────────────────────────────────────────────────────────


def drawn(clock: Seconds, **rates: Rate) -> tuple[Buckets, Callable[..., Awaitable[None]]]:
    """Buckets, and a call of one unit each of ``rates`` that is answered at once."""
    buckets = Buckets(clock, clock.sleep)

    async def call(patience_s: float = 0.0) -> None:
        await buckets.acquire("c", dict.fromkeys(rates, 1), rates, patience_s)
        buckets.settle("c", dict.fromkeys(rates, 1), rates, well=True)

    return buckets, call


def test_a_call_counts_until_a_period_after_its_answer() -> None:
    """It may have reached the vendor as late as that."""
    clock = Seconds()
    bucket = Bucket(Rate(1, 10.0), clock, margin_s=0.0)
    bucket.begin()
    clock.at += 30
    assert bucket.wait_s() == 10
    bucket.end()
    clock.at += 4
    assert bucket.wait_s() == 6


def test_after_a_closing_the_first_call_goes_alone() -> None:
    clock = Seconds()
    bucket = Bucket(Rate(50, 60.0), clock)
    bucket.close(60)
    clock.at += 60
    assert bucket.wait_s() == 0
    bucket.begin()
    assert bucket.wait_s() > 0
    bucket.end()
    assert bucket.wait_s() == 0


async def test_who_waits_for_the_budget_already_heeds_a_closing() -> None:
    clock = Seconds()
    rates = {"m": Rate(1, 10.0)}

    async def sleep(seconds: float) -> None:
        if clock.at == began:
            buckets.close("c", {"m": 1}, rates, 300)
        clock.at += seconds

    buckets, began = Buckets(clock, sleep), clock.at
    await buckets.acquire("c", {"m": 1}, rates, 0)
    buckets.settle("c", {"m": 1}, rates, well=True)
    await buckets.acquire("c", {"m": 1}, rates, 1000)
    assert clock.at - began > 300


async def test_a_period_of_a_short_limit_is_within_any_patience() -> None:
    clock = Seconds()
    _, call = drawn(clock, m=Rate(1, 60.0))
    began = clock.at
    await call()
    await call(patience_s=0.0)
    assert clock.at - began == pytest.approx(60.05)


async def test_a_vendors_closing_is_not_waited_for_beyond_patience() -> None:
    clock = Seconds()
    buckets, call = drawn(clock, m=Rate(50, 60.0))
    buckets.close("c", {"m": 1}, {}, 30)
    with pytest.raises(RateLimited) as caught:
        await call(patience_s=29.0)
    assert (caught.value.ours, caught.value.limit) == (False, "m")


class Ticking(Seconds):
    """As a real clock does, it goes on between two looks at it."""

    def __call__(self) -> float:
        self.at += 1e-6
        return self.at


async def test_a_closing_is_the_vendors_though_time_goes_on_while_it_is_looked_at() -> None:
    """Else it is waited for on the spot, as a period of a short limit of our own is."""
    buckets, call = drawn(Ticking(), m=Rate(50, 60.0))
    buckets.close("c", {"m": 1}, {}, 65)
    with pytest.raises(RateLimited, match="the vendor has closed m") as caught:
        await call(patience_s=60.0)
    assert not caught.value.ours


async def test_the_limit_that_is_used_up_is_named() -> None:
    _, call = drawn(Seconds(), calls=Rate(3, 1.0), day=Rate(1, 86400.0))
    await call()
    with pytest.raises(RateLimited) as caught:
        await call(patience_s=60.0)
    assert (caught.value.ours, caught.value.limit) == (True, "day")


def test_a_changed_rate_begins_with_what_is_drawn() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    buckets.bucket("c", "m", Rate(50, 60.0)).draw()
    assert buckets.bucket("c", "m", Rate(1, 60.0)).wait_s() > 59


# ── limits that the vendor lowers ───────────────────────────────────────────────────────────────────────────────────

FULL, LOW = {"m": Rate(50, 60.0)}, {"m": Rate(1, 60.0)}


def refuse(buckets: Buckets, told_s: float | None, draws: int = 1, full: Mapping[str, Rate] = FULL) -> str:
    """A call is refused after ``draws`` units."""
    for _ in range(draws):
        buckets.bucket("c", "m", full["m"]).draw()
    return buckets.refused("c", {"m": 1}, full, LOW, 3600, told_s)


@pytest.mark.parametrize(
    ("told_s", "draws", "lowers"),
    [
        (60.0, 2, True),
        (30.0, 2, True),
        (29.0, 2, False),  # the rest of a minute whose calls were used up otherwise
        (1200.0, 2, False),  # not of a limit of one a minute
        (60.0, 50, False),  # our own minute is full as well
        (60.0, 45, False),  # and so it may be with the tenth that another process need not have told
        (60.0, 44, True),
    ],
)
def test_a_refusal_lowers_a_limit_where_the_low_one_explains_it(told_s: float, draws: int, lowers: bool) -> None:
    buckets = Buckets(Seconds())
    refuse(buckets, told_s, draws)
    assert buckets.is_low("c", "m") is lowers


def test_a_refusal_that_tells_no_time_lowers_a_limit_when_it_comes_twice() -> None:
    buckets = Buckets(Seconds())
    refuse(buckets, None)
    assert not buckets.is_low("c", "m")
    refuse(buckets, None)
    assert buckets.is_low("c", "m")


def test_an_answer_between_two_such_refusals_is_proof_that_the_limit_is_up() -> None:
    buckets = Buckets(Seconds())
    refuse(buckets, None)
    buckets.settle("c", {"m": 1}, FULL, well=True)
    refuse(buckets, None)
    assert not buckets.is_low("c", "m")


def test_a_lowered_limit_counts_what_is_drawn_already() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 30.0, draws=2)
    assert buckets.bucket("c", "m", FULL["m"]).wait_s() == pytest.approx(60.05)


def test_what_no_longer_counts_for_a_shorter_low_limit_frees_nothing() -> None:
    clock = Seconds()
    bucket = Bucket(Rate(50, 60.0), clock)
    bucket.draw()
    clock.at += 30
    bucket.draw(2)
    bucket.lower(Rate(2, 10.0), 3600)
    assert bucket.wait_s() == pytest.approx(10.05)


def test_the_full_limit_is_tried_again_and_lowered_anew() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 60.0)
    clock.at += 3600
    assert not buckets.is_low("c", "m")
    buckets.bucket("c", "m", FULL["m"]).draw()
    assert buckets.bucket("c", "m", FULL["m"]).wait_s() == 0
    refuse(buckets, 60.0)
    assert buckets.is_low("c", "m")


def test_a_limit_that_is_up_again_is_used_at_once() -> None:
    buckets = Buckets(Seconds())
    refuse(buckets, 60.0)
    buckets.prove("c", "m")
    buckets.raise_again("c", "m")
    assert not buckets.is_proven("c", "m")
    assert buckets.bucket("c", "m", FULL["m"]).wait_s() == 0


def test_what_proves_a_low_limit_holds_as_long_as_that_is_low() -> None:
    clock = Seconds()
    buckets = Buckets(clock)
    refuse(buckets, 60.0)
    assert not buckets.is_proven("c", "m")
    buckets.prove("c", "m")
    assert buckets.is_proven("c", "m")
    clock.at += 3600
    refuse(buckets, 60.0)
    assert not buckets.is_proven("c", "m")


@pytest.mark.parametrize(("told_s", "limit"), [(1.0, "calls"), (None, "calls"), (1200.0, "day"), (9e6, "day")])
def test_a_refusal_is_about_the_limit_that_may_be_full_for_so_long(told_s: float | None, limit: str) -> None:
    rates = {"calls": Rate(3, 1.0), "day": Rate(10_000, 86400.0)}
    assert Buckets(Seconds()).refused("c", {"calls": 1, "day": 1}, rates, {}, 0, told_s) == limit
