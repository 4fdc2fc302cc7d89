"""How fast we may ask: one bucket per credential and limit, shared by all that runs in the process.

What a single bucket does is in `bucket`; here is whose it is, how long a call may wait for it, what a vendor's refusal
does to it, and what of it outlives the process.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from contextlib import AbstractAsyncContextManager, nullcontext
from itertools import islice
from typing import TYPE_CHECKING

from syncd.bucket import ALONE_S, LONG_S, MARGIN_S, Bucket, Budget, Counted, Grant, Rate
from syncd.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    Reserve = Callable[[str, str, Rate, int], Awaitable[Grant]]
    Around = Callable[[str, float], AbstractAsyncContextManager[None]]

__all__ = ["Bucket", "Buckets", "Budget", "Rate"]

_PACED_S, _PACED_MORE_S = 120.0, 10.0  # one period of a limit of up to so long, and a bit more, may always be waited
_PACED_PERIODS = 5  # of an app's limit, for which many connections wait at once
_FORGOTTEN_AT_ONCE = 2
_UNLIMITED = Rate(1_000_000_000, 1.0)
_OF_APP = "/app/"


def app_budget(source: str, client_id: str) -> str:
    """Names the budget of an OAuth app. Several processes draw on it at once: the database counts it."""
    return f"{source}{_OF_APP}{hashlib.blake2b(client_id.encode(), digest_size=12).hexdigest()}"


class Buckets:
    """The process's buckets, by credential and limit.

    ``reserve``: grants units of a limit that is long or an app's: (credential, limit, rate, units) → `Grant`. None:
    these too are counted in the process alone.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        reserve: Reserve | None = None,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._reserve = reserve
        self._me = uuid.uuid4().hex[:12]
        self._buckets: dict[str, dict[str, Bucket]] = {}

    def bucket(self, credential: str, limit: str, rate: Rate) -> Bucket:
        held = self._buckets.get(credential)
        if held is None:
            self._forget()
            held = self._buckets[credential] = {}
        shared = self._reserve is not None and (rate.per_s >= LONG_S or _OF_APP in credential)
        kind = Counted if shared and rate is not _UNLIMITED else Bucket
        bucket = held.get(limit)
        if bucket is None or type(bucket) is not kind:
            bucket = held[limit] = kind(rate, self._clock)
        bucket.rate = rate  # a changed one begins with what is drawn
        return bucket

    def _forget(self) -> None:
        """Drop what says nothing any more of the credentials that were looked at longest ago.

        Two for each that comes: so there are about as many as were used lately, and no step is a long one.
        """
        for credential in list(islice(self._buckets, _FORGOTTEN_AT_ONCE)):
            held = self._buckets.pop(credential)
            kept = {limit: bucket for limit, bucket in held.items() if not bucket.is_idle()}
            if kept:
                self._buckets[credential] = kept  # at the end

    async def acquire(
        self,
        credential: str,
        draws: Mapping[str, int],
        rates: Mapping[str, Rate],
        patience_s: float,
        around: Around = lambda *_: nullcontext(),
    ) -> None:
        """Wait until all of ``draws`` (limit → units) may be drawn together, then draw them: for one call, after which
        `settle` is due.

        A limit without a rate is only ever closed by the vendor. ``around``: entered for each wait, with the limit and
        the seconds. Raises `RateLimited` at once when the wait would exceed ``patience_s``; a period of a short limit
        is within patience, however short that is: else nothing would ever be asked at one call a minute.
        """
        waited = 0.0
        while True:
            wanted = [
                (limit, self.bucket(credential, limit, _rate(rates, limit)), cost) for limit, cost in draws.items()
            ]
            closed = max((bucket.closed_s() for _, bucket, _ in wanted), default=0.0)  # first: time goes on
            wait, limit = max(((bucket.wait_s(cost), limit) for limit, bucket, cost in wanted), default=(0.0, ""))
            if wait > 0:
                ours = wait > closed
                reach = max(patience_s, *(_paced_s(bucket) for _, bucket, _ in wanted)) if ours else patience_s
                if waited + wait > reach:
                    why = f"our budget for {limit} is used up" if ours else f"the vendor has closed {limit} for a while"
                    raise RateLimited(why, retry_after_s=wait, ours=ours, limit=limit)
                waited += wait
                async with around(limit, wait):
                    await self._sleep(wait)
            elif not await self._was_granted(credential, wanted):
                break
        for _, bucket, cost in wanted:
            bucket.begin(cost)

    async def _was_granted(self, credential: str, wanted: Sequence[tuple[str, Bucket, int]]) -> bool:
        """Ask the database for what is lacking of long limits; answers whether time passed by it."""
        asked = False
        for limit, bucket, cost in wanted:
            if isinstance(bucket, Counted) and self._reserve is not None and bucket.lacks(cost):
                asked = True
                async with bucket.asking:
                    if lacking := bucket.lacks(cost):
                        bucket.grant(await self._reserve(credential, limit, bucket.rate, lacking))
        return asked

    def settle(self, credential: str, draws: Mapping[str, int], rates: Mapping[str, Rate], *, well: bool) -> None:
        """The call that drew these was answered, ``well`` or not."""
        for limit, cost in draws.items():
            bucket = self.bucket(credential, limit, _rate(rates, limit))
            bucket.end(cost)
            bucket.bare = 0 if well else bucket.bare

    # ── what the vendor says ────────────────────────────────────────────────────────────────────────────────────────

    def close(self, credential: str, draws: Mapping[str, int], rates: Mapping[str, Rate], seconds: float) -> None:
        """The vendor said ``Retry-After``: close every bucket that the refused call drew from."""
        for limit in draws:
            self.bucket(credential, limit, _rate(rates, limit)).close(seconds + MARGIN_S)

    def refused(
        self,
        credential: str,
        draws: Mapping[str, int],
        rates: Mapping[str, Rate],
        lows: Mapping[str, Rate],
        low_for_s: float,
        told_s: float | None,
    ) -> str:
        """A call was one too many for the vendor, though not for us: lower what may be. Answers the limit it is about.

        ``told_s``: its Retry-After. The low rate's are of about its period; one much longer is another matter. One that
        is not told means it only twice in a row: a single one may be a proxy's.
        """
        about = _about(draws, rates, told_s)
        for limit in draws:
            bucket, low = self.bucket(credential, limit, _rate(rates, limit)), lows.get(limit)
            bucket.bare = bucket.bare + 1 if told_s is None else 0
            meant = bucket.bare > 1 if told_s is None else low and low.per_s / 2 <= told_s <= low.per_s * 2
            if low is not None and meant and bucket.has_room() and not bucket.low_s():
                self.lower(credential, limit, low, low_for_s)
                about = limit
        return about

    def lower(self, credential: str, limit: str, rate: Rate, seconds: float) -> None:
        """The vendor has lowered ``limit``: ``rate`` holds for ``seconds``, then the full one is tried again."""
        bucket = self._buckets.setdefault(credential, {}).setdefault(limit, Bucket(_UNLIMITED, self._clock))
        bucket.lower(rate, seconds)
        bucket.untold_low = True

    def raise_again(self, credential: str, limit: str) -> None:
        """The limit is up again: the vendor answered as it does not while it is low."""
        if self.is_low(credential, limit):
            self.lower(credential, limit, self._buckets[credential][limit].rate, 0.0)

    def is_low(self, credential: str, limit: str) -> bool:
        bucket = self._buckets.get(credential, {}).get(limit)
        return bucket is not None and bucket.low_s() > 0

    def prove(self, credential: str, limit: str) -> None:
        """For as long as it is low now, it is known to be: not taken from a refusal alone."""
        if self.is_low(credential, limit):
            self._buckets[credential][limit].prove()

    def is_proven(self, credential: str, limit: str) -> bool:
        return self.is_low(credential, limit) and self._buckets[credential][limit].is_proven()

    # ── what outlives the process ───────────────────────────────────────────────────────────────────────────────────

    def state(self, credential: str) -> list[Budget]:
        """What the database does not know yet; once it does, `saved` is due."""
        held = self._buckets.get(credential, {}).items()
        return [budget for limit, bucket in held if (budget := bucket.budget(limit, self._me))]

    def saved(self, credential: str, budgets: Iterable[Budget]) -> None:
        held = self._buckets.get(credential, {})
        for budget in budgets:
            if budget.name in held:  # what was told may say nothing any more by now
                held[budget.name].told()

    def restore(
        self, credential: str, budgets: Iterable[Budget], rates: Mapping[str, Rate], lows: Mapping[str, Rate]
    ) -> None:
        """Take in what other processes, or this one before it was started anew, have found out."""
        for budget in budgets:
            self.bucket(credential, budget.name, _rate(rates, budget.name)).learn(
                budget, lows.get(budget.name), self._me
            )


def _rate(rates: Mapping[str, Rate], limit: str) -> Rate:
    return rates.get(limit, _UNLIMITED)


def _paced_s(bucket: Bucket) -> float:
    """How long a wait for our own pacing may always be."""
    per = bucket.in_force.per_s
    if per > _PACED_S:
        return ALONE_S
    return per * (_PACED_PERIODS if isinstance(bucket, Counted) else 1) + _PACED_MORE_S


def _about(draws: Mapping[str, int], rates: Mapping[str, Rate], told_s: float | None) -> str:
    """The limit that a refusal is about: the shortest that may be full for so long, of equal ones the last."""
    pers = {limit: _rate(rates, limit).per_s for limit in draws}
    fitting = [per for per in pers.values() if told_s is None or 2 * per >= told_s] or [max(pers.values(), default=0)]
    return next((limit for limit in reversed(pers) if pers[limit] == min(fitting)), "")
