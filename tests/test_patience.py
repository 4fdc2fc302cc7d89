"""How a call waits: its run's slot is others' meanwhile, nothing is asked early, and nothing after our lease."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from syncd.errors import LeaseLost, RateLimited, Transient
from syncd.http import Link
from syncd.limits import Buckets, Rate
from syncd.patience import Patience


class Place:
    """A slot that notes what is done with it, and what the run hears of its waits."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.is_lent = False

    def lend(self) -> None:
        self.is_lent = True
        self.events.append("lent")

    async def regain(self) -> None:
        if self.is_lent:
            self.events.append("back")
        self.is_lent = False

    async def hear(self, limit: str, seconds: float) -> None:
        self.events.append(f"waits for {limit or 'a retry'}" if seconds else "goes on")


Attempt = Callable[[], Awaitable[str]]


@pytest.fixture
def place() -> Place:
    return Place()


@pytest_asyncio.fixture
async def link(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Link]]:
    """Links for which five seconds are as long as a tenth of one."""
    monkeypatch.setattr("syncd.patience.LONG_S", 0.1)
    monkeypatch.setattr("syncd.patience._FIRST_WAIT_S", 0.2)

    def make(**changes: Any) -> Link:
        known: dict[str, Any] = {"source": "slack", "credential": "c", "net": None, "credentials": {"token": "t"}}
        known |= {"buckets": Buckets(), "save": None, "slot": place, "on_wait": place.hear, "patience_s": 5.0}
        return Link(**known | changes)

    yield make


def answering(*steps: Exception | float | str) -> Attempt:
    """Raises, takes so long, or answers: one step an attempt."""
    left = list(steps)

    async def attempt() -> str:
        step = left.pop(0) if left else "well"
        if isinstance(step, Exception):
            raise step
        if isinstance(step, float):
            await asyncio.sleep(step)
        return "well"

    return attempt


LENT_FOR_A_WHILE = ["lent", "back"]


async def test_while_a_call_waits_for_its_limit_its_slot_is_others(link: Callable[..., Link], place: Place) -> None:
    mine = link(rates={"method": Rate(1, 0.2)})
    for _ in range(2):
        await mine.call("method", answering())
    assert place.events == ["waits for method", *LENT_FOR_A_WHILE, "goes on"]


async def test_while_a_call_waits_for_its_retry_its_slot_is_others(link: Callable[..., Link], place: Place) -> None:
    await link().call("method", answering(Transient("HTTP 503")))
    assert place.events == ["waits for a retry", *LENT_FOR_A_WHILE, "goes on"]


async def test_a_short_wait_keeps_the_slot(link: Callable[..., Link], place: Place) -> None:
    mine = link(rates={"method": Rate(1, 0.001)})
    for _ in range(2):
        await mine.call("method", answering())
    assert place.events == []


async def test_while_an_answer_is_slow_its_slot_is_others(link: Callable[..., Link], place: Place) -> None:
    await link().call("method", answering(0.2))
    assert place.events == LENT_FOR_A_WHILE


async def test_a_slow_call_that_fails_takes_its_slot_back(link: Callable[..., Link], place: Place) -> None:
    async def attempt() -> None:
        await asyncio.sleep(0.2)
        raise Transient("HTTP 503")

    with pytest.raises(Transient):
        await link(patience_s=0.0).call("method", attempt)
    assert place.events == LENT_FOR_A_WHILE


@pytest.mark.parametrize("steps", [(9.0,), (Transient("HTTP 503"),)], ids=["slow", "retry"])
async def test_a_call_that_is_cut_takes_no_slot_back(
    link: Callable[..., Link], place: Place, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncd.patience._FIRST_WAIT_S", 3.0)
    calling = asyncio.create_task(link().call("method", answering(*steps)))
    while "lent" not in place.events:
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    assert "back" not in place.events


async def test_waiting_for_the_budget_first_uses_up_no_patience() -> None:
    patience = Patience(10.0)
    async with patience.paced("m", 0.0):
        await asyncio.sleep(0.05)
    assert patience.left_s() > 9.99
    await patience.answered(answering()())
    async with patience.paced("m", 0.0):
        await asyncio.sleep(0.05)
    assert patience.left_s() < 9.96


async def test_waiting_for_a_slot_uses_up_no_patience() -> None:
    class Crowded(Place):
        async def regain(self) -> None:
            await asyncio.sleep(0.05)

    patience = Patience(10.0, Crowded())
    await patience.leave("m", 60.0)
    await patience.back()
    assert patience.left_s() > 9.99


async def test_nothing_is_asked_once_the_lease_may_be_anothers(link: Callable[..., Link]) -> None:
    asked = 0

    def owned() -> None:
        if asked:
            raise LeaseLost

    async def attempt() -> None:
        nonlocal asked
        asked += 1
        raise Transient("HTTP 503")

    mine = link(owned=owned)
    with pytest.raises(LeaseLost):
        await mine.call("method", attempt)
    assert (asked, mine.calls) == (1, 1)


async def test_a_call_that_was_not_sent_draws_nothing_for_good(link: Callable[..., Link]) -> None:
    """Of what is under way it would be left for ever."""

    def owned() -> None:
        raise LeaseLost

    mine = link(owned=owned, rates={"method": Rate(1, 0.01)})
    for _ in range(2):
        with pytest.raises(LeaseLost):
            await mine.call("method", answering())


async def test_a_token_is_renewed_before_the_calls_turn_comes(link: Callable[..., Link]) -> None:
    """In between, the unit would be drawn long before the call arrives."""
    stored: list[Mapping[str, Any]] = []

    async def save(renewed: Mapping[str, Any]) -> None:
        stored.append(renewed)

    async def refresh() -> Mapping[str, Any]:
        return {"access_token": "new"}

    expired = {"access_token": "old", "expires_at": (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    mine = link(credentials=expired, save=save, refresh=refresh, rates={"method": Rate(1, 7200.0)})
    mine.buckets.bucket("c", "method", Rate(1, 7200.0)).draw()
    with pytest.raises(RateLimited):
        await mine.call("method", answering())
    assert [one["access_token"] for one in stored] == ["new"]


async def test_a_refusal_names_its_limit_and_lowers_it(link: Callable[..., Link]) -> None:
    mine = link(rates={"method": Rate(50, 60.0)}, low_rates={"method": Rate(1, 60.0)}, low_for_s=600.0)
    with pytest.raises(RateLimited) as caught:
        await mine.call("method", answering(RateLimited("HTTP 429", retry_after_s=58.0)))
    assert (caught.value.limit, mine.is_low("method")) == ("method", True)


async def test_a_refusal_that_tells_no_time_closes_the_limit_for_others_too(link: Callable[..., Link]) -> None:
    mine = link(patience_s=0.0)
    with pytest.raises(RateLimited):
        await mine.call("method", answering(RateLimited("HTTP 429")))
    assert 0 < mine.buckets.bucket("c", "method", Rate(50, 60.0)).closed_s() < 0.3


async def test_a_limit_that_cannot_be_low_is_not_proven_so(link: Callable[..., Link]) -> None:
    mine = link(low_rates={"method": Rate(1, 60.0)}, low_for_s=600.0)
    assert (mine.prove_low("other"), mine.prove_low("method")) == (False, True)
    assert (mine.is_low("other"), mine.is_proven_low("method")) == (False, True)


# ── a call within a call: the token's renewal ───────────────────────────────────────────────────────────────────────


async def test_new_tokens_are_stored_before_the_slot_is_taken_back(link: Callable[..., Link], place: Place) -> None:
    """They are here, and nobody else has them: they must not wait for a place."""

    async def save(renewed: Mapping[str, Any]) -> None:
        place.events.append("stored")

    async def refresh() -> Mapping[str, Any]:
        await mine.call("token", answering(0.2), renews=False)
        return {"access_token": "new"}

    async def attempt() -> None:
        place.events.append("asked")

    mine = link(credentials={"refresh_token": "r"}, save=save, refresh=refresh)
    await mine.call("method", attempt)
    assert place.events == ["lent", "stored", "back", "asked"]


@pytest.mark.parametrize(
    "refused",
    [RateLimited("HTTP 429", retry_after_s=60.0), Transient("HTTP 503", retry_after_s=60.0)],
    ids=["429", "503"],
)
@pytest.mark.parametrize("asked_before", [False, True], ids=["refused", "closed"])
async def test_what_refuses_a_renewal_closes_nothing_of_the_call_that_needed_it(
    link: Callable[..., Link], refused: Exception, asked_before: bool
) -> None:
    """The token's last minutes may begin while the call waits for its turn: then the attempt renews it."""
    at = [datetime.now(UTC)]

    async def refresh() -> Any:
        return await mine.call("token", answering(refused), renews=False)

    async def attempt() -> str:
        at[0] += timedelta(minutes=2)
        return await mine.access_token()

    known = {"access_token": "a", "expires_at": (at[0] + timedelta(minutes=3)).isoformat()}
    mine = link(
        credentials=known, refresh=refresh, now=lambda: at[0], low_rates={"method": Rate(1, 60.0)}, low_for_s=600.0,
        rates={"method": Rate(50, 60.0)},
    )  # fmt: skip
    if asked_before:
        mine.buckets.close("c", {"token": 1}, {}, 60.0)
    with pytest.raises((RateLimited, Transient)):
        await mine.call("method", attempt)
    bucket = mine.buckets.bucket("c", "method", Rate(50, 60.0))
    assert (bucket.closed_s(), mine.is_low("method")) == (0.0, False)
    assert mine.buckets.bucket("c", "token", Rate(50, 60.0)).closed_s() > 0


# ── a passing fault that says for how long ──────────────────────────────────────────────────────────────────────────


async def test_a_passing_fault_that_tells_a_time_closes_the_limit_and_lowers_none(link: Callable[..., Link]) -> None:
    mine = link(rates={"method": Rate(50, 60.0)}, low_rates={"method": Rate(1, 60.0)}, low_for_s=600.0)
    with pytest.raises(Transient):
        await mine.call("method", answering(Transient("HTTP 503", retry_after_s=58.0)))
    assert (mine.calls, mine.is_low("method")) == (1, False)
    assert mine.buckets.bucket("c", "method", Rate(50, 60.0)).closed_s() == pytest.approx(58, abs=1)
